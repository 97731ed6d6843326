// How keys and values lie in the paged cache (Kwon et al. 2023, PagedAttention): layout arithmetic and nothing else.
//
// A block holds `block_size` consecutive positions of one sequence, for one layer; block_size is a multiple of 16. In
// a block each kv head has a section of its own, and a section has up to four parts:
//
//             K, in tiles of 16 positions           V                                   scales
//     f32     [block / 16][D][16]                   [block][Dv]
//     bf16    [block / 16][Dk / 2][16][2]           [block / 2][Dv][2]
//     s8      [block / 16][Dk / 4][16][4], k + 128  [block / 4][Dv][4]                  K [block] fp32, V [block] fp32
//
// K is transposed so that the scores of 16 positions come out in the 16 lanes of a vector with no horizontal sums, and
// V so that two (bf16) or four (s8) positions are summed within a lane. Dk is D rounded up to the unit of the dot
// product, Dv to 16 lanes. What lies in the padding is multiplied by zero or dropped; zeroed memory will do for a start.
//
// Everything is force-inlined: the same function is compiled for several instruction sets, and the linker would keep
// any one of the copies.
#pragma once

#include <cstdint>

namespace llmserve {

#define LAYOUT inline __attribute__((always_inline))

enum class KVKind : uint8_t { f32, bf16, s8 };

constexpr int kKVTile = 16;         // positions side by side in K
constexpr int kMaxHeadDim = 256;

LAYOUT int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// Values that one 4-byte lane of the dot product takes at once.
LAYOUT int kv_unit(KVKind kind) { return kind == KVKind::f32 ? 1 : kind == KVKind::bf16 ? 2 : 4; }

// Bytes of K (or of V) of 16 positions of one kv head.
LAYOUT int64_t k_tile_bytes(KVKind kind, int head_dim) {
    return round_up(head_dim, kv_unit(kind)) / kv_unit(kind) * 64;
}
LAYOUT int64_t v_tile_bytes(KVKind kind, int head_dim) { return kKVTile / kv_unit(kind) * round_up(head_dim, 16) * 4; }

// Bytes of one kv head's section of a block, and of one block of one layer.
LAYOUT int64_t kv_section_bytes(KVKind kind, int block_size, int head_dim) {
    const int64_t tiles = block_size / kKVTile, scales = kind == KVKind::s8 ? 2 * 4 * block_size : 0;
    return tiles * (k_tile_bytes(kind, head_dim) + v_tile_bytes(kind, head_dim)) + scales;
}
LAYOUT int64_t block_bytes(KVKind kind, int block_size, int kv_heads, int head_dim) {
    return kv_heads * kv_section_bytes(kind, block_size, head_dim);
}

struct KVCache {
    KVKind kind;
    uint8_t* base;         // of this layer; aligned to 64 bytes
    int64_t block_stride;  // bytes between consecutive blocks of this layer; a multiple of 64
    int32_t block_size, kv_heads, head_dim;
};

// Sixteen positions of one kv head, wherever they lie.
struct KVTile {
    uint8_t* k;
    uint8_t* v;
    float* k_scale;  // s8 only
    float* v_scale;
};

// The tile that holds `position`; block_row is the sequence's row of the block table.
LAYOUT KVTile kv_tile(const KVCache& c, const int32_t* block_row, int kv_head, int64_t position) {
    const uint32_t at = (uint32_t)position, size = (uint32_t)c.block_size;  // half the cost of dividing 64 bits
    const int64_t block = block_row[at / size], tile = at % size / kKVTile;
    const int64_t tiles = c.block_size / kKVTile;
    const int64_t k_bytes = k_tile_bytes(c.kind, c.head_dim), v_bytes = v_tile_bytes(c.kind, c.head_dim);
    uint8_t* section = c.base + block * c.block_stride + kv_head * kv_section_bytes(c.kind, c.block_size, c.head_dim);
    uint8_t* v = section + tiles * k_bytes;
    float* scales = (float*)(v + tiles * v_bytes);
    return {section + tile * k_bytes, v + tile * v_bytes, scales + tile * kKVTile,
            scales + c.block_size + tile * kKVTile};
}

#undef LAYOUT

}  // namespace llmserve
