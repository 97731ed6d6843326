// What a row of logits is sampled with, and what comes of it: plain data that every instruction set's code shares.
//
// No function is defined here: this header is read by objects compiled for different instruction sets, and the linker
// keeps whichever copy of an inline function it meets first. Knows nothing of requests, seeds or threads.
#pragma once

#include <cstddef>
#include <cstdint>

namespace llmserve {

// What a request makes of its row before anything is drawn from it; see sampling_edits.hpp. Ids outside the vocabulary mean
// nothing.
struct RowEdits {
    const uint32_t* allowed;  // [(vocab + 31) / 32] bit i % 32 of word i / 32: whether token i can be drawn; null: any
    const int32_t* banned;    // [num_banned] that cannot be drawn
    const int32_t* biased;    // [num_biased] whose logits get the biases added
    const float* biases;
    const int32_t* seen;  // [num_seen] in the prompt or the answer so far, none twice
    const int32_t* counts;  // [num_seen] how often in the answer
    int32_t num_banned, num_biased, num_seen;
    float repetition, frequency, presence;  // 1, 0, 0: off
};

// One row of logits and what to do with it. A work item: rows share nothing and can go to any threads in any order.
struct SampleArgs {
    const float* logits;  // [vocab], left as they are
    int32_t vocab;        // at least 1
    double temperature;   // 0: the largest logit, and of equal ones the lowest id
    int32_t top_k;        // 0: off
    double top_p;         // in (0, 1]; 1: off
    double min_p;         // in [0, 1]: tokens less likely than this times the likeliest are not drawn; 0: off
    double u;             // in [0, 1): where the distribution is inverted
    const RowEdits* edits;  // null: none, and then the row is not even copied
    int32_t given;        // the token, where it is not to be chosen and only told about; -1: choose one
    int32_t num_top;      // alternatives wanted beside the token's log probability; -1: not even that
    int32_t* top_ids;     // room for min(num_top, vocab) of each
    float* top_logprobs;
};

constexpr int32_t kNotNumbers = -1;  // in place of a token: the row holds a NaN or an infinity
constexpr int32_t kNoToken = -2;     // in place of a token: the edits leave none

struct SampleResult {
    int32_t token;    // below 0 nothing else is set
    float logprob;    // of the token under the model itself: before edits, temperature and filters
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

}  // namespace llmserve
