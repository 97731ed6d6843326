// Rows of int8 activations times a packed matrix with AVX2, which has no exact dot product of bytes: the same integers as
// gemm_s8_dot.hpp, by other ways.
//
// vpmaddubsw multiplies bytes and adds neighbours in 16 bits. With weights of 4 bits that is exact, for a whole group of 32
// columns: 8 · 2 · 15 · 128 < 2¹⁵. Weights of 8 bits overflow it. For few rows they are taken for two of 4 bits, 16 · high +
// low, which costs no memory; for more, a block of columns is widened to 16 bits once, for vpmaddwd, which is a third
// faster. Weights of 4 bits are likewise unpacked to bytes once a block.
#pragma once

#include "gemm_tile.hpp"

namespace llmserve {
namespace LLMSERVE_ISA {

constexpr int kVecs = 4;        // of 8 outputs, in a panel
constexpr int kFewRows = 12;    // that unpacking weights to memory is not worth its while for
constexpr int kFewTile = 4, kBlockTile = 3;  // rows of a tile, without and with it
constexpr int64_t kBlock = 256; // columns unpacked at a time: what the first level of cache holds beside the activations

// Four bytes of activations for each of 8 outputs.
SIMD __m256i four(const void* p) {
    int32_t bytes;
    std::memcpy(&bytes, p, 4);
    return _mm256_set1_epi32(bytes);
}

// Keeps sums in the order they are written in. Otherwise gcc takes all products of a group first, and spills them.
SIMD void in_order(__m256i& sum) { asm("" : "+x"(sum)); }

// The same of what is loaded: gcc would take it out of a loop that it has no registers to keep it over.
template <class T> SIMD void again(const T*& p) { asm volatile("" : "+r"(p)); }

// What a group's integer sums are worth, for R rows and the panel of a tile.
template <int R, bool U4, bool Zero> struct Worth {
    const float* xs[R];
    const int32_t* sums[R];
    const uint16_t* ws;   // of the panel's first group
    const uint8_t* zero;
    uint32_t per;         // groups of activations to one of weights

    explicit Worth(const Tile& t) {
        const int64_t groups = t.x->cols / kQuantGroup;
        for (int r = 0; r < R; r++) {
            xs[r] = t.x->scale + (t.row + r) * groups;
            sums[r] = t.x->sums + (t.row + r) * groups;
        }
        per = U4 ? (uint32_t)(t.w->group / kQuantGroup) : 1;
        const int64_t at = t.panel * (groups / per) * kPanel;
        ws = U4 ? (const uint16_t*)t.w->scale + at : nullptr;
        zero = Zero ? t.w->zero + at : nullptr;
    }

    // sum[r] of V · 8 outputs += those of group g; total(r, v): its integer sum, before the offset is mended.
    template <int V, class Total> SIMD void add(float (&sum)[R][kPanel], int vec, int64_t g, Total total) const {
        const int64_t at = (int64_t)((uint32_t)g / per) * kPanel + vec * 8;
        __m256 w[V];
        __m256i z[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) {
            if (U4) w[v] = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(ws + at + v * 8)));
            if (Zero) z[v] = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)(zero + at + v * 8)));
        }
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            const int32_t mend = sums[r][g];
            const __m256 s = _mm256_set1_ps(xs[r][g]);
            // The product fits 16 · 16 bits: a zero point of 4 and a sum of 32 numbers of 8 bits.
            const __m256i offset = _mm256_set1_epi32(Zero ? mend / 8 : U4 ? mend : mend * 16);
#pragma GCC unroll 4
            for (int v = 0; v < V; v++) {
                const __m256i mended = Zero ? _mm256_madd_epi16(z[v], offset) : offset;
                const __m256 value = _mm256_cvtepi32_ps(_mm256_add_epi32(total(r, v), mended));
                float* out = &sum[r][(vec + v) * 8];
                _mm256_store_ps(out, _mm256_fmadd_ps(value, U4 ? _mm256_mul_ps(s, w[v]) : s, _mm256_load_ps(out)));
            }
        }
    }
};

template <int R> SIMD void put(const Tile& t, const float (&sum)[R][kPanel]) {
    for (int r = 0; r < R; r++) {
        const F both[1][2] = {{load(sum[r]), load(sum[r] + 16)}};
        Tile row = t;
        row.out = t.out + r * t.stride;
        finish<1, 2>(row, both);
    }
}

// ------------------------------------------------------------------------------------------ few rows, all columns

// As many vectors of outputs go together as leave the sums in registers.
template <int R, bool U4> constexpr int vecs_of_few() { return R == 1 || (U4 && R == 2) ? 4 : U4 ? 2 : 1; }

