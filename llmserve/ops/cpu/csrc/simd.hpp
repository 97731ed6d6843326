// Sixteen lanes of fp32 or int32, on whatever the including file is compiled for: AVX-512, AVX2, or plain C++.
//
// Included once per instruction set, inside that set's own namespace, so that no code made for one set can be linked
// in place of another's. Nothing here rounds differently from call to call: a kernel's result depends on its inputs
// and on the instruction set, and on nothing else.
#pragma once

#include <cstdint>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define SIMD inline __attribute__((always_inline))

namespace llmserve {
namespace LLMSERVE_ISA {

constexpr int kLanes = 16;

// ---------------------------------------------------------------------------------------------------- AVX-512
#if defined(__AVX512F__)

struct F {
    __m512 v;
};
struct I {
    __m512i v;
};

SIMD F load(const float* p) { return {_mm512_loadu_ps(p)}; }
SIMD void store(float* p, F a) { _mm512_storeu_ps(p, a.v); }
SIMD F splat(float x) { return {_mm512_set1_ps(x)}; }
SIMD F zero() { return {_mm512_setzero_ps()}; }
SIMD F operator+(F a, F b) { return {_mm512_add_ps(a.v, b.v)}; }
SIMD F operator-(F a, F b) { return {_mm512_sub_ps(a.v, b.v)}; }
SIMD F operator*(F a, F b) { return {_mm512_mul_ps(a.v, b.v)}; }
SIMD F operator/(F a, F b) { return {_mm512_div_ps(a.v, b.v)}; }
SIMD F fma(F a, F b, F c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
SIMD F fused(F a, F b, F c) { return fma(a, b, c); }  // rounded once, on every set
SIMD F max(F a, F b) { return {_mm512_max_ps(a.v, b.v)}; }
SIMD F min(F a, F b) { return {_mm512_min_ps(a.v, b.v)}; }
SIMD F abs(F a) { return {_mm512_abs_ps(a.v)}; }
SIMD F floor(F a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)}; }
SIMD float reduce_max(F a) { return _mm512_reduce_max_ps(a.v); }
SIMD uint32_t mask_ge(F a, F b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ); }  // bit i: lane i of a ≥ that of b

SIMD I load(const int32_t* p) { return {_mm512_loadu_si512(p)}; }
SIMD I load_bytes(const void* p) { return {_mm512_loadu_si512(p)}; }
SIMD void store(int32_t* p, I a) { _mm512_storeu_si512(p, a.v); }
SIMD I splat(int32_t x) { return {_mm512_set1_epi32(x)}; }
SIMD I operator+(I a, I b) { return {_mm512_add_epi32(a.v, b.v)}; }
SIMD I operator-(I a, I b) { return {_mm512_sub_epi32(a.v, b.v)}; }
SIMD I operator*(I a, I b) { return {_mm512_mullo_epi32(a.v, b.v)}; }
SIMD I max(I a, I b) { return {_mm512_max_epi32(a.v, b.v)}; }
SIMD int32_t reduce_max(I a) { return _mm512_reduce_max_epi32(a.v); }
SIMD I operator&(I a, I b) { return {_mm512_and_si512(a.v, b.v)}; }
SIMD I operator|(I a, I b) { return {_mm512_or_si512(a.v, b.v)}; }
template <int n> SIMD I shl(I a) { return {_mm512_slli_epi32(a.v, n)}; }
template <int n> SIMD I shr(I a) { return {_mm512_srli_epi32(a.v, n)}; }  // fills with zeros
SIMD I to_int(F a) { return {_mm512_cvtps_epi32(a.v)}; }                  // to nearest, ties to even
SIMD F to_float(I a) { return {_mm512_cvtepi32_ps(a.v)}; }
SIMD F as_float(I a) { return {_mm512_castsi512_ps(a.v)}; }
SIMD I as_int(F a) { return {_mm512_castps_si512(a.v)}; }

SIMD I load_u16(const uint16_t* p) { return {_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p))}; }
SIMD I load_u8(const uint8_t* p) { return {_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p))}; }
SIMD void store_s8(int8_t* p, I a) { _mm_storeu_si128((__m128i*)p, _mm512_cvtepi32_epi8(a.v)); }
SIMD void store_u16(uint16_t* p, I a) { _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi32_epi16(a.v)); }
SIMD F load_f16(const uint16_t* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p))}; }
SIMD void store_f16(uint16_t* p, F a) {
    _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
// Pieces [0, 8) and [8, 16) added lane by lane, then halves again: one fixed order.
SIMD float reduce_add(F a) {
    __m256 h = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_shuffle_ps(q, q, 1)));
}
SIMD int32_t reduce_add(I a) { return _mm512_reduce_add_epi32(a.v); }

