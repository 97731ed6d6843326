// What lies between the projection of q, k and v and attention: per-head RMSNorm (some models), rotary position
// embedding, and writing keys and values to the paged cache in the cache's kind.
//
// A work item is a token and a kv head: it takes the query heads of that kv head with it. Items are independent, and
// each writes bytes of the cache that no other does. Knows nothing of threads.
#pragma once

#include "attention_args.hpp"
#include "simd.hpp"

namespace llmserve {
namespace LLMSERVE_ISA {
namespace rope {

constexpr int kRoom = kMaxHeadDim + 16;  // a head, and what a vector may reach past its end

// x · w / rms(x), as two products in that order. What lies between dim and the next multiple of 16 is 0.
SIMD void rms_norm(float* x, const float* weight, float eps, int dim) {
    F square = zero();
    for (int i = 0; i < dim; i += 16) square = fma(load(x + i), load(x + i), square);
    const float inverse = 1.0f / __builtin_sqrtf(reduce_add(square) / (float)dim + eps);
    int i = 0;
    for (; i + 16 <= dim; i += 16) store(x + i, load(weight + i) * (load(x + i) * splat(inverse)));
    for (; i < dim; i++) x[i] = weight[i] * (x[i] * inverse);
}

// Pairs (i, i + D/2) turn by the angle of i.
SIMD void rotate(float* x, const float* cos, const float* sin, int half) {
    int i = 0;
    for (; i + 16 <= half; i += 16) {
        const F a = load(x + i), b = load(x + half + i), c = load(cos + i), s = load(sin + i);
        store(x + i, a * c - b * s);
        store(x + half + i, b * c + a * s);
    }
    for (; i < half; i++) {
        const float a = x[i], b = x[half + i], c = cos[i], s = sin[i];
        x[i] = a * c - b * s;
        x[half + i] = b * c + a * s;
    }
}

SIMD void fetch(float* x, const float* from, int dim) {
    std::memcpy(x, from, dim * 4);
    std::memset(x + dim, 0, 64);
}

// Integers up to 127 and what one of them is worth. The division by the scale is a product with its inverse, once for
// K and V alike. Of what is no number the scale is none.
SIMD float quantize(const float* x, int8_t* out, int dim) {
    const float top = largest_magnitude(x, dim);
    const F inverse = splat(top > 1e-30f ? 127.0f / top : 0.0f);
    for (int i = 0; i < dim; i += 16) store_s8(out + i, to_int(load(x + i) * inverse));
    return top <= 1e-30f ? 0.0f : top / 127.0f;
}

SIMD void write_k(const KVTile& tile, KVKind kind, int slot, const float* k, int dim) {
    if (kind == KVKind::f32) {
        float* out = (float*)tile.k + slot;
        for (int i = 0; i < dim; i++) out[i * 16] = k[i];
    } else if (kind == KVKind::bf16) {
        uint16_t bits[kRoom];
        for (int i = 0; i < dim; i += 16) store_bf16(bits + i, load(k + i));
        uint8_t* out = tile.k + slot * 4;
        for (int i = 0; i < dim; i += 2) std::memcpy(out + i / 2 * 64, bits + i, 4);
    } else {
        int8_t q[kRoom];
        tile.k_scale[slot] = quantize(k, q, dim);
        for (int i = 0; i < kRoom; i++) q[i] = (int8_t)(q[i] ^ 0x80);  // + 128
        uint8_t* out = tile.k + slot * 4;
        for (int i = 0; i < dim; i += 4) std::memcpy(out + i / 4 * 64, q + i, 4);
    }
}

SIMD void write_v(const KVTile& tile, KVKind kind, int slot, const float* v, int dim) {
    const int64_t padded = round_up(dim, 16);
    if (kind == KVKind::f32) {
        std::memcpy((float*)tile.v + slot * padded, v, dim * 4);
    } else if (kind == KVKind::bf16) {
        uint16_t bits[kRoom];
        for (int i = 0; i < dim; i += 16) store_bf16(bits + i, load(v + i));
        uint16_t* out = (uint16_t*)tile.v + slot / 2 * padded * 2 + slot % 2;
        for (int i = 0; i < dim; i++) out[2 * i] = bits[i];
    } else {
        int8_t q[kRoom];
        tile.v_scale[slot] = quantize(v, q, dim);
        int8_t* out = (int8_t*)tile.v + slot / 4 * padded * 4 + slot % 4;
        for (int i = 0; i < dim; i++) out[4 * i] = q[i];
    }
}

// Zeros for the values behind the last one written to a tile, of which `slot` is the first: they will weigh 0, but
// what another sequence has left there need not be a number. (Of bytes any is.)
SIMD void clear_v(const KVTile& tile, KVKind kind, int slot, int dim) {
    const int64_t padded = round_up(dim, 16);
    if (kind == KVKind::f32) {
        std::memset((float*)tile.v + slot * padded, 0, (kKVTile - slot) * padded * 4);
    } else if (kind == KVKind::bf16) {
        uint16_t* out = (uint16_t*)tile.v + slot / 2 * padded * 2;
        if (slot % 2) {
            for (int64_t i = 0; i < padded; i++) out[2 * i + 1] = 0;
            slot++, out += padded * 2;
        }
        std::memset(out, 0, (kKVTile - slot) * padded * 2);
    }
}

SIMD void write_token(const RopeArgs& a, int64_t token, int kv_head, const int32_t* blocks, int64_t position,
                      bool clear) {
    const int dim = a.cache.head_dim, half = dim / 2, group = a.heads / a.cache.kv_heads;
    const float *row = a.qkv + token * a.stride, *cos = a.cos + token * half, *sin = a.sin + token * half;
    alignas(64) float x[kRoom];
    for (int h = kv_head * group; h < (kv_head + 1) * group; h++) {
        fetch(x, row + h * dim, dim);
        if (a.q_norm) rms_norm(x, a.q_norm, a.eps, dim);
        rotate(x, cos, sin, half);
        if (a.growth)
            for (int i = 0; i < dim; i++) x[i] *= a.growth[token];
        std::memcpy(a.q + (token * a.heads + h) * dim, x, dim * 4);
    }
    const KVTile tile = kv_tile(a.cache, blocks, kv_head, position);
    const int slot = (int)(position % kKVTile);
    fetch(x, row + (a.heads + kv_head) * dim, dim);
    if (a.k_norm) rms_norm(x, a.k_norm, a.eps, dim);
    rotate(x, cos, sin, half);
    write_k(tile, a.cache.kind, slot, x, dim);
    fetch(x, row + (a.heads + a.cache.kv_heads + kv_head) * dim, dim);
    write_v(tile, a.cache.kind, slot, x, dim);
    if (clear) clear_v(tile, a.cache.kind, slot + 1, dim);
}

}  // namespace rope

SIMD int64_t rope_items(const RopeArgs& a) { return (int64_t)a.batch->num_tokens * a.cache.kv_heads; }

// Items [begin, end), of which neighbours are the kv heads of one token. Spans lie in the order of their rows and cover
// all of them.
inline __attribute__((noinline)) void rope_write(const RopeArgs& a, int64_t begin, int64_t end) {
    const Batch& batch = *a.batch;
    const int64_t kv_heads = a.cache.kv_heads;
    if (begin >= end) return;
    int32_t low = 0, high = batch.num_spans;  // the span of the first item: in [low, high)
    while (high - low > 1) {
        const int32_t middle = (low + high) / 2;
        (batch.spans[middle].first <= begin / kv_heads ? low : high) = middle;
    }
    for (int64_t i = begin; i < end; i++) {
        const int64_t token = i / kv_heads;
        while (token >= batch.spans[low].first + batch.spans[low].length) low++;
        const Span& span = batch.spans[low];
        const int64_t start = span.context - span.length, position = start + (token - span.first);
        const bool last = position == span.context - 1;
        // No step before this one has written to the tile for this sequence, and so none has cleared it.
        const bool fresh = start == 0 || (start - 1) / kKVTile != position / kKVTile;
        rope::write_token(a, token, (int)(i % kv_heads), batch.block_table + span.row * batch.table_stride, position,
                          last && fresh);
    }
}

}  // namespace LLMSERVE_ISA
}  // namespace llmserve