template <int R, bool U4, bool Zero> inline void tile_few(const Tile& t) {
    constexpr int V = vecs_of_few<R, U4>(), kUnits = U4 ? 4 : 8, kParts = U4 ? 1 : 2;  // a group's units of 4 bytes
    const int64_t groups = t.x->cols / kQuantGroup;
    const Worth<R, U4, Zero> worth(t);
    const int8_t* x[R];
    for (int r = 0; r < R; r++) x[r] = (const int8_t*)t.x->data + (t.row + r) * t.x->cols;
    const uint8_t *w = t.w->panel(t.panel), *ahead = t.ahead;
    const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1), sixteens = _mm256_set1_epi16(16);
    alignas(32) float sum[R][kPanel] = {};
    for (int64_t g = 0; g < groups; g++, w += kUnits * 128) {
        for (const uint8_t* end = ahead + t.ahead_step; ahead < end; ahead += 64) prefetch(ahead);
        for (int vec = 0; vec < kVecs; vec += V) {
            __m256i acc[kParts][R][V];
            for (int r = 0; r < R; r++) again(x[r]);
#pragma GCC unroll 8
            for (int unit = 0; unit < kUnits; unit++) {
                __m256i nibbles[2][V];
#pragma GCC unroll 4
                for (int v = 0; v < V; v++) {
                    const __m256i both = _mm256_loadu_si256((const __m256i*)(w + unit * 128 + (vec + v) * 32));
                    nibbles[0][v] = _mm256_and_si256(both, low);
                    nibbles[1][v] = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
                }
                // u4: the two halves are of different columns and go to one sum; u8: of the same, to sums of their own.
#pragma GCC unroll 2
                for (int half = 0; half < 2; half++)
#pragma GCC unroll 4
                    for (int r = 0; r < R; r++) {
                        const __m256i s = four(x[r] + g * 32 + (U4 ? unit * 8 + half * 4 : unit * 4));
#pragma GCC unroll 4
                        for (int v = 0; v < V; v++) {
                            __m256i& to = acc[U4 ? 0 : half][r][v];
                            const __m256i product = _mm256_maddubs_epi16(nibbles[half][v], s);
                            to = unit == 0 && !(U4 && half) ? product : _mm256_add_epi16(to, product);
                            in_order(to);
                        }
                    }
            }
            worth.template add<V>(sum, vec, g, [&](int r, int v) __attribute__((always_inline)) {
                const __m256i total = _mm256_madd_epi16(acc[0][r][v], ones);
                return U4 ? total : _mm256_add_epi32(total, _mm256_madd_epi16(acc[kParts - 1][r][v], sixteens));
            });
        }
    }
    put<R>(t, sum);
}

// ------------------------------------------------------------------------------------- many rows, a block of columns

// A group's weights take as many steps as there are vectors of a panel for it: of bytes, four columns to a lane; of 16
// bits, columns 4k and 4k + 2, then 4k + 1 and 4k + 3.
template <bool U4> constexpr int steps() { return U4 ? 8 : 16; }

// `groups` of 32 columns, while as many bytes from `ahead` on are asked for as `ahead_groups` take.
template <bool U4>
SIMD void unpack_block(const uint8_t* w, int64_t groups, __m256i* out, const uint8_t* ahead, int64_t ahead_groups) {
    constexpr int kUnits = U4 ? 4 : 8, kLines = 2 * kUnits;
    const __m256i low = U4 ? _mm256_set1_epi8(15) : _mm256_set1_epi16(255);
    const int64_t share = (ahead_groups * kLines + groups - 1) / groups;
    for (int64_t g = 0; g < groups; g++) {
        for (int64_t line = 0; line < share; line++, ahead += 64) prefetch(ahead);
        for (int unit = 0; unit < kUnits; unit++, out += 2 * kVecs)
            for (int v = 0; v < kVecs; v++, w += 32) {
                const __m256i packed = _mm256_loadu_si256((const __m256i*)w);
                out[v] = _mm256_and_si256(packed, low);
                out[kVecs + v] = U4 ? _mm256_and_si256(_mm256_srli_epi16(packed, 4), low) : _mm256_srli_epi16(packed, 8);
            }
    }
}

// Activations as the steps of u8 want them.
SIMD void widen(const int8_t* x, int64_t count, int16_t* out) {
    const __m128i order = _mm_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15);
    for (int64_t i = 0; i < count; i += 16)
        _mm256_store_si256((__m256i*)(out + i),
                           _mm256_cvtepi8_epi16(_mm_shuffle_epi8(_mm_loadu_si128((const __m128i*)(x + i)), order)));
}

