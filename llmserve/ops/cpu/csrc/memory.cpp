#include "memory.hpp"

#include <sys/mman.h>

#include <new>

namespace llmserve {

Memory::~Memory() {
    if (data_) munmap(data_, bytes_);
}

Memory::Memory(Memory&& other) noexcept : data_(other.data_), bytes_(other.bytes_) {
    other.data_ = nullptr;
    other.bytes_ = 0;
}

uint8_t* Memory::reserve(size_t bytes) {
    if (bytes <= bytes_ && data_) return data_;
    if (data_) munmap(data_, bytes_);
    data_ = nullptr;
    bytes = (bytes + 4096) / 4096 * 4096;
    void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    data_ = (uint8_t*)p;
    bytes_ = bytes;
    return data_;
}

}  // namespace llmserve
