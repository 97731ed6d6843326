// Rows of activations times a packed matrix: the same arithmetic for one row and for a thousand.
//
// What is computed for one row and one output is fixed: K in groups of 32 from the first to the last, exact integer
// sums (or fp32 sums in the order of K) within a group, one fp32 multiply-add per group. How many rows go together in
// registers changes how fast that is done and not one bit of the result. Knows nothing of threads: the caller hands out
// ranges of panels.
#pragma once

#include "matrix.hpp"
#include "simd.hpp"

namespace llmserve {
namespace LLMSERVE_ISA {

// The tile held in registers: rows × vectors of 16 outputs. 32 registers hold 6 × 2 integer sums and as many fp32
// sums, the weights, and what is being scaled; 16 registers of half the width hold far less.
#if defined(__AVX512F__)
constexpr int kTileRows = 6, kTileVecs = 2;
#elif defined(__AVX2__)
constexpr int kTileRows = 2, kTileVecs = 1;
#else
constexpr int kTileRows = 1, kTileVecs = 1;
#endif

// How far ahead of the multiplication weights are asked for: enough to cover memory's latency at full bandwidth.
constexpr int64_t kPrefetch = 2048;

struct Tile {
    const Rows* x;
    int64_t row;  // first of the tile
    const Matrix* w;
    int64_t panel;
    int vec;            // first vector of 16 outputs within the panel
    const float* bias;  // [rows of w] or null
    float* out;         // where the tile's first row and the panel's first output go
    int64_t stride;     // floats between rows of out
    const uint8_t* ahead;  // weights that will be wanted next …
    int64_t ahead_step;    // … and how many bytes of them to ask for per group of 32 columns
};

template <int R, int V> SIMD void finish(const Tile& t, F (&sum)[R][V]) {
    for (int v = 0; v < V; v++) {
        const int64_t col = t.vec * 16 + v * 16, n = t.panel * kPanel + col;
        for (int r = 0; r < R; r++) {
            F y = sum[r][v];
            if (t.w->kind == WeightKind::u8) y = y * load((const float*)t.w->scale + n);
            if (t.bias) y = y + load(t.bias + n);
            store(t.out + r * t.stride + col, y);
        }
    }
}

// acc += four columns of V · 16 outputs times the same columns of R rows.
template <int R, int V> SIMD void multiply(I (&acc)[R][V], const I (&w)[V], const int8_t* const (&x)[R], int64_t at) {
    for (int r = 0; r < R; r++) {
        int32_t four;
        std::memcpy(&four, x[r] + at, 4);
        I s = splat(four);
        for (int v = 0; v < V; v++) acc[r][v] = dot_u8s8(acc[r][v], w[v], s);
    }
}

// Quantised activations: integer dot products, exact, per group of 32.
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
    const I low = splat(0x0f0f0f0f);
    F sum[R][V];
    const uint8_t* ahead = t.ahead;
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++) sum[r][v] = llmserve::LLMSERVE_ISA::zero();
    int64_t until = 0;
    for (int64_t g = 0; g < groups; g++) {
        I acc[R][V];
        for (const uint8_t* end = ahead + t.ahead_step; ahead < end; ahead += 64) R == 1 ? prefetch_soon(ahead) : prefetch(ahead);
        for (int r = 0; r < R; r++) {
            I start = splat(sums[r][g]);
            if (!U4) start = shl<4>(start);
            for (int v = 0; v < V; v++) {
                acc[r][v] = start;
                if (Zero) acc[r][v] = splat(sums[r][g] / 8) * load_u8(zero + v * 16);
            }
        }
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
            F s = splat(xs[r][g]);
            for (int v = 0; v < V; v++) {
                F both = U4 ? s * load_f16(ws + v * 16) : s;
                sum[r][v] = fma(to_float(acc[r][v]), both, sum[r][v]);
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

SIMD I pair(const void* p) {
    int32_t two;
    std::memcpy(&two, p, 4);
    return splat(two);
}

// ------------------------------------------------------------------------------ activations that stay floating point

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
        for (const uint8_t* end = ahead + t.ahead_step; ahead < end; ahead += 64) R == 1 ? prefetch_soon(ahead) : prefetch(ahead);
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

// ------------------------------------------------------------------------------------------------- whole panels

template <int R> inline void tile_s8_any(Tile t) {
    for (t.vec = 0; t.vec < 2; t.vec += kTileVecs) {
        if (t.w->kind == WeightKind::u8)
            tile_s8<R, kTileVecs, false, false>(t);
        else if (t.w->zero)
            tile_s8<R, kTileVecs, true, true>(t);
        else
            tile_s8<R, kTileVecs, true, false>(t);
    }
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

template <int R> inline void tile_any(const Tile& t) {
    switch (t.x->kind) {
        case InputKind::s8: tile_s8_any<R>(t); break;
        case InputKind::bf16: tile_float_any<R, true>(t); break;
        case InputKind::f32: tile_float_any<R, false>(t); break;
    }
}

// Rows [begin, end) of x times one panel. The rows are cut into tiles of nearly equal height; while a tile is computed,
// its share of the panel that comes next is asked for, so that reading memory and computing overlap.
inline void panel_rows(Tile t, int64_t begin, int64_t end, const uint8_t* next_panel) {
    const int64_t rows = end - begin, tiles = (rows + kTileRows - 1) / kTileRows, groups = t.x->cols / 32;
    const int64_t lines = t.w->panel_bytes() / 64 / groups;  // of 64 bytes, per 32 columns
    const int64_t share = (lines + tiles - 1) / tiles;
    float* const out = t.out;
    for (int64_t i = 0, at = begin; i < tiles; i++) {
        const int64_t next = begin + rows * (i + 1) / tiles;
        t.row = at;
        t.out = out + (at - begin) * t.stride;
        t.ahead_step = i * share >= lines ? 0 : share * 64;
        t.ahead = rows == 1 ? t.w->panel(t.panel) + kPrefetch : next_panel + i * share * groups * 64;
        switch (next - at) {
            case 1: tile_any<1>(t); break;
#if defined(__AVX2__)
            case 2: tile_any<2>(t); break;
#endif
#if defined(__AVX512F__)
            case 3: tile_any<3>(t); break;
            case 4: tile_any<4>(t); break;
            case 5: tile_any<5>(t); break;
            case 6: tile_any<6>(t); break;
#endif
        }
        at = next;
    }
}

}  // namespace LLMSERVE_ISA
}  // namespace llmserve
