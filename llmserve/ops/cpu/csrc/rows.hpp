// What is done to each row by itself: embedding, norms, quantising, the gate of the feed-forward block.
//
// Serial functions over ranges of rows; a row's result depends on that row alone. Knows nothing of threads.
#pragma once

#include "args.hpp"
#include "experts_args.hpp"
#include "gemm.hpp"
#include "simd.hpp"

namespace llmserve {
namespace LLMSERVE_ISA {

// 32 numbers → int8 with one scale, max|x| / 127, and -8 times their sum (see matrix.hpp). Magnitudes are compared as
// integers, among which NaN is the largest: a number that is none makes the scale none, and is not lost. Of numbers so
// small that the inverse of their scale is not finite, all become 0.
SIMD void quantise_group(F a, F b, int8_t* q, float* scale, int32_t* sum) {
    const I magnitude = splat(0x7fffffff);
    const int32_t bits = reduce_max(max(as_int(a) & magnitude, as_int(b) & magnitude));
    float largest;
    std::memcpy(&largest, &bits, 4);
    const F inverse = splat(largest > 1e-36f ? 127.0f / largest : 0.0f);
    const I qa = to_int(a * inverse), qb = to_int(b * inverse);
    store_s8(q, qa);
    store_s8(q + 16, qb);
    *scale = largest / 127.0f;
    *sum = (int32_t)(-8u * (uint32_t)reduce_add(qa + qb));
}

// A group of 32 numbers to row `row`, columns col … col + 31 of x, in its form.
SIMD void put_group(const Rows& x, int64_t row, int64_t col, F a, F b) {
    const int64_t at = row * x.cols + col;
    switch (x.kind) {
        case InputKind::s8: {
            const int64_t g = at / kQuantGroup;
            quantise_group(a, b, (int8_t*)x.data + at, x.scale + g, x.sums + g);
            break;
        }
        case InputKind::bf16:
            store_bf16((uint16_t*)x.data + at, a);
            store_bf16((uint16_t*)x.data + at + 16, b);
            break;
        case InputKind::f32:
            store((float*)x.data + at, a);
            store((float*)x.data + at + 16, b);
            break;
    }
}

SIMD F activate(F x, Activation activation) {
    switch (activation) {
        case Activation::silu: return silu(x);
        case Activation::gelu: return gelu(x);
        default: return x;
    }
}

inline void convert_row(const ConvertArgs& a, int64_t row) {
    const float* in = a.in + row * a.stride;
    const auto put = [&](int64_t c, const float* from) __attribute__((always_inline)) {
        put_group(a.x, row, c, activate(load(from), a.activation), activate(load(from + 16), a.activation));
    };
    int64_t c = 0;
    for (; c + 32 <= a.size; c += 32) put(c, in + c);
    for (; c < a.x.cols; c += 32) {
        float rest[32] = {};
        if (c < a.size) std::memcpy(rest, in + c, (a.size - c) * 4);
        put(c, rest);
    }
}

// Columns [begin, end), which are multiples of 16.
inline void softcap_row(const SoftcapArgs& a, int64_t row, int64_t begin, int64_t end) {
    float* y = a.y + row * a.stride;
    const F cap = splat(a.cap), inverse = splat(1.0f / a.cap);
    for (int64_t c = begin; c < end; c += 16) store(y + c, cap * tanh(load(y + c) * inverse));
}

inline void combine_row(const CombineArgs& a, int64_t token) {
    const Routes& routes = *a.routes;
    const int64_t k = routes.per_token;
    for (int64_t c = 0; c < a.cols; c += 16) {
        F sum = zero();
        for (int64_t n = token * k; n < (token + 1) * k; n++)
            sum = fma(splat(routes.weights[n]), load(a.given + routes.slot[n] * a.cols + c), sum);
        if (a.shared) sum = fma(splat(routes.shared[token]), load(a.shared + token * a.cols + c), sum);
        store(a.out + token * a.cols + c, sum);
    }
}

// 1 in so many lanes from the first, 0 in the others.
SIMD F first_lanes(int64_t count) {
    static const float ones[32] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    return load(ones + 16 - (count < 16 ? count : 16));
}

inline void norm_row(const NormArgs& a, const Batch& batch, int64_t out_row) {
    const int64_t cols = a.x[0].cols, row = a.gather ? batch.wanted_rows[out_row] : out_row;
    const float* residual = a.residual + row * cols;
    float* sum_row = a.total ? a.total + out_row * cols : nullptr;
    const auto add = [&](F v, int64_t c) __attribute__((always_inline)) {
        for (int d = 0; d < a.num_deltas; d++) v = v + load(a.deltas[d] + row * cols + c);
        return v;
    };
    F post = zero();
    if (a.post) {
        F squares = zero();
        for (int64_t c = 0; c < cols; c += 16) {
            const F v = add(zero(), c);
            squares = fma(v, v, squares);
        }
        post = splat(1.0f / __builtin_sqrtf(reduce_add(squares) / (float)a.size + a.post_eps));
    }
    const auto total = [&](int64_t c) __attribute__((always_inline)) {
        const F before = a.fresh ? zero() : load(residual + c);
        return a.post ? before + add(zero(), c) * post * load(a.post + c) : add(before, c);
    };
    F squares = zero(), sum = zero();
    for (int64_t c = 0; c < cols; c += 16) {
        const F v = total(c);
        if (sum_row) store(sum_row + c, v);
        squares = fma(v, v, squares);
        sum = sum + v;
    }
    const auto value = [&](int64_t c) __attribute__((always_inline)) { return sum_row ? load(sum_row + c) : total(c); };
    const float mean = a.bias ? reduce_add(sum) / (float)a.size : 0;
    float spread = reduce_add(squares);
    if (a.bias) {
        F around = zero();
        for (int64_t c = 0; c < a.size; c += 16) {  // columns of padding hold zeros, which are no mean
            const F v = (value(c) - splat(mean)) * first_lanes(a.size - c);
            around = fma(v, v, around);
        }
        spread = reduce_add(around);
    }
    const F factor = splat(1.0f / __builtin_sqrtf(spread / (float)a.size + a.eps));
    const auto scaled = [&](int64_t c) __attribute__((always_inline)) {
        if (!a.bias) return value(c) * factor * load(a.weight + c);
        return (value(c) - splat(mean)) * factor * load(a.weight + c) + load(a.bias + c);
    };
    for (int64_t c = 0; c < cols; c += 32) {
        const F y0 = scaled(c), y1 = scaled(c + 16);
        for (int o = 0; o < a.num_outputs; o++) put_group(a.x[o], out_row, c, y0, y1);
    }
}

SIMD float plain_value(WeightKind kind, const uint8_t* p) {
    float f = 0;
    if (kind == WeightKind::f32) {
        std::memcpy(&f, p, 4);
    } else {
        uint16_t half[16] = {};
        std::memcpy(half, p, 2);
        float wide[16];
        store(wide, kind == WeightKind::bf16 ? load_bf16(half) : load_f16(half));
        f = wide[0];
    }
    return f;
}

inline void table_row(const EmbeddingArgs& a, int64_t n, float* out) {
    const WeightKind kind = a.table.kind;
    const int64_t bytes = kind == WeightKind::f32 ? 4 : 2;
    if (a.by_row) {
        const uint8_t* p = a.table.data + n * a.size * bytes;
        int64_t c = 0;
        for (; c + 16 <= a.size; c += 16, p += 16 * bytes) {
            F v;
            if (kind == WeightKind::f32)
                v = load((const float*)p);
            else
                v = kind == WeightKind::bf16 ? load_bf16((const uint16_t*)p) : load_f16((const uint16_t*)p);
            store(out + c, v);
        }
        for (; c < a.size; c++, p += bytes) out[c] = plain_value(kind, p);
        return;
    }
    const uint8_t* panel = a.table.panel(n / kPanel);
    const int64_t lane = n % kPanel;
    for (int64_t c = 0; c < a.size; c++) {
        const int64_t at = kind == WeightKind::bf16 ? (c / 2 * kPanel + lane) * 2 + c % 2 : c * kPanel + lane;
        out[c] = plain_value(kind, panel + at * bytes);
    }
}

inline void embedding_row(const EmbeddingArgs& a, const Batch& batch, int64_t row) {
    float* out = a.out + row * a.cols;
    for (int64_t c = 0; c < a.cols; c += 16) store(out + c, zero());
    const int64_t n = batch.tokens[row] - a.first;
    if (n >= 0 && n < a.count) table_row(a, n, out);
    if (a.scale != 1.0f)
        for (int64_t c = 0; c < a.cols; c += 16) store(out + c, load(out + c) * splat(a.scale));
    if (!a.positions.data) return;
    const int64_t bytes = a.positions.kind == WeightKind::f32 ? 4 : 2;
    const uint8_t* p = a.positions.data + batch.positions[row] * a.size * bytes;
    for (int64_t c = 0; c < a.size; c++, p += bytes) out[c] += plain_value(a.positions.kind, p);
}

// Rows [begin, end) times panel p of the gate and panel p of the up projection: 32 columns of y.
inline void gated_panel(const GatedArgs& a, int64_t p, int64_t begin, int64_t end, float* scratch) {
    const int64_t up = p + a.w.panels() / 2;
    Tile t{&a.x, begin, &a.w, p, 0, a.bias, scratch, 64, nullptr, 0};
    panel_rows(t, begin, end, a.w.panel(up));
    t.panel = up;
    t.out = scratch + 32;
    panel_rows(t, begin, end, a.w.panel(p + 1));
    for (int64_t row = begin; row < end; row++) {
        const float* gate = scratch + (row - begin) * 64;
        const F lo = activate(load(gate), a.activation), hi = activate(load(gate + 16), a.activation);
        put_group(a.y, row, p * 32, lo * load(gate + 32), hi * load(gate + 48));
    }
}

}  // namespace LLMSERVE_ISA
}  // namespace llmserve
