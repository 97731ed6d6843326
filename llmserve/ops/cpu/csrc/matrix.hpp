// How a weight matrix lies in memory, and how the rows that are multiplied by it do.
//
// A matrix W [rows, cols] is cut into panels of 32 rows (outputs). Within a panel the columns (K) go by in the order in
// which they are multiplied, 32 outputs beside each other, in units of 4 bytes of K per output, so that two 64-byte
// loads feed the 16 + 16 lanes of a dot product:
//
//     u8    [cols / 4][32][4]     q + 128                     one fp32 scale per output
//     u4    [cols / 8][32][4]     byte = (q of k) | (q of k + 4) << 4, each q + 8 (or as stored, with a zero point)
//     bf16  [cols / 2][32][2]
//     f16   [cols][32]
//     f32   [cols][32]
//
// u4 has one fp16 scale per output and group of columns, [cols / group][32] a panel, and with a zero point one byte
// likewise. rows and cols are padded to multiples of 32 with weights of zero. One layout serves decode and prefill, and
// the weights are the unsigned factor of u8 · s8 dot products: what the offset adds is a multiple of the sum of the
// activations, which is the same for all outputs.
#pragma once

#include <cstdint>

namespace llmserve {

constexpr int64_t kPanel = 32;      // outputs side by side
constexpr int64_t kQuantGroup = 32; // activations that share a scale

enum class WeightKind : uint8_t { u8, u4, bf16, f16, f32 };

struct Matrix {
    WeightKind kind;
    int64_t rows;  // padded to 32
    int64_t cols;  // padded to 32
    int64_t group; // columns that share a scale; u4 only
    const uint8_t* data;
    const void* scale;    // u8: fp32 [rows]; u4: fp16 [rows / 32][cols / group][32]; else null
    const uint8_t* zero;  // u4 with a zero point: [rows / 32][cols / group][32]; else null

    int64_t panels() const { return rows / kPanel; }
    int64_t panel_bytes() const {
        switch (kind) {
            case WeightKind::u8: return cols * 32;
            case WeightKind::u4: return cols * 16;
            case WeightKind::f32: return cols * 128;
            default: return cols * 64;
        }
    }
    const uint8_t* panel(int64_t p) const { return data + p * panel_bytes(); }
    // Panels first … first + count - 1 as a matrix of their own.
    Matrix slice(int64_t first, int64_t count) const {
        Matrix part = *this;
        part.rows = count * kPanel;
        part.data = panel(first);
        const int64_t lanes = first * kPanel, groups = kind == WeightKind::u4 ? cols / group : 1;
        if (scale) part.scale = (const uint8_t*)scale + lanes * groups * (kind == WeightKind::u8 ? 4 : 2);
        if (zero) part.zero = zero + lanes * groups;
        return part;
    }
};

enum class InputKind : uint8_t { s8, bf16, f32 };

// Rows of activations. s8: value = q · scale of its group of 32; `sums` holds -8 · Σ q of each group, which is what
// the offset of u4 weights has to be mended by (and a sixteenth of it for u8).
struct Rows {
    InputKind kind;
    int64_t cols;  // padded to 32 with zeros; also the stride in elements
    void* data;
    float* scale;   // s8: [T][cols / 32]
    int32_t* sums;  // s8: [T][cols / 32]
};

}  // namespace llmserve
