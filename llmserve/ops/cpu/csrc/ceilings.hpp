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
            prefetch_soon(at + 64 * k + kReadAhead);
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

constexpr int kChains = 12;  // independent sums: enough to cover the latency of an instruction

double peak_s8(int64_t rounds) {
    I acc[kChains], u = splat(0x03030303), s = splat(0x05050505);
    for (I& a : acc) a = splat((int32_t)0);
    for (int64_t i = 0; i < rounds; i++) {
        forget(u);
#pragma GCC unroll 12
        for (int k = 0; k < kChains; k++) acc[k] = dot_u8s8(acc[k], u, s);
    }
    for (int k = 1; k < kChains; k++) acc[0] = acc[0] + acc[k];
    use(to_float(acc[0]));
    return (double)rounds * kChains * 128;
}

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
