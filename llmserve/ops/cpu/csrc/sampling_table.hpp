// What a row of logits is sampled with, and what comes of it: plain data that every instruction set's code shares.
//
// No function is defined here: this header is read by objects compiled for different instruction sets, and the linker
// keeps whichever copy of an inline function it meets first. Knows nothing of requests, seeds or threads.
#pragma once

#include <cstddef>
#include <cstdint>

namespace llmserve {

// One row of logits and what to do with it. A work item: rows share nothing and can go to any threads in any order.
struct SampleArgs {
    const float* logits;  // [vocab], left as they are
    int32_t vocab;        // at least 1
    double temperature;   // 0: the largest logit, and of equal ones the lowest id
    int32_t top_k;        // 0: off
    double top_p;         // in (0, 1]; 1: off
    double u;             // in [0, 1): where the distribution is inverted
    const int32_t* banned;  // [num_banned] ids that cannot be drawn; those outside the vocabulary mean nothing
    int32_t num_banned;
    int32_t given;        // the token, where it is not to be chosen and only told about; -1: choose one
    int32_t num_top;      // alternatives wanted beside the token's log probability; -1: not even that
    int32_t* top_ids;     // room for min(num_top, vocab) of each
    float* top_logprobs;
};

struct SampleResult {
    int32_t token;    // -1: the row holds a NaN or an infinity, and nothing else below is set
    float logprob;    // of the token under the model itself: before temperature, bans and filters
    int32_t rank;     // the token's, from 1, by falling logit and of equal ones by rising id
    int32_t num_top;  // how many alternatives were written, likeliest first and of equal ones the lowest id first
};

// The kernels of one instruction set. An object compiled for the set <isa> includes sampling.hpp with LLMSERVE_ISA
// set to that name and, in namespace llmserve, defines
//     extern const SamplingTable sampling_<isa> = <isa>::sampling::table;
struct SamplingTable {
    const char* name;
    // Bytes of scratch memory, aligned to 64, that a call needs; it keeps nothing there from call to call.
    size_t (*scratch_bytes)(int32_t vocab);
    void (*sample)(const SampleArgs& args, SampleResult& result, void* scratch);
};

extern const SamplingTable sampling_portable;
#if defined(__x86_64__)
extern const SamplingTable sampling_avx2, sampling_avx512, sampling_avx512_bf16;
#endif

// Row after row. The loop that a thread pool takes over: each of its threads needs scratch of its own.
void sample_rows(const SamplingTable& table, const SampleArgs* args, SampleResult* results, size_t rows, void* scratch);

}  // namespace llmserve
