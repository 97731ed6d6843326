// The two products of attention, for a few rows held in registers: queries · keys, and weights · values.
//
// A row's sum is taken in the order of its operands, one accumulator to a lane, however many rows and vectors go
// together: the shapes below are a matter of speed alone. A value of K or V that has been loaded serves all rows of the
// call. Knows nothing of positions, masks or softmax.
#pragma once

#include "kv_cache.hpp"
#include "simd.hpp"

namespace llmserve {
namespace LLMSERVE_ISA {
namespace attention {

// Rows × vectors of 16 held in registers. With sums of bytes there are two accumulators for each, and where bf16 dot
// products are made of fp32 ones, both operands take twice the registers.
#if defined(__AVX512BF16__)
constexpr int kRowsF32 = 6, kRowsBF16 = 6, kRowsS8 = 3, kVecs = 4;
#elif defined(__AVX512F__)
constexpr int kRowsF32 = 6, kRowsBF16 = 4, kRowsS8 = 2, kVecs = 4;
#elif defined(__AVX2__)
constexpr int kRowsF32 = 5, kRowsBF16 = 4, kRowsS8 = 2, kVecs = 1;
#else
constexpr int kRowsF32 = 2, kRowsBF16 = 2, kRowsS8 = 1, kVecs = 1;
#endif

constexpr int rows_at_once(KVKind kind) {
    return kind == KVKind::f32 ? kRowsF32 : kind == KVKind::bf16 ? kRowsBF16 : kRowsS8;
}

template <KVKind kind> SIMD F dot(F acc, I x, I w) {
    if constexpr (kind == KVKind::f32) return fma(as_float(x), as_float(w), acc);
    return dot_bf16(acc, w, x);
}

// dot_u8s8 in place. gcc 12 copies accumulators back and forth around the intrinsic, whose vectors are of another type
// than those of the registers' variables: a third of the speed.
SIMD void dot_bytes(I& acc, I u, I s) {
#if defined(__AVX512F__)
    asm("vpdpbusd %2, %1, %0" : "+v"(acc.v) : "v"(u.v), "v"(s.v));
#else
    acc = dot_u8s8(acc, u, s);
#endif
}

// Queries of R rows, 4-byte units `stride` apart, and where their scores go, `out_stride` floats apart.
struct ScoreArgs {
    const int32_t* q;
    int64_t stride, steps;
    const int32_t* q_sum;  // s8: [R][2]
    float* out;
    int64_t out_stride;
};

// Scores of R rows with N tiles of 16 keys, in the lanes of N vectors. In each step, a line of each of `Ahead` tiles of
// the next block is asked for: requests spread evenly over the work overlap with it.
template <KVKind kind, int R, int N, int Ahead>
inline __attribute__((noinline)) void scores(const ScoreArgs& a, const KVTile* tile, const KVTile* next) {
    const uint8_t *k[N], *ahead[Ahead + 1];
    for (int v = 0; v < N; v++) k[v] = tile[v].k;
    for (int v = 0; v < Ahead; v++) ahead[v] = next[v].k;
    const int32_t* q = a.q;
    const int64_t stride = a.stride, steps = a.steps;
    if constexpr (kind != KVKind::s8) {
        F acc[R][N];
#pragma GCC unroll 8
        for (int r = 0; r < R; r++)
#pragma GCC unroll 8
            for (int v = 0; v < N; v++) acc[r][v] = zero();
        for (int64_t i = 0; i < steps; i++) {
            I w[N];
#pragma GCC unroll 8
            for (int v = 0; v < N; v++) w[v] = load_bytes(k[v] + i * 64);
#pragma GCC unroll 8
            for (int v = 0; v < Ahead; v++) prefetch(ahead[v] + i * 64);
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) {
                const I x = splat(q[r * stride + i]);
#pragma GCC unroll 8
                for (int v = 0; v < N; v++) acc[r][v] = dot<kind>(acc[r][v], x, w[v]);
            }
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; r++)
#pragma GCC unroll 8
            for (int v = 0; v < N; v++) store(a.out + r * a.out_stride + v * 16, acc[r][v]);
    } else {
        I high[R][N], low[R][N];
#pragma GCC unroll 8
        for (int r = 0; r < R; r++)
#pragma GCC unroll 8
            for (int v = 0; v < N; v++) high[r][v] = splat(a.q_sum[2 * r]), low[r][v] = splat(a.q_sum[2 * r + 1]);
        for (int64_t i = 0; i < steps; i++) {
            I w[N];
#pragma GCC unroll 8
            for (int v = 0; v < N; v++) w[v] = load_bytes(k[v] + i * 64);
#pragma GCC unroll 8
            for (int v = 0; v < Ahead; v++) prefetch(ahead[v] + i * 64);
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) {
                const I x = splat(q[r * stride + i]), y = splat(q[r * stride + steps + i]);
#pragma GCC unroll 8
                for (int v = 0; v < N; v++) {
                    dot_bytes(high[r][v], w[v], x);
                    dot_bytes(low[r][v], w[v], y);
                }
            }
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; r++)
#pragma GCC unroll 8
            for (int v = 0; v < N; v++)
                store(a.out + r * a.out_stride + v * 16,
                      to_float(shl<8>(high[r][v]) + low[r][v]) * load(tile[v].k_scale));
    }
}

// Weights of R rows for the keys of some tiles, and accumulators of the same rows.
struct WeighArgs {
    const int32_t* weights;  // of tile 0, 4-byte units: s8: [low_offset] further on, the low bytes
    int64_t stride, low_offset;
    const float* decay;      // [R]: what the accumulator is multiplied by first
    const float* unit;       // [R]: s8: what an integer sum is worth
    float* acc;
    int64_t acc_stride;
    int64_t row_bytes;       // of V: of the 1, 2 or 4 positions that share a lane
    int tile_begin, tile_end;
};

// Adds weights · values to N vectors of the accumulators. Adding +0 at the end leaves no zero its sign: tiles that a
// row sees nothing of may or may not take part, for its neighbours' sake.
template <KVKind kind, int R, int N, int Ahead>
inline __attribute__((noinline)) void weigh(const WeighArgs& a, int vec, const KVTile* tile, const KVTile* next,
                                             int ahead_vec) {
    constexpr int kSteps = kind == KVKind::f32 ? 16 : kind == KVKind::bf16 ? 8 : 4;  // of a tile
    const int64_t stride = a.stride, row_bytes = a.row_bytes;
    if constexpr (kind != KVKind::s8) {
        F acc[R][N];
#pragma GCC unroll 8
        for (int r = 0; r < R; r++)
#pragma GCC unroll 8
            for (int v = 0; v < N; v++) acc[r][v] = load(a.acc + r * a.acc_stride + v * 16) * splat(a.decay[r]);
        for (int t = a.tile_begin; t < a.tile_end; t++) {
            const uint8_t *values = tile[t].v + vec * 64, *ahead = Ahead ? next[t].v + ahead_vec * 64 : nullptr;
            const int32_t* p = a.weights + t * kSteps;
#pragma GCC unroll 1
            for (int i = 0; i < kSteps; i++) {
                I w[N];
#pragma GCC unroll 8
                for (int v = 0; v < N; v++) w[v] = load_bytes(values + v * 64);
#pragma GCC unroll 8
                for (int v = 0; v < Ahead; v++) prefetch(ahead + v * 64);
#pragma GCC unroll 8
                for (int r = 0; r < R; r++) {
                    const I x = splat(p[r * stride + i]);
#pragma GCC unroll 8
                    for (int v = 0; v < N; v++) acc[r][v] = dot<kind>(acc[r][v], x, w[v]);
                }
                values += row_bytes;
                if (Ahead) ahead += row_bytes;
            }
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; r++)
#pragma GCC unroll 8
            for (int v = 0; v < N; v++) store(a.acc + r * a.acc_stride + v * 16, acc[r][v] + zero());
    } else {
        I high[R][N], low[R][N];
#pragma GCC unroll 8
        for (int r = 0; r < R; r++)
#pragma GCC unroll 8
            for (int v = 0; v < N; v++) high[r][v] = splat((int32_t)0), low[r][v] = splat((int32_t)0);
        for (int t = a.tile_begin; t < a.tile_end; t++) {
            const uint8_t *values = tile[t].v + vec * 64, *ahead = Ahead ? next[t].v + ahead_vec * 64 : nullptr;
            const int32_t* p = a.weights + t * kSteps;
#pragma GCC unroll 1
            for (int i = 0; i < kSteps; i++) {
                I w[N];
#pragma GCC unroll 8
                for (int v = 0; v < N; v++) w[v] = load_bytes(values + v * 64);
#pragma GCC unroll 8
                for (int v = 0; v < Ahead; v++) prefetch(ahead + v * 64);
#pragma GCC unroll 8
                for (int r = 0; r < R; r++) {
                    const I x = splat(p[r * stride + i]), y = splat(p[r * stride + a.low_offset + i]);
#pragma GCC unroll 8
                    for (int v = 0; v < N; v++) {
                        dot_bytes(high[r][v], x, w[v]);
                        dot_bytes(low[r][v], y, w[v]);
                    }
                }
                values += row_bytes;
                if (Ahead) ahead += row_bytes;
            }
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; r++)
#pragma GCC unroll 8
            for (int v = 0; v < N; v++) {
                float* out = a.acc + r * a.acc_stride + v * 16;
                const F old = load(out) * splat(a.decay[r]);
                store(out, fma(to_float(shl<8>(high[r][v]) + low[r][v]), splat(a.unit[r]), old) + zero());
            }
    }
}

// Which of several parts of the rows asks for the next block's lines: with one part it asks for all of them, with more
// the first two ask for half of them each.
struct Ahead {
    const KVTile* next;  // null: nobody asks
    int part, parts;