// acc + Σ over the 4 bytes of each lane of (unsigned byte of u) · (signed byte of s), exactly.
SIMD I dot_u8s8(I acc, I u, I s) { return {_mm512_dpbusd_epi32(acc.v, u.v, s.v)}; }

// ------------------------------------------------------------------------------------------------------- AVX2
#elif defined(__AVX2__)

struct F {
    __m256 a, b;
};
struct I {
    __m256i a, b;
};

SIMD F load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
SIMD void store(float* p, F x) { _mm256_storeu_ps(p, x.a), _mm256_storeu_ps(p + 8, x.b); }
SIMD F splat(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
SIMD F zero() { return splat(0.0f); }
SIMD F operator+(F x, F y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
SIMD F operator-(F x, F y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
SIMD F operator*(F x, F y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
SIMD F operator/(F x, F y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
SIMD F fma(F x, F y, F z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
SIMD F fused(F x, F y, F z) { return fma(x, y, z); }
SIMD F max(F x, F y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
SIMD F min(F x, F y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
SIMD F abs(F x) {
    __m256 m = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    return {_mm256_and_ps(x.a, m), _mm256_and_ps(x.b, m)};
}
SIMD F floor(F x) { return {_mm256_floor_ps(x.a), _mm256_floor_ps(x.b)}; }
SIMD uint32_t mask_ge(F x, F y) {
    return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(x.a, y.a, _CMP_GE_OQ)) |
           (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(x.b, y.b, _CMP_GE_OQ)) << 8;
}

SIMD I load(const int32_t* p) {
    return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)(p + 8))};
}
SIMD I load_bytes(const void* p) { return load((const int32_t*)p); }
SIMD void store(int32_t* p, I x) { _mm256_storeu_si256((__m256i*)p, x.a), _mm256_storeu_si256((__m256i*)(p + 8), x.b); }
SIMD I splat(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
SIMD I operator+(I x, I y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
SIMD I operator-(I x, I y) { return {_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)}; }
SIMD I operator*(I x, I y) { return {_mm256_mullo_epi32(x.a, y.a), _mm256_mullo_epi32(x.b, y.b)}; }
SIMD I max(I x, I y) { return {_mm256_max_epi32(x.a, y.a), _mm256_max_epi32(x.b, y.b)}; }
SIMD int32_t reduce_max(I x) {
    __m256i h = _mm256_max_epi32(x.a, x.b);
    __m128i q = _mm_max_epi32(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));
    q = _mm_max_epi32(q, _mm_shuffle_epi32(q, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(q, _mm_shuffle_epi32(q, 0xb1)));
}
SIMD I operator&(I x, I y) { return {_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)}; }
SIMD I operator|(I x, I y) { return {_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)}; }
template <int n> SIMD I shl(I x) { return {_mm256_slli_epi32(x.a, n), _mm256_slli_epi32(x.b, n)}; }
template <int n> SIMD I shr(I x) { return {_mm256_srli_epi32(x.a, n), _mm256_srli_epi32(x.b, n)}; }
SIMD I to_int(F x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
SIMD F to_float(I x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
SIMD F as_float(I x) { return {_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)}; }
SIMD I as_int(F x) { return {_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)}; }

SIMD I load_u16(const uint16_t* p) {
    return {_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)),
            _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)(p + 8)))};
}
SIMD I load_u8(const uint8_t* p) {
    __m128i x = _mm_loadu_si128((const __m128i*)p);
    return {_mm256_cvtepu8_epi32(x), _mm256_cvtepu8_epi32(_mm_srli_si128(x, 8))};
}
// The low bytes of the lanes, then the low words: whatever is in the rest, as truncation has it, and not saturated.
SIMD void store_s8(int8_t* p, I x) {
    const __m256i first = _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
                                           0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
    const __m256i second = _mm256_setr_epi8(-1, -1, -1, -1, 0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1,
                                            -1, -1, -1, -1, 0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1);
    const __m256i both = _mm256_or_si256(_mm256_shuffle_epi8(x.a, first), _mm256_shuffle_epi8(x.b, second));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 3, 6, 7);  // of fours of lanes
    _mm_storeu_si128((__m128i*)p, _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(both, order)));
}
SIMD void store_u16(uint16_t* p, I x) {
    const __m256i low = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1,
                                         0, 1, 4, 5, 8, 9, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1);
    const __m256i both = _mm256_unpacklo_epi64(_mm256_shuffle_epi8(x.a, low), _mm256_shuffle_epi8(x.b, low));
    _mm256_storeu_si256((__m256i*)p, _mm256_permute4x64_epi64(both, 0xd8));
}
SIMD F load_f16(const uint16_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)),
            _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + 8)))};
}
SIMD void store_f16(uint16_t* p, F x) {
    _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128((__m128i*)(p + 8), _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT));
}
SIMD float reduce_add(F x) {
    __m256 h = _mm256_add_ps(x.a, x.b);
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_shuffle_ps(q, q, 1)));
}
SIMD float reduce_max(F x) {
    __m256 h = _mm256_max_ps(x.a, x.b);
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_shuffle_ps(q, q, 1)));
}
SIMD int32_t reduce_add(I x) {
    const __m256i h = _mm256_add_epi32(x.a, x.b);
    __m128i q = _mm_add_epi32(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));
    q = _mm_add_epi32(q, _mm_shuffle_epi32(q, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(q, _mm_shuffle_epi32(q, 0xb1)));
}
// maddubs would saturate at 16 bits; even and odd bytes apart do not.
SIMD __m256i dot_u8s8_half(__m256i acc, __m256i u, __m256i s) {
    __m256i u0 = _mm256_and_si256(u, _mm256_set1_epi16(0xff)), u1 = _mm256_srli_epi16(u, 8);
    __m256i s0 = _mm256_srai_epi16(_mm256_slli_epi16(s, 8), 8), s1 = _mm256_srai_epi16(s, 8);
    __m256i even = _mm256_madd_epi16(u0, s0), odd = _mm256_madd_epi16(u1, s1);
    return _mm256_add_epi32(acc, _mm256_add_epi32(even, odd));
}
SIMD I dot_u8s8(I acc, I u, I s) { return {dot_u8s8_half(acc.a, u.a, s.a), dot_u8s8_half(acc.b, u.b, s.b)}; }

