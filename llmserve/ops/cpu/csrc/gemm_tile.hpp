// A tile of a matrix multiplication: a few rows of activations and a panel of 32 outputs, and how rows are cut into tiles.
//
// Knows nothing of how a tile is computed, or of threads.
#pragma once

#include "matrix.hpp"
#include "simd.hpp"

namespace llmserve {
namespace LLMSERVE_ISA {

// Most rows of a tile. 32 registers hold 6 × 2 vectors of sums, the weights, and what is being scaled; 16 registers of half
// the width hold 6 rows of one vector.
#if defined(__AVX2__)
constexpr int kTileRows = 6;
#else
constexpr int kTileRows = 1;
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

template <int R, int V> SIMD void finish(const Tile& t, const F (&sum)[R][V]) {
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

template <int n> struct Rowcount {
    static constexpr int value = n;
};

// Calls f(Rowcount<rows of the tile>(), tile) for rows [begin, end), cut into tiles of nearly equal height, at most `most`.
// While a tile is computed, its share of the panel that comes next is to be asked for, so that reading memory and computing
// overlap.
template <int most, class F> SIMD void in_tiles(Tile t, int64_t begin, int64_t end, const uint8_t* next_panel, F f) {
    const int64_t rows = end - begin, tiles = (rows + most - 1) / most, groups = t.x->cols / 32;
    const int64_t lines = t.w->panel_bytes() / 64 / groups;  // of 64 bytes, per 32 columns
    const int64_t share = (lines + tiles - 1) / tiles;
    float* const out = t.out;
    for (int64_t i = 0, at = begin; i < tiles; i++) {
        const int64_t next = begin + rows * (i + 1) / tiles;
        t.row = at;
        t.out = out + (at - begin) * t.stride;
        t.ahead_step = i * share >= lines ? 0 : share * 64;
        t.ahead = rows == 1 ? t.w->panel(t.panel) + kPrefetch : next_panel + i * share * groups * 64;
        const int64_t n = next - at;
        // Rows of out lie far apart: the lines that the tile's sums go to come while it is computed.
        for (int64_t r = 0; r < n && n > 1; r++) prefetch(t.out + r * t.stride), prefetch(t.out + r * t.stride + 16);
        if (n == 1) f(Rowcount<1>(), t);
        if constexpr (most >= 2) if (n == 2) f(Rowcount<2>(), t);
        if constexpr (most >= 3) if (n == 3) f(Rowcount<3>(), t);
        if constexpr (most >= 4) if (n == 4) f(Rowcount<4>(), t);
        if constexpr (most >= 5) if (n == 5) f(Rowcount<5>(), t);
        if constexpr (most >= 6) if (n == 6) f(Rowcount<6>(), t);
        at = next;
    }
}

}  // namespace LLMSERVE_ISA
}  // namespace llmserve