// Columns [begin, end), whose weights are unpacked. Sums so far are kept where the results will be.
template <int R, bool U4, bool Zero>
inline void tile_block(const Tile& t, int64_t begin, int64_t end, const __m256i* weights) {
    constexpr int S = steps<U4>();
    const Worth<R, U4, Zero> worth(t);
    alignas(32) int16_t wide[U4 ? 1 : R][U4 ? 16 : kBlock];
    alignas(32) float sum[R][kPanel];
    const uint8_t* x[R];
    for (int r = 0; r < R; r++) {
        const int8_t* row = (const int8_t*)t.x->data + (t.row + r) * t.x->cols + begin;
        for (int64_t c = 0; c < end - begin; c += 64) prefetch(row + R * t.x->cols + c);  // of the next tile
        if constexpr (!U4) widen(row, end - begin, wide[r]);
        x[r] = U4 ? (const uint8_t*)row : (const uint8_t*)wide[U4 ? 0 : r];
        for (int c = 0; c < kPanel; c += 16) store(sum[r] + c, begin ? load(t.out + r * t.stride + c) : zero());
    }
    const __m256i ones = _mm256_set1_epi16(1);
    for (int64_t g = begin / kQuantGroup; g < end / kQuantGroup; g++, weights += S * kVecs) {
        __m256i acc[R][kVecs];
#pragma GCC unroll 16
        for (int step = 0; step < S; step++) {
            __m256i s[R];
#pragma GCC unroll 4
            for (int r = 0; r < R; r++) s[r] = four(x[r] + step * 4);
#pragma GCC unroll 4
            for (int v = 0; v < kVecs; v++) {
                const __m256i w = _mm256_load_si256(weights + step * kVecs + v);
#pragma GCC unroll 4
                for (int r = 0; r < R; r++) {
                    const __m256i product = U4 ? _mm256_maddubs_epi16(w, s[r]) : _mm256_madd_epi16(w, s[r]);
                    __m256i& to = acc[r][v];
                    to = !step ? product : U4 ? _mm256_add_epi16(to, product) : _mm256_add_epi32(to, product);
                    in_order(to);
                }
            }
        }
        for (int r = 0; r < R; r++) x[r] += S * 4;
        worth.template add<kVecs>(sum, 0, g, [&](int r, int v) __attribute__((always_inline)) {
            return U4 ? _mm256_madd_epi16(acc[r][v], ones) : acc[r][v];
        });
    }
    if (end == t.x->cols) {
        put<R>(t, sum);
        return;
    }
    for (int r = 0; r < R; r++)
        for (int c = 0; c < kPanel; c += 16) store(t.out + r * t.stride + c, load(sum[r] + c));
}

// --------------------------------------------------------------------------------------------------- whole panels

template <bool U4, bool Zero> inline void panel_integers(const Tile& tile, int64_t begin, int64_t end, const uint8_t* next) {
    if (end - begin <= kFewRows) {
        in_tiles<kFewTile>(tile, begin, end, next, [](auto rows, const Tile& t) { tile_few<decltype(rows)::value, U4, Zero>(t); });
        return;
    }
    constexpr int64_t kBlockGroups = kBlock / kQuantGroup, kGroupBytes = U4 ? 512 : 1024;  // of the packed panel
    alignas(32) __m256i weights[kBlockGroups * steps<U4>() * kVecs];
    const int64_t groups = tile.x->cols / kQuantGroup;
    const uint8_t* packed = tile.w->panel(tile.panel);
    const auto length = [&](int64_t first) { return first + kBlockGroups < groups ? kBlockGroups : groups - first; };
    for (int64_t g = 0, n; g < groups; g += n) {
        n = length(g);
        const bool last = g + n == groups;
        const uint8_t* block = packed + g * kGroupBytes;
        unpack_block<U4>(block, n, weights, last ? next : block + n * kGroupBytes, length(last ? 0 : g + n));
        const int64_t from = g * kQuantGroup, to = (g + n) * kQuantGroup;
        in_tiles<kBlockTile>(tile, begin, end, next, [&](auto rows, const Tile& t) {
            tile_block<decltype(rows)::value, U4, Zero>(t, from, to, weights);
        });
    }
}

// Rows [begin, end) of x times one panel.
inline void panel_s8(const Tile& t, int64_t begin, int64_t end, const uint8_t* next_panel) {
    if (t.w->kind == WeightKind::u8)
        panel_integers<false, false>(t, begin, end, next_panel);
    else if (t.w->zero)
        panel_integers<true, true>(t, begin, end, next_panel);
    else
        panel_integers<true, false>(t, begin, end, next_panel);
}

}  // namespace LLMSERVE_ISA
}  // namespace llmserve