// --------------------------------------------------------------------------------------------------- portable
#else

struct F {
    float v[16];
};
struct I {
    int32_t v[16];
};

#define LANES for (int i = 0; i < 16; i++)
SIMD F load(const float* p) { F r; std::memcpy(r.v, p, 64); return r; }
SIMD void store(float* p, F a) { std::memcpy(p, a.v, 64); }
SIMD F splat(float x) { F r; LANES r.v[i] = x; return r; }
SIMD F zero() { return splat(0.0f); }
SIMD F operator+(F a, F b) { F r; LANES r.v[i] = a.v[i] + b.v[i]; return r; }
SIMD F operator-(F a, F b) { F r; LANES r.v[i] = a.v[i] - b.v[i]; return r; }
SIMD F operator*(F a, F b) { F r; LANES r.v[i] = a.v[i] * b.v[i]; return r; }
SIMD F operator/(F a, F b) { F r; LANES r.v[i] = a.v[i] / b.v[i]; return r; }
SIMD F fma(F a, F b, F c) { F r; LANES r.v[i] = a.v[i] * b.v[i] + c.v[i]; return r; }
SIMD F fused(F a, F b, F c) { F r; LANES r.v[i] = __builtin_fmaf(a.v[i], b.v[i], c.v[i]); return r; }
SIMD F max(F a, F b) { F r; LANES r.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i]; return r; }
SIMD F min(F a, F b) { F r; LANES r.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i]; return r; }
SIMD F abs(F a) { F r; LANES r.v[i] = __builtin_fabsf(a.v[i]); return r; }
SIMD F floor(F a) { F r; LANES r.v[i] = __builtin_floorf(a.v[i]); return r; }
SIMD uint32_t mask_ge(F a, F b) { uint32_t m = 0; LANES m |= (uint32_t)(a.v[i] >= b.v[i]) << i; return m; }

