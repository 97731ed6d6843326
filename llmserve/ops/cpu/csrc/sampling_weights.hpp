// Logits to weights: e^((logit - max) / temperature) in fp64, sixteen at a time, the same on every instruction set.
//
// fp64 sums go over 16 lanes and are folded in one fixed order, and nothing is contracted into fused operations.
#pragma once

#include "simd.hpp"

namespace llmserve {
namespace LLMSERVE_ISA {
namespace sampling {

constexpr double kFar = -60;  // exponents below this give the weight 0

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

// e^x for x ≤ 0, 0 below `least`, which is no less than kFar; exact at 0. 2^n · p(r), p the Taylor polynomial on
// |r| ≤ ln 2 / 2, whose remainder is below 1e-17. The first part of ln 2 has 33 bits, so that its product with n is exact
// without a fused operation.
SIMD Wide exp_weight(Wide x, Wide least) {
    Wide t = x * wide(1.4426950408889634) + wide(kMagic);
    Wide n = t - wide(kMagic);
    Wide r = (x - n * wide(6.93147180369123816490e-01)) - n * wide(1.90821492927058770002e-10);
    // Pairs, pairs of pairs and so on (Estrin's scheme): a chain of nine operations, where one term after the other is 26.
    const Wide r2 = r * r, r4 = r2 * r2, r8 = r4 * r4;
    const Wide p0 = wide(1.0) + r, p2 = wide(0.5) + wide(1.0 / 6.0) * r;
    const Wide p4 = wide(1.0 / 24.0) + wide(1.0 / 120.0) * r, p6 = wide(1.0 / 720.0) + wide(1.0 / 5040.0) * r;
    const Wide p8 = wide(1.0 / 40320.0) + wide(1.0 / 362880.0) * r;
    const Wide p10 = wide(1.0 / 3628800.0) + wide(1.0 / 39916800.0) * r;
    const Wide p12 = wide(1.0 / 479001600.0) + wide(1.0 / 6227020800.0) * r;
    const Wide p = ((p0 + p2 * r2) + (p4 + p6 * r2) * r4) + ((p8 + p10 * r2) + p12 * r4) * r8;
    Wide e = p * (Wide)(((WideBits)t + 1023) << 52);
#if defined(__AVX512F__)
    return _mm512_maskz_mov_pd(_mm512_cmp_pd_mask(x, least, _CMP_GE_OQ), e);
#elif defined(__AVX2__)
    return _mm256_and_pd(e, _mm256_cmp_pd(x, least, _CMP_GE_OQ));
#else
    return (Wide)((WideBits)e & (WideBits)(x >= least));
#endif
}

// How logits become weights.
struct Scale {
    double max;
    double temperature, inverse;
    double least;  // exponents below this give the weight 0
    // Logits below this weigh nothing. Rounding to nearest cannot put it past a logit, so it can be compared in fp32.
    float far;
};

// Tokens below min_p times the likeliest weigh nothing.
inline Scale scale_of(float max, double temperature, double min_p) {
    // The difference of two fp32 numbers, over less than this, is beyond kFar anyway; and its inverse is finite.
    double t = temperature < 1e-300 ? 1e-300 : temperature;
    double least = min_p > 0 ? __builtin_log(min_p) : kFar;
    if (least < kFar) least = kFar;
    // A little lower than it is, lest an exponent that rounding brings up to `least` be passed over.
    return {max, t, 1 / t, least, (float)(max + t * (least * (1 + 1e-12)))};
}

SIMD D exponents(const float* p, const Scale& s) {
    D x;
    for (int i = 0; i < kParts; i++) x.v[i] = (widen(p + i * kWide) - wide(s.max)) * wide(s.inverse);
    return x;
}
SIMD D weights(const D& x, const Scale& s) {
    D w;
    for (int i = 0; i < kParts; i++) w.v[i] = exp_weight(x.v[i], wide(s.least));
    return w;
}

}  // namespace sampling
}  // namespace LLMSERVE_ISA
}  // namespace llmserve