    bool all() const { return next && parts == 1; }
    bool half() const { return next && parts > 1 && part < 2; }
};

// All tiles' scores of R rows.
template <KVKind kind, int R>
SIMD void all_scores(ScoreArgs a, int tile_begin, int tile_end, const KVTile* tile, const Ahead& ahead) {
    constexpr int N = kVecs, H = kVecs / 2;
    float* out = a.out;
    int t = tile_begin;
    for (; t + N <= tile_end; t += N) {
        a.out = out + t * 16;
        if (ahead.all() || (N == 1 && ahead.half() && t % 2 == ahead.part))
            scores<kind, R, N, N>(a, tile + t, ahead.next + t);
        else if (N > 1 && ahead.half())
            scores<kind, R, N, H>(a, tile + t, ahead.next + t + ahead.part * H);
        else
            scores<kind, R, N, 0>(a, tile + t, nullptr);
    }
    if constexpr (N > 1)
        for (; t < tile_end; t++) {
            a.out = out + t * 16;
            scores<kind, R, 1, 0>(a, tile + t, nullptr);
        }
}

// N vectors of R rows' accumulators, from vector `vec` on.
template <KVKind kind, int R, int N>
SIMD void weigh_vecs(const WeighArgs& a, int vec, const KVTile* tile, const Ahead& ahead) {
    constexpr int H = N / 2;
    if (ahead.all() || (N == 1 && ahead.half() && vec % 2 == ahead.part))
        weigh<kind, R, N, N>(a, vec, tile, ahead.next, vec);
    else if (N > 1 && ahead.half())
        weigh<kind, R, N, H>(a, vec, tile, ahead.next, vec + ahead.part * H);
    else
        weigh<kind, R, N, 0>(a, vec, tile, nullptr, 0);
}

// All vectors of R rows' accumulators.
template <KVKind kind, int R>
SIMD void weigh_all(WeighArgs a, int vecs, const KVTile* tile, const Ahead& ahead) {
    float* acc = a.acc;
    int v = 0;
    for (; v + kVecs <= vecs; v += kVecs) {
        a.acc = acc + v * 16;
        weigh_vecs<kind, R, kVecs>(a, v, tile, ahead);
    }
    if constexpr (kVecs > 2)
        for (; v + 2 <= vecs; v += 2) {
            a.acc = acc + v * 16;
            weigh_vecs<kind, R, 2>(a, v, tile, ahead);
        }
    if constexpr (kVecs > 1)
        for (; v < vecs; v++) {
            a.acc = acc + v * 16;
            weigh_vecs<kind, R, 1>(a, v, tile, ahead);
        }
}

template <int n> struct Count {
    static constexpr int value = n;
};

// Cuts `rows` into the fewest parts of at most `most`, as equal as can be, and calls f(Count<rows of the part>(), first
// row, number of the part, parts).
template <int most, typename Fn> SIMD void in_parts(int rows, Fn f) {
    const int parts = (rows + most - 1) / most;
    for (int part = 0, at = 0; part < parts; part++) {
        const int n = (rows - at + parts - part - 1) / (parts - part);
        if (n == 1) f(Count<1>(), at, part, parts);
        if constexpr (most >= 2) if (n == 2) f(Count<2>(), at, part, parts);
        if constexpr (most >= 3) if (n == 3) f(Count<3>(), at, part, parts);
        if constexpr (most >= 4) if (n == 4) f(Count<4>(), at, part, parts);
        if constexpr (most >= 5) if (n == 5) f(Count<5>(), at, part, parts);
        if constexpr (most >= 6) if (n == 6) f(Count<6>(), at, part, parts);
        at += n;
    }
}

}  // namespace attention
}  // namespace LLMSERVE_ISA
}  // namespace llmserve
