// What this machine can do at most: bytes read in order, and dot products on registers alone.
//
// Each function works for a while and returns how much it did; the caller takes the time, and knows the threads.
#pragma once

#include "simd.hpp"

namespace llmserve {
namespace LLMSERVE_ISA {
namespace {

// Keeps a value alive without storing it.
SIMD void use(F a) {
    alignas(64) volatile float sink[16];
    float wide[16];
    store(wide, a);
    sink[0] = wide[0];
    (void)sink;
}

// Asked for this far ahead: without, the processor's own guesses leave a third of the bandwidth of some machines unused.
constexpr int64_t kReadAhead = 4096;

double read_bytes(const void* p, int64_t bytes) {
    const uint8_t* at = (const uint8_t*)p;
    I sum[8];
    for (I& s : sum) s = splat((int32_t)0);
    const int64_t rounds = bytes / 512;
    for (int64_t i = 0; i < rounds; i++, at += 512) {
#pragma GCC unroll 8
        for (int k = 0; k < 8; k++) {
            sum[k] = sum[k] + load_bytes(at + 64 * k);
            prefetch(at + 64 * k + kReadAhead);
        }
    }
    for (int k = 1; k < 8; k++) sum[0] = sum[0] + sum[k];
    use(to_float(sum[0]));
    return (double)rounds * 512;
}

// Makes a factor unknown to the compiler in every round, so that it cannot multiply once and for all.
SIMD void forget(I& a) {
#if defined(__AVX512F__)
    __asm__ volatile("" : "+v"(a.v));
#elif defined(__AVX2__)
    __asm__ volatile("" : "+x"(a.a), "+x"(a.b));
#else
    __asm__ volatile("" : "+m"(a));
#endif
}

// Independent sums: enough to cover the latency of an instruction, and few enough for registers.
#if defined(__AVX512F__)
constexpr int kChains = 12;
#else
constexpr int kChains = 6;
#endif

// `dot`: of 64 bytes with 64 bytes.
template <class Dot> SIMD double peak_bytes(int64_t rounds, Dot dot) {
    I acc[kChains], u = splat(0x03030303), s = splat(0x05050505);
    for (I& a : acc) a = splat((int32_t)0);
    for (int64_t i = 0; i < rounds; i++) {
        forget(u);
#pragma GCC unroll 12
        for (int k = 0; k < kChains; k++) dot(acc[k], u, s);
    }
    for (int k = 1; k < kChains; k++) acc[0] = acc[0] + acc[k];
    use(to_float(acc[0]));
    return (double)rounds * kChains * 128;
}

// Weights of 8 and of 4 bits times activations of 8, by the fewest instructions there are, as in gemm_s8_*.hpp: without a
// dot product of bytes, two widened to 16 bits, or one whose sums still fit 16 bits. What goes beyond them is left out.
#if defined(__AVX2__) && !defined(__AVX512VNNI__)
// (Spelt out, or the compiler would multiply once for all sums.)
SIMD void add_wide(__m256i& acc, __m256i u, __m256i s) {
    __m256i product;
    for (int twice = 0; twice < 2; twice++) {
        __asm__ volatile("vpmaddwd %2, %1, %0" : "=x"(product) : "x"(u), "x"(s));
        acc = _mm256_add_epi32(acc, product);
    }
}
SIMD void add_narrow(__m256i& acc, __m256i u, __m256i s) {
    __m256i product;
    __asm__ volatile("vpmaddubsw %2, %1, %0" : "=x"(product) : "x"(u), "x"(s));
    acc = _mm256_add_epi16(acc, product);
}
double peak_s8(int64_t rounds) {
    return peak_bytes(rounds, [](I& acc, I u, I s) __attribute__((always_inline)) {
        add_wide(acc.a, u.a, s.a), add_wide(acc.b, u.b, s.b);
    });
}
double peak_u4(int64_t rounds) {
    return peak_bytes(rounds, [](I& acc, I u, I s) __attribute__((always_inline)) {
        add_narrow(acc.a, u.a, s.a), add_narrow(acc.b, u.b, s.b);
    });
}
#else
double peak_s8(int64_t rounds) {
    return peak_bytes(rounds, [](I& acc, I u, I s) __attribute__((always_inline)) { acc = dot_u8s8(acc, u, s); });
}
double peak_u4(int64_t rounds) { return peak_s8(rounds); }
#endif

double peak_bf16(int64_t rounds) {
    F acc[kChains];
    I u = splat(0x3f803f80), s = u;
    for (F& a : acc) a = zero();
    for (int64_t i = 0; i < rounds; i++) {
        forget(u);
#pragma GCC unroll 12
        for (int k = 0; k < kChains; k++) acc[k] = dot_bf16(acc[k], u, s);
    }
    for (int k = 1; k < kChains; k++) acc[0] = acc[0] + acc[k];
    use(acc[0]);
    return (double)rounds * kChains * 64;
}

double peak_f32(int64_t rounds) {
    F acc[kChains], s = splat(1e-9f);
    I u = as_int(splat(1.0f));
    for (F& a : acc) a = zero();
    for (int64_t i = 0; i < rounds; i++) {
        forget(u);
#pragma GCC unroll 12
        for (int k = 0; k < kChains; k++) acc[k] = fma(as_float(u), s, acc[k]);
    }
    for (int k = 1; k < kChains; k++) acc[0] = acc[0] + acc[k];
    use(acc[0]);
    return (double)rounds * kChains * 32;
}

}  // namespace
}  // namespace LLMSERVE_ISA
}  // namespace llmserve
