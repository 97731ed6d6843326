// Rows of fp32 or bf16 activations times a packed matrix: sums of 16 outputs in fp32, in the order of K.
#pragma once

#include "gemm_tile.hpp"

namespace llmserve {
namespace LLMSERVE_ISA {

SIMD I pair(const void* p) {
    int32_t two;
    std::memcpy(&two, p, 4);
    return splat(two);
}

// Sixteen outputs' weights of columns k … k + 3 (u8), k … k + 7 (u4), k, k + 1 (bf16) or k, taken out of the lanes of one
// register as numbers; integers less their offset, the group's scale still to come.
template <WeightKind kind> struct Unpack;
template <> struct Unpack<WeightKind::u8> {
    static constexpr int columns = 4;
    template <int j> static SIMD F at(I w, F) { return to_float(shr<8 * j>(w) & splat(255)) - splat(128.0f); }
};
template <> struct Unpack<WeightKind::u4> {
    static constexpr int columns = 8;
    template <int j> static SIMD F at(I w, F zero) {
        return to_float(shr<8 * (j % 4) + (j < 4 ? 0 : 4)>(w) & splat(15)) - zero;
    }
};
template <> struct Unpack<WeightKind::bf16> {
    static constexpr int columns = 2;
    template <int j> static SIMD F at(I w, F) { return as_float(j ? w & splat((int32_t)0xffff0000) : shl<16>(w)); }
};

// Calls f(column, weights) for a run of 32 columns of 16 outputs, one column after the other.
template <WeightKind kind, class Each> SIMD void each_column(const uint8_t* w, F zero, Each f) {
    if constexpr (kind == WeightKind::f32) {
        for (int k = 0; k < 32; k++) f(k, load((const float*)(w + k * 128)));
    } else if constexpr (kind == WeightKind::f16) {
        for (int k = 0; k < 32; k++) f(k, load_f16((const uint16_t*)(w + k * 64)));
    } else {
        using U = Unpack<kind>;
        for (int k = 0; k < 32; k += U::columns) {
            const I q = load_bytes(w + k / U::columns * 128);
            f(k, U::template at<0>(q, zero));
            f(k + 1, U::template at<1>(q, zero));
            if constexpr (U::columns > 2) f(k + 2, U::template at<2>(q, zero)), f(k + 3, U::template at<3>(q, zero));
            if constexpr (U::columns > 4) {
                f(k + 4, U::template at<4>(q, zero)), f(k + 5, U::template at<5>(q, zero));
                f(k + 6, U::template at<6>(q, zero)), f(k + 7, U::template at<7>(q, zero));
            }
        }
    }
}

// fp32 or bf16 activations, 16 outputs. `Pairs`: products of two bf16 at a time, the weights (whole numbers of up to 8
// bits, or bf16 already) taking that form without loss.
template <int R, WeightKind kind, bool Zero, bool Pairs> inline void tile_float(const Tile& t) {
    const int64_t cols = t.x->cols, size = Pairs ? 2 : 4;
    constexpr bool U4 = kind == WeightKind::u4;
    const uint8_t* x[R];
    F sum[R][1];
    for (int r = 0; r < R; r++) {
        x[r] = (const uint8_t*)t.x->data + (t.row + r) * cols * size;
        sum[r][0] = llmserve::LLMSERVE_ISA::zero();
    }
    const int64_t step = t.w->panel_bytes() / cols * 32;  // bytes of 32 columns
    const int64_t lane_bytes = kind == WeightKind::f16 ? 32 : 64;
    const uint8_t* w = t.w->panel(t.panel) + t.vec * lane_bytes;
    const int64_t wgroups = U4 ? cols / t.w->group : 1;
    const int64_t scales = t.panel * wgroups * kPanel + t.vec * 16;
    const uint8_t* ahead = t.ahead;
    F acc[R];
    F zero_point = splat(8.0f);
    for (int64_t k0 = 0; k0 < cols; k0 += 32, w += step) {
        for (const uint8_t* end = ahead + t.ahead_step; ahead < end; ahead += 64) prefetch(ahead);
        const int64_t group = U4 ? k0 / t.w->group * kPanel + scales : 0;
        if (Zero) zero_point = to_float(load_u8(t.w->zero + group));
        for (int r = 0; r < R; r++) acc[r] = U4 ? llmserve::LLMSERVE_ISA::zero() : sum[r][0];
        if constexpr (Pairs) {
            if constexpr (kind == WeightKind::bf16) {
                for (int k = 0; k < 32; k += 2) {
                    const I both = load_bytes(w + k / 2 * 128);
                    for (int r = 0; r < R; r++) acc[r] = dot_bf16(acc[r], both, pair(x[r] + (k0 + k) * 2));
                }
            } else {
                F first = zero_point;
                each_column<kind>(w, zero_point, [&](int k, F value) __attribute__((always_inline)) {
                    if (k % 2 == 0) {
                        first = value;
                        return;
                    }
                    const I both = shr<16>(as_int(first)) | (as_int(value) & splat((int32_t)0xffff0000));
                    for (int r = 0; r < R; r++) acc[r] = dot_bf16(acc[r], both, pair(x[r] + (k0 + k - 1) * 2));
                });
            }
        } else {
            each_column<kind>(w, zero_point, [&](int k, F value) __attribute__((always_inline)) {
                for (int r = 0; r < R; r++) acc[r] = fma(splat(((const float*)x[r])[k0 + k]), value, acc[r]);
            });
        }
        for (int r = 0; r < R; r++)
            sum[r][0] = U4 ? fma(acc[r], load_f16((const uint16_t*)t.w->scale + group), sum[r][0]) : acc[r];
    }
    finish<R, 1>(t, sum);
}

template <int R, bool Pairs> inline void tile_float_any(Tile t) {
    for (t.vec = 0; t.vec < 2; t.vec++, t.ahead_step = 0) {
        switch (t.w->kind) {
            case WeightKind::u8: tile_float<R, WeightKind::u8, false, Pairs>(t); break;
            case WeightKind::u4:
                if (t.w->zero)
                    tile_float<R, WeightKind::u4, true, Pairs>(t);
                else
                    tile_float<R, WeightKind::u4, false, Pairs>(t);
                break;
            case WeightKind::bf16: tile_float<R, WeightKind::bf16, false, Pairs>(t); break;
            case WeightKind::f16: tile_float<R, WeightKind::f16, false, false>(t); break;
            case WeightKind::f32: tile_float<R, WeightKind::f32, false, false>(t); break;
        }
    }
}

// Rows [begin, end) of x times one panel.
template <bool Pairs> inline void panel_float(const Tile& tile, int64_t begin, int64_t end, const uint8_t* next_panel) {
    in_tiles<kTileRows>(tile, begin, end, next_panel,
                        [](auto rows, const Tile& t) { tile_float_any<decltype(rows)::value, Pairs>(t); });
}

}  // namespace LLMSERVE_ISA
}  // namespace llmserve
