// The sampling kernels of an instruction set on the threads of a rank: rows of logits to tokens.
//
// Rows share nothing, so which thread takes which changes nothing but the time. Knows nothing of requests or seeds.
#pragma once

#include <cstdlib>
#include <memory>
#include <vector>

#include "pool.hpp"
#include "sampling_table.hpp"

namespace llmserve {

class RowSampler {
  public:
    // `pool`: whose threads share the rows, while they have nothing else to do; none: the caller takes them all.
    RowSampler(const SamplingTable& table, std::shared_ptr<Pool> pool);
    RowSampler(const RowSampler&) = delete;

    // results[i] of args[i], i < rows, all of `vocab` logits. One call at a time. std::bad_alloc without memory.
    void sample(const SampleArgs* args, SampleResult* results, size_t rows, int32_t vocab);

  private:
    const SamplingTable& table_;
    const std::shared_ptr<Pool> pool_;
    struct Free {
        void operator()(void* p) const { std::free(p); }
    };
    std::vector<std::unique_ptr<void, Free>> scratch_;  // of each thread, to the byte, so that a sanitizer sees its end
    size_t scratch_bytes_ = 0;
};

}  // namespace llmserve