SIMD I load(const int32_t* p) { I r; std::memcpy(r.v, p, 64); return r; }
SIMD I load_bytes(const void* p) { I r; std::memcpy(r.v, p, 64); return r; }
SIMD void store(int32_t* p, I a) { std::memcpy(p, a.v, 64); }
SIMD I splat(int32_t x) { I r; LANES r.v[i] = x; return r; }
SIMD I operator+(I a, I b) { I r; LANES r.v[i] = (int32_t)((uint32_t)a.v[i] + (uint32_t)b.v[i]); return r; }
SIMD I operator-(I a, I b) { I r; LANES r.v[i] = (int32_t)((uint32_t)a.v[i] - (uint32_t)b.v[i]); return r; }
SIMD I operator*(I a, I b) { I r; LANES r.v[i] = (int32_t)((uint32_t)a.v[i] * (uint32_t)b.v[i]); return r; }
SIMD I max(I a, I b) { I r; LANES r.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i]; return r; }
SIMD int32_t reduce_max(I a) { int32_t m = a.v[0]; LANES m = a.v[i] > m ? a.v[i] : m; return m; }
SIMD I operator&(I a, I b) { I r; LANES r.v[i] = a.v[i] & b.v[i]; return r; }
SIMD I operator|(I a, I b) { I r; LANES r.v[i] = a.v[i] | b.v[i]; return r; }
template <int n> SIMD I shl(I a) { I r; LANES r.v[i] = (int32_t)((uint32_t)a.v[i] << n); return r; }
template <int n> SIMD I shr(I a) { I r; LANES r.v[i] = (int32_t)((uint32_t)a.v[i] >> n); return r; }
// Adding and taking away 1.5 · 2²³ leaves the nearest integer, ties to even; good for |x| below 2²². Beyond it, and of what is
// no number, the lowest integer, as x86 has it beyond 2³¹.
SIMD I to_int(F a) {
    I r;
    LANES {
        float t = a.v[i] + 12582912.0f;
        int32_t bits;
        std::memcpy(&bits, &t, 4);
        r.v[i] = a.v[i] > -4194304.0f && a.v[i] < 4194304.0f ? bits - 0x4b400000 : INT32_MIN;
    }
    return r;
}
SIMD F to_float(I a) { F r; LANES r.v[i] = (float)a.v[i]; return r; }
SIMD F as_float(I a) { F r; std::memcpy(r.v, a.v, 64); return r; }
SIMD I as_int(F a) { I r; std::memcpy(r.v, a.v, 64); return r; }

SIMD I load_u16(const uint16_t* p) { I r; LANES r.v[i] = p[i]; return r; }
SIMD I load_u8(const uint8_t* p) { I r; LANES r.v[i] = p[i]; return r; }
SIMD void store_s8(int8_t* p, I a) { LANES p[i] = (int8_t)a.v[i]; }
SIMD void store_u16(uint16_t* p, I a) { LANES p[i] = (uint16_t)a.v[i]; }
SIMD float f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = (uint32_t)(h & 0x7fff) << 13, out;
    if (rest >= 0x0f800000u) {
        out = rest + 0x70000000u;  // infinity, NaN
    } else {
        out = rest;  // 2^112 makes up for the narrower exponent, subnormals included
        float f;
        std::memcpy(&f, &out, 4);
        f *= 0x1p112f;
        std::memcpy(&out, &f, 4);
    }
    out |= sign;
    float f;
    std::memcpy(&f, &out, 4);
    return f;
}
SIMD uint16_t f32_to_f16(float x) {
    uint32_t u;
    std::memcpy(&u, &x, 4);
    uint32_t sign = (u >> 16) & 0x8000;
    u &= 0x7fffffff;
    if (u > 0x7f800000) return (uint16_t)(sign | 0x7e00);
    if (u >= 0x477ff000) return (uint16_t)(sign | 0x7c00);
    if (u < 0x38800000) {  // subnormal: let the adder round at 2⁻²⁴
        float f;
        std::memcpy(&f, &u, 4);
        f += 0.5f;
        std::memcpy(&u, &f, 4);
        return (uint16_t)(sign | (u - 0x3f000000));
    }
    u += 0xfff + ((u >> 13) & 1);
    return (uint16_t)(sign | ((u - 0x38000000) >> 13));
}
SIMD F load_f16(const uint16_t* p) { F r; LANES r.v[i] = f16_to_f32(p[i]); return r; }
SIMD void store_f16(uint16_t* p, F a) { LANES p[i] = f32_to_f16(a.v[i]); }
SIMD float reduce_add(F a) {
    for (int n = 8; n; n /= 2)
        for (int i = 0; i < n; i++) a.v[i] += a.v[i + n];
    return a.v[0];
}
SIMD float reduce_max(F a) {
    float m = a.v[0];
    LANES m = a.v[i] > m ? a.v[i] : m;
    return m;
}
SIMD int32_t reduce_add(I a) { uint32_t s = 0; LANES s += (uint32_t)a.v[i]; return (int32_t)s; }
SIMD I dot_u8s8(I acc, I u, I s) {
    uint8_t x[64];
    int8_t y[64];
    std::memcpy(x, u.v, 64), std::memcpy(y, s.v, 64);
    I sum;
    LANES sum.v[i] = x[4 * i] * y[4 * i] + x[4 * i + 1] * y[4 * i + 1] + x[4 * i + 2] * y[4 * i + 2] +
                     x[4 * i + 3] * y[4 * i + 3];
    return acc + sum;
}
#undef LANES
#endif

