// A row of scores becomes a row of weights: exponentials, masks and caps, and the integers that s8 attention works with.
//
// All on one row and one block of keys, whose tiles of 16 lie beside each other. Knows nothing of where a row stands or
// what came before; the running maximum and sum are the caller's.
#pragma once

#include "attention_plan.hpp"
#include "kv_cache.hpp"
#include "simd.hpp"

namespace llmserve {
namespace LLMSERVE_ISA {
namespace attention {

constexpr int kKeys = kAttentionKeys, kTiles = kKeys / kKVTile;
constexpr float kLog2e = 1.44269504f;

// 2^x for x ≤ 127, 0 below -126.5; relative error below 2e-7, and exactly 1 for 0. A minimax polynomial on
// [-½, ½]; adding 1.5 · 2²³ leaves the nearest integer in the low bits, and 127 with it makes it the exponent's.
SIMD F exp2(F x) {
    const F shift = splat(12582912.0f + 127.0f);
    x = max(x, splat(-127.0f));  // also of NaN
    F t = x + shift;
    F r = x - (t - shift);
    F p = splat(0.001326472717f);
    p = fma(p, r, splat(0.009671512642f));
    p = fma(p, r, splat(0.05550733743f));
    p = fma(p, r, splat(0.2402224209f));
    p = fma(p, r, splat(0.6931469776f));
    p = fma(p, r, splat(1.0f));
    return p * as_float(shl<23>(as_int(t)));
}
SIMD float exp2(float x) {
    float lanes[16];
    store(lanes, exp2(splat(x)));
    return lanes[0];
}

SIMD void store_weights_bf16(uint16_t* p, F w) {
#if defined(__AVX512BF16__)
    _mm256_storeu_si256((__m256i*)p, (__m256i)_mm512_cvtneps_pbh(w.v));
#else
    store_bf16(p, w);
#endif
}

// What a score is at most: nothing in lanes [low, high), minus infinity in the others.
SIMD F visible(int64_t low, int64_t high) {
    static const float bound[48] = {
#define LLMSERVE_16(x) x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x
        LLMSERVE_16(-__builtin_inff()), LLMSERVE_16(__builtin_inff()), LLMSERVE_16(-__builtin_inff())
#undef LLMSERVE_16
    };
    low = low < 0 ? 0 : low > 16 ? 16 : low, high = high < 0 ? 0 : high > 16 ? 16 : high;
    return min(load(bound + 16 - low), load(bound + 32 - high));
}

// cap · tanh(x · scale), tanh from one exponential; it is ±1 in fp32 long before |10|. Of what is no number it is none,
// which min and max here, having it on their right, keep, and exp2 does not.
SIMD F cap(F x, F scale, F most) {
    F y = max(splat(-10.0f), min(splat(10.0f), x * scale));
    F e = exp2(y * splat(-2 * kLog2e));
    return fma(most, (splat(1.0f) - e) / (splat(1.0f) + e), y - y);
}

// A query as integers up to 127 · 256 = 256 · high + low, and what one of them is worth.
SIMD float quantize_query(const float* x, int padded, int64_t steps, int32_t* out, int32_t* offset) {
    const float top = largest_magnitude(x, padded), unit = top <= 1e-30f ? 1.0f : top / 32512.0f;  // NaN of NaN
    const F inverse = splat(top > 1e-30f ? 32512.0f / top : 0.0f);
    int8_t high[kMaxHeadDim], low[kMaxHeadDim];
    I sum_high = splat((int32_t)0), sum_low = sum_high;
    for (int i = 0; i < padded; i += 16) {
        // The low part is signed, -128 … 127, and the high one makes up for it; 2²⁰ keeps the shift among positives.
        const I n = to_int(load(x + i) * inverse);
        const I h = shr<8>(n + splat((1 << 20) + 128)) - splat(1 << 12), l = n - shl<8>(h);
        store_s8(high + i, h), store_s8(low + i, l);
        sum_high = sum_high + h, sum_low = sum_low + l;
    }
    std::memcpy(out, high, steps * 4), std::memcpy(out + steps, low, steps * 4);
    offset[0] = (int32_t)(-128u * (uint32_t)reduce_add(sum_high));
    offset[1] = (int32_t)(-128u * (uint32_t)reduce_add(sum_low));
    return unit;
}

// s8: what weights are multiplied by, key by key, to be integers up to 255 · 256; returns what one of those is worth.
// A function of the keys that the row sees: with Edge only [low, high) of the block.
template <bool Edge>
SIMD float scale_values(const KVTile* tile, int begin, int end, int64_t low, int64_t high, float* factor) {
    I most = splat((int32_t)0);  // of numbers ≥ 0, compared as integers: a NaN is the largest, and not lost
    for (int t = begin; t < end; t++) {
        const F scale = load(tile[t].v_scale);
        most = max(most, as_int(Edge ? min(scale, visible(low - t * 16, high - t * 16)) : scale));
    }
    const int32_t bits = reduce_max(most);
    float top;
    std::memcpy(&top, &bits, 4);
    const float inverse = top > 1e-30f ? 65280.0f / top : 0.0f;
    // Of a key that the row does not see the scale may be anything: kept finite, for its weight is 0.
    for (int t = begin; t < end; t++)
        store(factor + t * 16, min(load(tile[t].v_scale) * splat(inverse), splat(65535.0f)));
    return top * (1.0f / 65280.0f);
}

// Caps and masks a row's scores with tiles [begin, end), and returns their maximum. Edge: the row sees keys [low, high)
// of them only.
template <bool Edge>
SIMD float top_score(float* s, int begin, int end, int64_t low, int64_t high, float softcap, float to_cap) {
    if (softcap > 0)
#pragma GCC unroll 4
        for (int t = begin; t < end; t++) store(s + t * 16, cap(load(s + t * 16), splat(to_cap), splat(softcap)));
    if (Edge)
        for (int t = begin; t < end; t++)
            store(s + t * 16, min(load(s + t * 16), visible(low - t * 16, high - t * 16)));
    F most = load(s + begin * 16);
#pragma GCC unroll 4
    for (int t = begin + 1; t < end; t++) most = max(most, load(s + t * 16));
    return reduce_max(most);
}

// The high and low bytes of 4 · 16 integers below 2¹⁶.
SIMD void store_bytes(int32_t* high, int32_t* low, const I (&i)[4]) {
#if defined(__AVX512F__)
    // Packing goes by quarters of the registers; one permutation at the end puts groups of four in order.
    const __m512i a = _mm512_packus_epi32(i[0].v, i[1].v), b = _mm512_packus_epi32(i[2].v, i[3].v);
    const __m512i byte = _mm512_set1_epi16(0xff);
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i h = _mm512_packus_epi16(_mm512_srli_epi16(a, 8), _mm512_srli_epi16(b, 8));
    const __m512i l = _mm512_packus_epi16(_mm512_and_si512(a, byte), _mm512_and_si512(b, byte));
    _mm512_storeu_si512(high, _mm512_permutexvar_epi32(order, h));
    _mm512_storeu_si512(low, _mm512_permutexvar_epi32(order, l));
#else
    for (int t = 0; t < 4; t++) store_s8((int8_t*)high + t * 16, shr<8>(i[t])), store_s8((int8_t*)low + t * 16, i[t]);
#endif
}

// A row's weights 2^(score · scale - from) with tiles [begin, end), added to `sum`; s8: times `factor`, as integers.
template <KVKind kind, bool Whole>
SIMD F weigh_scores(const float* s, int32_t* p, int begin, int end, float scale, float from, const float* factor,
                    F sum) {
    I integers[kTiles];
#pragma GCC unroll 4
    for (int t = begin; t < end; t++) {
        const F e = exp2(fma(load(s + t * 16), splat(scale), splat(-from)));
        sum = sum + e;
        if constexpr (kind == KVKind::f32) {
            store((float*)p + t * 16, e);
        } else if constexpr (kind == KVKind::bf16) {
            store_weights_bf16((uint16_t*)p + t * 16, e);
        } else {
            const I i = to_int(min(e * load(factor + t * 16), splat(65535.0f)));
            if (Whole) {
                integers[t] = i;
            } else {
                store_s8((int8_t*)p + t * 16, shr<8>(i));
                store_s8((int8_t*)(p + kKeys / 4) + t * 16, i);
            }
        }
    }
    if constexpr (kind == KVKind::s8 && Whole) store_bytes(p, p + kKeys / 4, integers);
    return sum;
}

}  // namespace attention
}  // namespace LLMSERVE_ISA
}  // namespace llmserve
