// A row read through and put in order: its extremes, its groups' maxima, its largest logits, sorted.
//
// Equal logits are ordered lowest id first, everywhere.
#pragma once

#include <cstddef>
#include <cstdint>

#include "simd.hpp"

namespace llmserve {
namespace LLMSERVE_ISA {
namespace sampling {

constexpr int kBlock = 1024;  // logits a row of group maxima stands for
constexpr int kBuckets = 2048;
constexpr int kDigitBits = 11, kDigits = 1 << kDigitBits;

// -------------------------------------------------------------------------------------------------------- scratch

struct Scratch {
    float* row;       // [vocab], in whole vectors: the logits without the banned ones
    float* groups;    // [blocks, 16]: of each block, the maximum of every 16th logit
    double* sums;     // [blocks]
    double* buckets;  // [2, kBuckets]
    uint32_t* counts;  // [3, kDigits]
    uint64_t *keys, *spare;  // [vocab]
    double* cumulative;      // [vocab]
    size_t bytes;
};

SIMD int32_t blocks_of(int32_t vocab) { return (vocab + kBlock - 1) / kBlock; }

inline Scratch scratch_at(char* base, int32_t vocab) {
    Scratch s;
    size_t at = 0, n = (size_t)vocab, blocks = (size_t)blocks_of(vocab);
    auto take = [&](size_t bytes) {
        size_t here = at;
        at += (bytes + 63) / 64 * 64;
        return base ? base + here : nullptr;
    };
    s.row = (float*)take(n * 4);
    s.groups = (float*)take(blocks * kLanes * 4);
    s.sums = (double*)take(blocks * 8);
    s.buckets = (double*)take(2 * kBuckets * 8);
    s.counts = (uint32_t*)take(3 * kDigits * 4);
    s.keys = (uint64_t*)take(n * 8);
    s.spare = (uint64_t*)take(n * 8);
    s.cumulative = (double*)take(n * 8);
    s.bytes = at;
    return s;
}

inline size_t scratch_bytes(int32_t vocab) { return scratch_at(nullptr, vocab).bytes; }

// ------------------------------------------------------------------------------------------------------- scanning

constexpr float kNone = -__builtin_inff();

// The row's last, incomplete vector, filled up with what is never chosen.
SIMD void copy_tail(float* out, const float* row, int32_t from, int32_t vocab) {
    for (int i = 0; i < kLanes; i++) out[i] = from + i < vocab ? row[from + i] : kNone;
}

// Body(logits of 16 ids, the first id) over [from, to); beyond `to` a last, incomplete vector is filled up with kNone.
template <class Body> SIMD void for_vectors(const float* row, int32_t from, int32_t to, Body body) {
    int32_t i = from;
    for (; i + kLanes <= to; i += kLanes) body(row + i, i);
    if (i < to) {
        float tail[kLanes];
        copy_tail(tail, row, i, to);
        body(tail, i);
    }
}

struct Extent {
    float max, min;
    bool finite;
};

// One pass: the extremes, the groups' maxima, and whether all are numbers (x · 0 is 0 for those and NaN for others).
inline Extent scan(const float* row, int32_t vocab, float* groups) {
    F high = splat(kNone), low = splat(-kNone), nothing = zero(), nothing2 = zero();
    for (int32_t from = 0, b = 0; from < vocab; from += kBlock, b++) {
        int32_t to = vocab - from < kBlock ? vocab : from + kBlock, i = from;
        F best = splat(kNone), best2 = best, low2 = low;
        for (; i + 2 * kLanes <= to; i += 2 * kLanes) {
            F x = load(row + i), y = load(row + i + kLanes);
            best = max(best, x), best2 = max(best2, y);
            low = min(low, x), low2 = min(low2, y);
            nothing = fma(x, zero(), nothing), nothing2 = fma(y, zero(), nothing2);
        }
        for (; i < to; i += kLanes) {
            float tail[kLanes];
            copy_tail(tail, row, i, to);
            best = max(best, load(tail));
            for (int k = 0; k < kLanes; k++) tail[k] = i + k < to ? tail[k] : row[i];
            low = min(low, load(tail));
            nothing = fma(load(tail), zero(), nothing);
        }
        best = max(best, best2), low = min(low, low2);
        store(groups + (size_t)b * kLanes, best);
        high = max(high, best);
    }
    return {reduce_max(high), -reduce_max(zero() - low), reduce_add(nothing + nothing2) == 0};
}

// The lowest id whose logit is the row's maximum.
inline int32_t first_of(float max, const float* row, int32_t vocab, const float* groups) {
    const F wanted = splat(max);
    int32_t b = 0;
    while (b + 1 < blocks_of(vocab) && !mask_ge(load(groups + (size_t)b * kLanes), wanted)) b++;
    for (int32_t i = b * kBlock; i < vocab; i++)
        if (row[i] == max) return i;
    return 0;
}

// -------------------------------------------------------------------------------------------------------- sorting

// A key that grows as the logit falls, the same for 0 and -0; and back.
SIMD uint32_t key_of(float x) {
    x += 0.0f;
    uint32_t u;
    std::memcpy(&u, &x, 4);
    return u >> 31 ? u : 0x7fffffffu ^ u;
}
SIMD float logit_of(uint32_t key) {
    uint32_t u = key >> 31 ? key : 0x7fffffffu ^ key;
    float x;
    std::memcpy(&x, &u, 4);
    return x;
}
SIMD uint64_t entry(float x, int32_t id) { return (uint64_t)key_of(x) << 32 | (uint32_t)id; }
SIMD float logit_of(uint64_t entry) { return logit_of((uint32_t)(entry >> 32)); }
SIMD int32_t id_of(uint64_t entry) { return (int32_t)(uint32_t)entry; }

// s.keys [n], given in the order of ids, by falling logit. Linear: a stable radix sort, digits that all share left out.
inline void sort_keys(Scratch& s, int32_t n) {
    uint64_t* a = s.keys;
    if (n <= 128) {
        for (int32_t i = 1; i < n; i++) {
            uint64_t x = a[i];
            int32_t j = i;
            for (; j > 0 && a[j - 1] > x; j--) a[j] = a[j - 1];
            a[j] = x;
        }
        return;
    }
    std::memset(s.counts, 0, 3 * kDigits * sizeof *s.counts);
    for (int32_t i = 0; i < n; i++)
        for (int d = 0; d < 3; d++) s.counts[d * kDigits + (a[i] >> (32 + d * kDigitBits) & (kDigits - 1))]++;
    for (int d = 0; d < 3; d++) {
        uint32_t* count = s.counts + d * kDigits;
        const int shift = 32 + d * kDigitBits;
        if (count[s.keys[0] >> shift & (kDigits - 1)] == (uint32_t)n) continue;
        for (uint32_t i = 0, sum = 0; i < kDigits; i++) {
            uint32_t c = count[i];
            count[i] = sum, sum += c;
        }
        for (int32_t i = 0; i < n; i++) {
            uint64_t x = s.keys[i];
            s.spare[count[x >> shift & (kDigits - 1)]++] = x;
        }
        uint64_t* t = s.keys;
        s.keys = s.spare, s.spare = t;
    }
}

// The largest logits of the row, at least k of them wherever there are, into s.keys, sorted; how many there are.
// `groups` are the row's. k groups have a maximum of at least the k-th largest maximum, so k logits are no less.
inline int32_t largest(const float* row, int32_t vocab, int32_t k, float max, Scratch& s) {
    const int32_t blocks = blocks_of(vocab), groups = blocks * kLanes;
    float bound = kNone;
    if (k <= groups) {
        // A bound a little too low only adds candidates: stop halving as soon as it admits few enough.
        uint32_t high = key_of(max), low = key_of(kNone);
        while (low - high > 1) {
            uint32_t mid = high + (low - high) / 2;
            const F at = splat(logit_of(mid));
            int32_t count = 0;
            for (int32_t g = 0; g < groups; g += kLanes) count += __builtin_popcount(mask_ge(load(s.groups + g), at));
            (count >= k ? low : high) = mid;
            if (count >= k && count <= k + k / 4 + 4) break;
        }
        bound = logit_of(low);
    }
    const F at = splat(bound);
    int32_t n = 0;
    for (int32_t b = 0; b < blocks; b++) {
        if (!mask_ge(load(s.groups + (size_t)b * kLanes), at)) continue;
        int32_t from = b * kBlock, to = vocab - from < kBlock ? vocab : from + kBlock;
        for_vectors(row, from, to, [&](const float* p, int32_t i) {
            uint32_t mask = mask_ge(load(p), at);
            if (vocab - i < kLanes) mask &= (1u << (vocab - i)) - 1;  // what fills up the last vector is nobody's
            for (; mask; mask &= mask - 1) {
                int lane = __builtin_ctz(mask);
                s.keys[n++] = entry(p[lane], i + lane);
            }
        });
    }
    sort_keys(s, n);
    return n;
}

}  // namespace sampling
}  // namespace LLMSERVE_ISA
}  // namespace llmserve