// ------------------------------------------------------------------------------------------ common to all sets

// Magnitudes compared as integers, among which NaN is the largest: it is not lost. n goes by 16.
SIMD float largest_magnitude(const float* x, int n) {
    const I magnitude = splat(0x7fffffff);
    I most = splat((int32_t)0);
    for (int i = 0; i < n; i += 16) most = max(most, as_int(load(x + i)) & magnitude);
    const int32_t bits = reduce_max(most);
    float largest;
    std::memcpy(&largest, &bits, 4);
    return largest;
}

SIMD F load_bf16(const uint16_t* p) { return as_float(shl<16>(load_u16(p))); }

// To bf16, to nearest, ties to even, in the low half of each lane. Of finite numbers.
SIMD I bf16_bits(F a) {
    I u = as_int(a);
    return shr<16>(u + splat(0x7fff) + (shr<16>(u) & splat(1)));
}
SIMD void store_bf16(uint16_t* p, F a) { store_u16(p, bf16_bits(a)); }
SIMD uint16_t bf16_of(float x) {
    uint32_t u;
    std::memcpy(&u, &x, 4);
    return (uint16_t)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

// acc + (low bf16 of w · low bf16 of x) + (high · high), lane by lane.
SIMD F dot_bf16(F acc, I w, I x) {
#if defined(__AVX512BF16__)
    return {_mm512_dpbf16_ps(acc.v, (__m512bh)w.v, (__m512bh)x.v)};
#else
    const I high = splat((int32_t)0xffff0000);
    acc = fma(as_float(shl<16>(w)), as_float(shl<16>(x)), acc);
    return fma(as_float(w & high), as_float(x & high), acc);
#endif
}

// e^x for x ≤ 88; 0 below -87.3. Relative error below 2e-7: 2^n · p(r), p the Taylor polynomial on |r| ≤ ln 2 / 2.
SIMD F exp(F x) {
    const F low = splat(-87.3f);
    F y = max(x, low);
    F n = floor(fma(y, splat(1.44269504f), splat(0.5f)));
    F r = fma(n, splat(-0.693359375f), y);
    r = fma(n, splat(2.12194440e-4f), r);
    F p = splat(1.0f / 5040);
    p = fma(p, r, splat(1.0f / 720));
    p = fma(p, r, splat(1.0f / 120));
    p = fma(p, r, splat(1.0f / 24));
    p = fma(p, r, splat(1.0f / 6));
    p = fma(p, r, splat(0.5f));
    p = fma(p, r, splat(1.0f));
    p = fma(p, r, splat(1.0f));
    F e = as_float(shl<23>(to_int(n) + splat(127)));
    F result = p * e;
    // Below the range the answer is 0 and not e^-87.3: a masked score must weigh nothing.
#if defined(__AVX512F__)
    return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x.v, low.v, _CMP_GE_OQ), result.v)};
#elif defined(__AVX2__)
    return {_mm256_and_ps(result.a, _mm256_cmp_ps(x.a, low.a, _CMP_GE_OQ)),
            _mm256_and_ps(result.b, _mm256_cmp_ps(x.b, low.b, _CMP_GE_OQ))};
#else
    for (int i = 0; i < 16; i++)
        if (!(x.v[i] >= -87.3f)) result.v[i] = 0;
    return result;
#endif
}

// x times the logistic function of y.
SIMD F gate(F x, F y) { return x / (splat(1.0f) + exp(min(splat(0.0f) - y, splat(88.0f)))); }
SIMD F silu(F x) { return gate(x, x); }
// x · (1 + tanh(u)) / 2, which is the logistic function of 2u, with u = √(2/π) · (x + 0.044715 x³).
SIMD F gelu(F x) { return gate(x, x * fma(x * x, splat(2 * 0.7978845608f * 0.044715f), splat(2 * 0.7978845608f))); }
// From one exponential; ±1 in fp32 long before |10|. Of what is no number it is none, which min and max here, having it
// on their right, keep, and exp does not.
SIMD F tanh(F x) {
    x = max(splat(-10.0f), min(splat(10.0f), x));
    const F e = exp(x * splat(2.0f));
    return (e - splat(1.0f)) / (e + splat(1.0f)) + (x - x);
}

// Into the first level of the core's own cache, also what comes microseconds later and may have moved to the second by then:
// asking for the second alone is slower by up to a fifth where weights are read while many rows go by (Zen 5).
SIMD void prefetch(const void* p) { __builtin_prefetch(p, 0, 3); }

}  // namespace LLMSERVE_ISA
}  // namespace llmserve
