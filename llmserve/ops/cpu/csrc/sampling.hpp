// One row of logits to one token: the request's edits of the row, temperature, min-p, top-k, top-p, and the inverse of the
// distribution at u.
//
// The oracle is `llmserve.runtime.sampler` in torch. As there, weights are e^((logit - max) / temperature) in fp64; the
// token is the oracle's unless u · total or top_p · total comes within 1e-12 of the total of a boundary between two
// tokens, or a weight that near to min_p, which is where rounding decides. Equal logits are ordered lowest id first,
// everywhere. A token weighing less than e^-60 of the likeliest weighs nothing: a sum of doubles would not notice it.
//
// Tokens are the same on every instruction set. Log probabilities are fp32 and differ in their last bits.
// Knows nothing of requests, seeds or threads. Calls nothing from the standard library that could be linked from an
// object made for another instruction set.
#pragma once

#include "sampling_draw.hpp"
#include "sampling_edits.hpp"
#include "sampling_order.hpp"
#include "sampling_table.hpp"
#include "sampling_weights.hpp"

namespace llmserve {
namespace LLMSERVE_ISA {
namespace sampling {

// log Σ e^logit. fp32 within a block, fp64 across.
inline double log_sum_exp(const float* row, int32_t vocab, float max) {
    double total = 0;
    const F top = splat(max);
    for (int32_t from = 0; from < vocab; from += kBlock) {
        F sum = zero();
        int32_t to = vocab - from < kBlock ? vocab : from + kBlock;
        for_vectors(row, from, to, [&](const float* p, int32_t) { sum = sum + exp(load(p) - top); });
        total += reduce_add(sum);
    }
    return max + __builtin_log(total);
}

// From 1: how many logits are larger, or equal with a lower id, and one.
inline int32_t rank_of(const float* row, int32_t vocab, int32_t token) {
    const F own = splat(row[token]);
    int32_t rank = 1;
    for_vectors(row, 0, token, [&](const float* p, int32_t) { rank += __builtin_popcount(mask_ge(load(p), own)); });
    for_vectors(row, token + 1, vocab, [&](const float* p, int32_t) {
        rank += kLanes - __builtin_popcount(mask_ge(own, load(p)));
    });
    return rank;
}

// `s.groups` are the row's.
inline void logprobs(const SampleArgs& a, float max, SampleResult& result, Scratch& s) {
    const double log_total = log_sum_exp(a.logits, a.vocab, max);
    result.logprob = (float)(a.logits[result.token] - log_total);
    result.rank = rank_of(a.logits, a.vocab, result.token);
    result.num_top = a.num_top < a.vocab ? a.num_top : a.vocab;
    if (result.num_top == 0) return;
    largest(a.logits, a.vocab, result.num_top, max, s);
    for (int32_t i = 0; i < result.num_top; i++) {
        a.top_ids[i] = id_of(s.keys[i]);
        a.top_logprobs[i] = (float)(logit_of(s.keys[i]) - log_total);
    }
}

// kNoToken where the edits leave none. `s.groups` are the row's, and afterwards those of the row as it was edited.
inline int32_t choose(const SampleArgs& a, const Extent& extent, Scratch& s) {
    const float* row = a.logits;
    Extent left = extent;
    if (a.edits) {
        edit(row, a.vocab, *a.edits, s.row);
        row = s.row;
        left = scan(row, a.vocab, s.groups);
        if (left.max == kNone) return kNoToken;
    }
    if (a.temperature == 0) return first_of(left.max, row, a.vocab, s.groups);
    const Scale scale = scale_of(left.max, a.temperature, a.min_p);
    if (a.top_k > 0 && a.top_k < a.vocab) return draw_of_few(row, a, scale, s);
    if (a.top_p < 1) return draw_of_most(row, a, scale, left.min, s);
    return draw_of_all(row, a, scale, s);
}

inline void sample(const SampleArgs& a, SampleResult& result, void* scratch) {
    Scratch s = scratch_at((char*)scratch, a.vocab);
    const Extent extent = scan(a.logits, a.vocab, s.groups);
    result = {kNotNumbers, 0, 0, 0};
    if (!extent.finite) return;
    result.token = a.given < 0 ? choose(a, extent, s) : a.given;
    if (a.num_top < 0 || result.token < 0) return;
    if (a.given < 0 && a.edits) scan(a.logits, a.vocab, s.groups);
    logprobs(a, extent.max, result, s);
}

#define LLMSERVE_STRING_(x) #x
#define LLMSERVE_STRING(x) LLMSERVE_STRING_(x)
constexpr SamplingTable table = {LLMSERVE_STRING(LLMSERVE_ISA), scratch_bytes, sample};
#undef LLMSERVE_STRING
#undef LLMSERVE_STRING_

}  // namespace sampling
}  // namespace LLMSERVE_ISA
}  // namespace llmserve
