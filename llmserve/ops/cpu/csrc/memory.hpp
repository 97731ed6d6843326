// Zeroed memory from the system, given out to be used as buffers; pages cost nothing until they are written.
#pragma once

#include <cstddef>
#include <cstdint>

namespace llmserve {

class Memory {
  public:
    Memory() = default;
    ~Memory();
    Memory(Memory&& other) noexcept;
    Memory(const Memory&) = delete;
    Memory& operator=(const Memory&) = delete;
    // Makes it at least this big. What was in it is lost.
    uint8_t* reserve(size_t bytes);
    uint8_t* data() const { return data_; }

  private:
    uint8_t* data_ = nullptr;
    size_t bytes_ = 0;
};

}  // namespace llmserve
