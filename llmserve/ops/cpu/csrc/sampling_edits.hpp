// What a request forbids, favours and penalises, made of its row before anything is drawn from it.
//
// In vLLM's order: tokens that cannot be chosen, biases, then the penalties of repetition, frequency and presence. All in
// fp32, each operation rounded, so that the row is the oracle's bit for bit. The cost is a copy of the row and a step for
// each token that is named.
#pragma once

#include <cfloat>
#include <cstring>

#include "sampling_order.hpp"
#include "sampling_table.hpp"

namespace llmserve {
namespace LLMSERVE_ISA {
namespace sampling {

// out [vocab]: the logits of what is allowed, and kNone. Words of 32 tokens that are alike are most of a mask.
inline void copy_allowed(const float* row, int32_t vocab, const uint32_t* allowed, float* out) {
    for (int32_t from = 0; from < vocab; from += 32) {
        const uint32_t word = allowed[from / 32];
        const int32_t n = vocab - from < 32 ? vocab - from : 32;
        if (word == 0) {
            for (int32_t i = 0; i < n; i++) out[from + i] = kNone;
        } else if (word == ~0u) {
            std::memcpy(out + from, row + from, (size_t)n * sizeof *row);
        } else {
            for (int32_t i = 0; i < n; i++) out[from + i] = word >> i & 1 ? row[from + i] : kNone;
        }
    }
}

// The smallest and largest number stay numbers, whatever is made of them.
SIMD float as_number(float x) { return x > FLT_MAX ? FLT_MAX : x < -FLT_MAX ? -FLT_MAX : x; }

inline void edit(const float* row, int32_t vocab, const RowEdits& e, float* out) {
    if (e.allowed)
        copy_allowed(row, vocab, e.allowed, out);
    else
        std::memcpy(out, row, (size_t)vocab * sizeof *row);
    const auto is_token = [&](int32_t id) { return id >= 0 && id < vocab; };
    for (int32_t i = 0; i < e.num_banned; i++)
        if (is_token(e.banned[i])) out[e.banned[i]] = kNone;
    for (int32_t i = 0; i < e.num_biased; i++)
        if (const int32_t id = e.biased[i]; is_token(id) && out[id] != kNone) out[id] = as_number(out[id] + e.biases[i]);
    for (int32_t i = 0; i < e.num_seen; i++) {
        const int32_t id = e.seen[i], count = e.counts[i];
        if (!is_token(id) || out[id] == kNone) continue;
        float x = out[id];
        x = x > 0 ? x / e.repetition : x * e.repetition;
        x = x - e.frequency * (float)count;
        if (count > 0) x = x - e.presence;
        out[id] = as_number(x);
    }
}

}  // namespace sampling
}  // namespace LLMSERVE_ISA
}  // namespace llmserve
