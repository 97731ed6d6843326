// One token drawn from a row: top-k, then top-p, then the inverse of the distribution at u.
//
// No row is ever sorted whole for the common settings. Groups' maxima bound the k-th largest logit from below, so top-k
// sorts little more than k candidates. Top-p adds weights up by bucket (a bucket is a narrow range of logits) and sorts
// the one or two buckets where it ends.
#pragma once

#include "sampling_order.hpp"
#include "sampling_table.hpp"
#include "sampling_weights.hpp"

namespace llmserve {
namespace LLMSERVE_ISA {
namespace sampling {

// s.cumulative[i]: `base` and the weights of s.keys[0 … i], added one after the other, as the oracle does.
inline void accumulate(const Scratch& s, int32_t n, double base, const Scale& scale) {
    for (int32_t i = 0; i < n; i += kLanes) {
        float logits[kLanes];
        double w[kLanes];
        const int here = n - i < kLanes ? n - i : kLanes;
        for (int k = 0; k < kLanes; k++) logits[k] = k < here ? logit_of(s.keys[i + k]) : kNone;
        D d = weights(exponents(logits, scale), scale);
        std::memcpy(w, &d, sizeof w);
        for (int k = 0; k < here; k++) s.cumulative[i + k] = base += w[k];
    }
}

// The first position whose sum is at least (or, strictly, above) the target; where rounding leaves none, the last
// that weighs anything.
inline int32_t reach(const double* sums, int32_t n, double target, bool strictly) {
    for (int32_t i = 0; i < n; i++)
        if (strictly ? sums[i] > target : sums[i] >= target) return i;
    while (n > 1 && sums[n - 1] == sums[n - 2]) n--;
    return n - 1;
}

// Top-k, with or without top-p: few enough to be sorted.
inline int32_t draw_of_few(const float* row, const SampleArgs& a, const Scale& scale, Scratch& s) {
    int32_t n = largest(row, a.vocab, a.top_k, (float)scale.max, s);
    if (n > a.top_k) n = a.top_k;
    accumulate(s, n, 0, scale);
    if (a.top_p < 1) n = reach(s.cumulative, n, a.top_p * s.cumulative[n - 1], false) + 1;
    return id_of(s.keys[reach(s.cumulative, n, a.u * s.cumulative[n - 1], true)]);
}

// Neither: no order but that of ids. Blocks are summed up, and the one where u falls is added up token by token.
inline int32_t draw_of_all(const float* row, const SampleArgs& a, const Scale& scale, const Scratch& s) {
    const F far = splat(scale.far);
    const int32_t blocks = blocks_of(a.vocab);
    double total = 0;
    for (int32_t b = 0; b < blocks; b++) {
        D sum = {};
        int32_t from = b * kBlock, to = a.vocab - from < kBlock ? a.vocab : from + kBlock;
        if (mask_ge(load(s.groups + (size_t)b * kLanes), far))
            for_vectors(row, from, to, [&](const float* p, int32_t) {
                if (mask_ge(load(p), far)) add(sum, weights(exponents(p, scale), scale));
            });
        s.sums[b] = total += reduce_add(sum);
    }
    const double target = a.u * total;
    const int32_t b = reach(s.sums, blocks, target, true);
    double base = b ? s.sums[b - 1] : 0;
    int32_t chosen = -1, last = 0;
    for (int32_t i = b * kBlock; i < a.vocab && i < (b + 1) * kBlock && chosen < 0; i += kLanes) {
        float logits[kLanes];
        double w[kLanes];
        copy_tail(logits, row, i, a.vocab);
        D d = weights(exponents(logits, scale), scale);
        std::memcpy(w, &d, sizeof w);
        for (int k = 0; k < kLanes && chosen < 0; k++) {
            base += w[k];
            if (w[k] > 0) last = i + k;
            if (base > target) chosen = i + k;
        }
    }
    return chosen < 0 ? last : chosen;
}

// Buckets of equal width over the exponents from 0 down to -range; everything beyond is in the last one. Falling
// logits have rising buckets, and equal ones the same.
struct Buckets {
    double per_unit;  // buckets a unit of the exponent
    float edge;       // logits below this are in the last bucket
};

SIMD D bucket_bits(const D& x, const Buckets& b) {
    D t;
    for (int i = 0; i < kParts; i++) {
        Wide y = x.v[i] * wide(-b.per_unit), last = wide(kBuckets - 1);
        t.v[i] = (y < last ? y : last) + wide(kMagic);
    }
    return t;
}
SIMD int bucket_of(double bits) {
    uint64_t u;
    std::memcpy(&u, &bits, 8);
    return (int)(u & (2 * kBuckets - 1));
}

// The tokens of one bucket into s.keys, sorted; how many. Found by an fp32 range that is a little too wide, then by
// the very expression that filled the bucket.
inline int32_t gather(const float* row, int32_t vocab, int bucket, const Buckets& b, const Scale& scale, Scratch& s) {
    float low = kNone, high = (float)scale.max;
    if (b.per_unit > 0) {
        const double width = scale.temperature / b.per_unit;
        if (bucket < kBuckets - 1) low = (float)(scale.max - width * (bucket + 0.51));
        high = (float)(scale.max - width * (bucket - 0.51));
    }
    const F at_least = splat(low), at_most = splat(high);
    int32_t n = 0;
    for_vectors(row, 0, vocab, [&](const float* p, int32_t i) {
        F v = load(p);
        uint32_t mask = mask_ge(v, at_least);
        if (!mask || !(mask &= mask_ge(at_most, v))) return;
        if (vocab - i < kLanes) mask &= (1u << (vocab - i)) - 1;
        double bits[kLanes];
        D t = bucket_bits(exponents(p, scale), b);
        std::memcpy(bits, &t, sizeof bits);
        for (; mask; mask &= mask - 1) {
            int lane = __builtin_ctz(mask);
            if (bucket_of(bits[lane]) == bucket) s.keys[n++] = entry(p[lane], i + lane);
        }
    });
    sort_keys(s, n);
    return n;
}

// The first bucket at whose end the sum is at least (or, strictly, above) the target; `before`: the sum before it.
inline int find_bucket(const double* mass, double target, bool strictly, double& before) {
    double sum = 0, sum_before = 0;
    int last = 0;
    for (int i = 0; i < kBuckets; i++) {
        if (mass[i] == 0) continue;
        last = i, sum_before = sum, sum += mass[i];
        if (strictly ? sum > target : sum >= target) break;
    }
    before = sum_before;
    return last;
}

// Top-p alone: the distribution's total is needed, but its order only where the kept tokens end and where u falls.
inline int32_t draw_of_most(const float* row, const SampleArgs& a, const Scale& scale, float min, Scratch& s) {
    // Tokens that weigh less than (1 - top_p) / vocab of the likeliest weigh less than 1 - top_p of the total even
    // together: none of them is kept, so buckets need not tell them apart.
    double range = 1 + __builtin_log(a.vocab / (1 - a.top_p)), span = (scale.max - min) * scale.inverse;
    if (range > -scale.least) range = -scale.least;
    if (range > span) range = span;
    Buckets b = {range > 0 ? (kBuckets - 1) / range : 0, (float)(scale.max - scale.temperature * range)};

    // Two tables in turn: neighbours often fall into one bucket, and an addition to memory waits for the one before.
    double *mass = s.buckets, *mass2 = s.buckets + kBuckets;
    std::memset(s.buckets, 0, 2 * kBuckets * sizeof *s.buckets);
    const F far = splat(scale.far), edge = splat(b.edge);
    D rest = {};
    const int32_t blocks = blocks_of(a.vocab);
    for (int32_t block = 0; block < blocks; block++) {
        if (!mask_ge(load(s.groups + (size_t)block * kLanes), far)) continue;
        int32_t from = block * kBlock, to = a.vocab - from < kBlock ? a.vocab : from + kBlock;
        for_vectors(row, from, to, [&](const float* p, int32_t) {
            if (!mask_ge(load(p), far)) return;
            D x = exponents(p, scale), d = weights(x, scale);
            if (!mask_ge(load(p), edge)) return add(rest, d);
            double w[kLanes], bits[kLanes];
            D t = bucket_bits(x, b);
            std::memcpy(w, &d, sizeof w), std::memcpy(bits, &t, sizeof bits);
            for (int k = 0; k < kLanes; k += 2)
                mass[bucket_of(bits[k])] += w[k], mass2[bucket_of(bits[k + 1])] += w[k + 1];
        });
    }
    double total = 0, before;
    mass[kBuckets - 1] += reduce_add(rest);
    for (int i = 0; i < kBuckets; i++) total += mass[i] += mass2[i];

    const int end = find_bucket(mass, a.top_p * total, false, before);
    int32_t n = gather(row, a.vocab, end, b, scale, s);
    accumulate(s, n, before, scale);
    n = reach(s.cumulative, n, a.top_p * total, false) + 1;
    const double target = a.u * s.cumulative[n - 1];
    if (target < before) {
        const int at = find_bucket(mass, target, true, before);
        n = gather(row, a.vocab, at, b, scale, s);
        accumulate(s, n, before, scale);
    }
    return id_of(s.keys[reach(s.cumulative, n, target, true)]);
}

}  // namespace sampling
}  // namespace LLMSERVE_ISA
}  // namespace llmserve
