// One row of logits to one token: temperature, then top-k, then top-p, then the inverse of the distribution at u.
//
// The oracle is `llmserve.runtime.sampler` in torch. As there, weights are e^((logit - max) / temperature) in fp64; the
// token is the oracle's unless u · total or top_p · total comes within 1e-12 of the total of a boundary between two
// tokens, which is where the order of additions decides. Equal logits are ordered lowest id first, everywhere.
// A token weighing less than e^-60 of the likeliest weighs nothing: a sum of doubles would not notice it.
//
// No row is ever sorted whole for the common settings. The first pass leaves the maxima of groups of 64 logits; the
// k-th largest of those bounds the k-th largest logit from below, so top-k sorts little more than k candidates. Top-p
// adds weights up by bucket (a bucket is a narrow range of logits) and sorts the one or two buckets where it ends.
//
// fp64 sums go over 16 lanes and are folded in one fixed order, and nothing is contracted into fused operations, so
// tokens are the same on every instruction set. Log probabilities are fp32 and differ in their last bits.
// Knows nothing of requests, seeds or threads. Calls nothing from the standard library that could be linked from an
// object made for another instruction set.
#pragma once

#include "sampling_table.hpp"
#include "simd.hpp"

namespace llmserve {
namespace LLMSERVE_ISA {
namespace sampling {

constexpr int kBlock = 1024;  // logits a row of group maxima stands for
constexpr int kBuckets = 2048;
constexpr double kFar = -60;  // exponents below this give the weight 0
constexpr int kDigitBits = 11, kDigits = 1 << kDigitBits;

// ------------------------------------------------------------------------------------------------ sixteen doubles

#if defined(__AVX512F__)
constexpr int kWide = 8;
#elif defined(__AVX2__)
constexpr int kWide = 4;
#else
constexpr int kWide = 2;
#endif
constexpr int kParts = kLanes / kWide;

// The compiler's own vectors, as wide as a register: +, -, * and comparisons need no spelling per instruction set.
typedef double Wide __attribute__((vector_size(8 * kWide)));
typedef uint64_t WideBits __attribute__((vector_size(8 * kWide)));

struct D {
    Wide v[kParts];
};

SIMD Wide wide(double x) {
#if defined(__AVX512F__)
    return _mm512_set1_pd(x);
#elif defined(__AVX2__)
    return _mm256_set1_pd(x);
#else
    return Wide{x, x};
#endif
}

SIMD Wide widen(const float* p) {
#if defined(__AVX512F__)
    return _mm512_cvtps_pd(_mm256_loadu_ps(p));
#elif defined(__AVX2__)
    return _mm256_cvtps_pd(_mm_loadu_ps(p));
#else
    return Wide{p[0], p[1]};
#endif
}

SIMD void add(D& a, const D& b) {
    for (int i = 0; i < kParts; i++) a.v[i] += b.v[i];
}

// Halves added until one is left: the same tree whatever the register's width.
SIMD double reduce_add(const D& a) {
    double x[kLanes];
    std::memcpy(x, &a, sizeof x);
    for (int n = kLanes / 2; n; n /= 2)
        for (int i = 0; i < n; i++) x[i] += x[i + n];
    return x[0];
}

// 2^52 · 1.5: adding it leaves the nearest integer in the low bits of the sum.
constexpr double kMagic = 0x1.8p52;

// e^x for x ≤ 0, 0 below kFar; exact at 0. 2^n · p(r), p the Taylor polynomial on |r| ≤ ln 2 / 2, whose remainder is
// below 1e-17. The first part of ln 2 has 33 bits, so that its product with n is exact without a fused operation.
SIMD Wide exp_weight(Wide x) {
    Wide t = x * wide(1.4426950408889634) + wide(kMagic);
    Wide n = t - wide(kMagic);
    Wide r = (x - n * wide(6.93147180369123816490e-01)) - n * wide(1.90821492927058770002e-10);
    Wide p = wide(1.0 / 6227020800.0);
    p = p * r + wide(1.0 / 479001600.0);
    p = p * r + wide(1.0 / 39916800.0);
    p = p * r + wide(1.0 / 3628800.0);
    p = p * r + wide(1.0 / 362880.0);
    p = p * r + wide(1.0 / 40320.0);
    p = p * r + wide(1.0 / 5040.0);
    p = p * r + wide(1.0 / 720.0);
    p = p * r + wide(1.0 / 120.0);
    p = p * r + wide(1.0 / 24.0);
    p = p * r + wide(1.0 / 6.0);
    p = p * r + wide(0.5);
    p = p * r + wide(1.0);
    p = p * r + wide(1.0);
    Wide e = p * (Wide)(((WideBits)t + 1023) << 52);
#if defined(__AVX512F__)
    return _mm512_maskz_mov_pd(_mm512_cmp_pd_mask(x, wide(kFar), _CMP_GE_OQ), e);
#elif defined(__AVX2__)
    return _mm256_and_pd(e, _mm256_cmp_pd(x, wide(kFar), _CMP_GE_OQ));
#else
    return (Wide)((WideBits)e & (WideBits)(x >= wide(kFar)));
#endif
}

// How logits become weights.
struct Scale {
    double max;
    double temperature, inverse;
    // Logits below this weigh nothing. Rounding to nearest cannot put it past a logit, so it can be compared in fp32.
    float far;
};

inline Scale scale_of(float max, double temperature) {
    // The difference of two fp32 numbers, over less than this, is beyond kFar anyway; and its inverse is finite.
    double t = temperature < 1e-300 ? 1e-300 : temperature;
    return {max, t, 1 / t, (float)(max + t * kFar)};
}

SIMD D exponents(const float* p, const Scale& s) {
    D x;
    for (int i = 0; i < kParts; i++) x.v[i] = (widen(p + i * kWide) - wide(s.max)) * wide(s.inverse);
    return x;
}
SIMD D weights(const D& x) {
    D w;
    for (int i = 0; i < kParts; i++) w.v[i] = exp_weight(x.v[i]);
    return w;
}

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

// The lowest id of the largest logit; `finite` says whether all logits are finite, and the id means nothing otherwise.
inline int32_t argmax(const float* row, int32_t vocab, bool& finite, const Scratch& s) {
    Extent extent = scan(row, vocab, s.groups);
    finite = extent.finite;
    return first_of(extent.max, row, vocab, s.groups);
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

// -------------------------------------------------------------------------------------------------------- drawing

// s.cumulative[i]: `base` and the weights of s.keys[0 … i], added one after the other, as the oracle does.
inline void accumulate(const Scratch& s, int32_t n, double base, const Scale& scale) {
    for (int32_t i = 0; i < n; i += kLanes) {
        float logits[kLanes];
        double w[kLanes];
        const int here = n - i < kLanes ? n - i : kLanes;
        for (int k = 0; k < kLanes; k++) logits[k] = k < here ? logit_of(s.keys[i + k]) : kNone;
        D d = weights(exponents(logits, scale));
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
                if (mask_ge(load(p), far)) add(sum, weights(exponents(p, scale)));
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
        D d = weights(exponents(logits, scale));
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
    if (range > -kFar) range = -kFar;
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
            D x = exponents(p, scale), d = weights(x);
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

// -------------------------------------------------------------------------------------------------- a whole work item

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

// `s.groups` are the row's, and afterwards those of the row without the banned.
inline int32_t choose(const SampleArgs& a, const Extent& extent, Scratch& s) {
    const float* row = a.logits;
    Extent allowed = extent;
    if (a.num_banned > 0) {
        std::memcpy(s.row, row, (size_t)a.vocab * sizeof *row);
        for (int32_t i = 0; i < a.num_banned; i++)
            if (a.banned[i] >= 0 && a.banned[i] < a.vocab) s.row[a.banned[i]] = kNone;
        row = s.row;
        allowed = scan(row, a.vocab, s.groups);
    }
    if (a.temperature == 0 || allowed.max == kNone)  // with every token banned there is nothing to draw from: id 0
        return first_of(allowed.max, row, a.vocab, s.groups);
    const Scale scale = scale_of(allowed.max, a.temperature);
    if (a.top_k > 0 && a.top_k < a.vocab) return draw_of_few(row, a, scale, s);
    if (a.top_p < 1) return draw_of_most(row, a, scale, allowed.min, s);
    return draw_of_all(row, a, scale, s);
}

inline void sample(const SampleArgs& a, SampleResult& result, void* scratch) {
    Scratch s = scratch_at((char*)scratch, a.vocab);
    const Extent extent = scan(a.logits, a.vocab, s.groups);
    result = {-1, 0, 0, 0};
    if (!extent.finite) return;
    result.token = a.given < 0 ? choose(a, extent, s) : a.given;
    if (a.num_top < 0) return;
    if (a.given < 0 && a.num_banned > 0) scan(a.logits, a.vocab, s.groups);
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
