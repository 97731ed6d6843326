// Rows of int8 activations times a packed matrix, where four bytes a lane are multiplied and added up by one instruction
// (VNNI), or where that is as good as any other way.
#pragma once

#include "gemm_tile.hpp"

namespace llmserve {
namespace LLMSERVE_ISA {

// Vectors of 16 outputs that a tile holds in registers.
#if defined(__AVX512F__)
constexpr int kDotVecs = 2;
#else
constexpr int kDotVecs = 1;
#endif

// acc += four columns of V · 16 outputs times the same columns of R rows.
template <int R, int V> SIMD void multiply(I (&acc)[R][V], const I (&w)[V], const int8_t* const (&x)[R], int64_t at) {
    for (int r = 0; r < R; r++) {
        int32_t four;
        std::memcpy(&four, x[r] + at, 4);
        I s = splat(four);
        for (int v = 0; v < V; v++) acc[r][v] = dot_u8s8(acc[r][v], w[v], s);
    }
}

// The bits of 1.5 · 2²³ as a float: n more of them, |n| < 2²², are those of 1.5 · 2²³ + n. A sum of products that starts here
// is a float as it stands, and less what the offset of the weights adds to it, exact: conversions would hold up the products.
constexpr int32_t kFloatBits = 0x4b400000;

// Quantised activations: integer dot products, exact, per group of 32, at most 32 · 255 · 128 in size.
template <int R, int V, bool U4, bool Zero> inline void tile_s8(const Tile& t) {
    const int64_t groups = t.x->cols / kQuantGroup;
    const int8_t* x[R];
    const float* xs[R];
    const int32_t* sums[R];
    for (int r = 0; r < R; r++) {
        x[r] = (const int8_t*)t.x->data + (t.row + r) * t.x->cols;
        xs[r] = t.x->scale + (t.row + r) * groups;
        sums[r] = t.x->sums + (t.row + r) * groups;
    }
    const uint8_t* w = t.w->panel(t.panel) + t.vec * 64;
    const int64_t per = U4 ? t.w->group / kQuantGroup : 1, wgroups = U4 ? groups / per : 0;
    const uint16_t* ws = U4 ? (const uint16_t*)t.w->scale + t.panel * wgroups * kPanel + t.vec * 16 : nullptr;
    const uint8_t* zero = Zero ? t.w->zero + t.panel * wgroups * kPanel + t.vec * 16 : nullptr;
    const I low = splat(0x0f0f0f0f), bits = splat(kFloatBits);
    F sum[R][V];
    const uint8_t* ahead = t.ahead;
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++) sum[r][v] = llmserve::LLMSERVE_ISA::zero();
    int64_t until = 0;
    for (int64_t g = 0; g < groups; g++) {
        I acc[R][V];
        for (const uint8_t* end = ahead + t.ahead_step; ahead < end; ahead += 64) prefetch(ahead);
        for (int r = 0; r < R; r++)
            for (int v = 0; v < V; v++) acc[r][v] = bits;
        if (U4) {
#pragma GCC unroll 4
            for (int q = 0; q < 8; q += 2) {
                I both[V], part[V];
                for (int v = 0; v < V; v++) both[v] = load_bytes(w + v * 64), part[v] = both[v] & low;
                multiply<R, V>(acc, part, x, g * 32 + q * 4);
                for (int v = 0; v < V; v++) part[v] = shr<4>(both[v]) & low;
                multiply<R, V>(acc, part, x, g * 32 + q * 4 + 4);
                w += 128;
            }
        } else {
#pragma GCC unroll 8
            for (int q = 0; q < 8; q++) {
                I part[V];
                for (int v = 0; v < V; v++) part[v] = load_bytes(w + v * 64);
                multiply<R, V>(acc, part, x, g * 32 + q * 4);
                w += 128;
            }
        }
        for (int r = 0; r < R; r++) {
            const F s = splat(xs[r][g]);
            I mend = splat(sums[r][g]);
            if (!U4) mend = shl<4>(mend);
            for (int v = 0; v < V; v++) {
                if (Zero) mend = splat(sums[r][g] / 8) * load_u8(zero + v * 16);
                const F both = U4 ? s * load_f16(ws + v * 16) : s;
                sum[r][v] = fused(as_float(acc[r][v]) - as_float(bits - mend), both, sum[r][v]);
            }
        }
        if (U4 && g + 1 == until + per) {  // the next group of weights begins
            until += per;
            ws += kPanel;
            if (Zero) zero += kPanel;
        }
    }
    finish<R, V>(t, sum);
}

template <int R> inline void tile_s8_any(Tile t) {
    for (t.vec = 0; t.vec < 2; t.vec += kDotVecs) {
        if (t.w->kind == WeightKind::u8)
            tile_s8<R, kDotVecs, false, false>(t);
        else if (t.w->zero)
            tile_s8<R, kDotVecs, true, true>(t);
        else
            tile_s8<R, kDotVecs, true, false>(t);
    }
}

// Rows [begin, end) of x times one panel.
inline void panel_s8(const Tile& tile, int64_t begin, int64_t end, const uint8_t* next_panel) {
    in_tiles<kTileRows>(tile, begin, end, next_panel, [](auto rows, const Tile& t) { tile_s8_any<decltype(rows)::value>(t); });
}

}  // namespace LLMSERVE_ISA
}  // namespace llmserve
