// What kernels are called with: plain data, the same for every instruction set.
#pragma once

#include <cstdint>

#include "batch.hpp"
#include "matrix.hpp"

namespace llmserve {

constexpr int kMaxRanks = 64;  // of one host

// y [T, rows of w] = x · wᵀ + bias, in fp32.
struct GemmArgs {
    Rows x;
    Matrix w;
    const float* bias;  // [rows of w] or null
    float* y;
    int64_t stride;  // floats between rows of y
};

// y [T, rows of w / 2] = silu(x · gateᵀ) · (x · upᵀ), gate and up being the two halves of w's rows.
struct GatedArgs {
    Rows x;
    Matrix w;
    const float* bias;
    Rows y;
};

// Rows of fp32 to activations in another form; columns from `size` on become zeros.
struct ConvertArgs {
    const float* in;
    int64_t stride;
    int64_t size;
    Rows x;
};

// residual += Σ over ranks of delta; x = residual / rms(residual) · weight (Zhang & Sennrich 2019), all in fp32.
// Columns from `size` to the padded width hold zeros, and stay so.
struct NormArgs {
    const float* deltas[kMaxRanks];  // one [T, cols] a rank, in the order of ranks
    int num_deltas;
    float* residual;      // [T, cols]
    const float* weight;  // [cols], zeros behind size
    int64_t size;         // columns that count
    float eps;
    int num_outputs;  // 1 or 2: the same numbers in different forms
    Rows x[2];
    bool fresh;      // residual starts from zero instead of what it holds
    bool gather;  // only the rows whose logits are wanted, closed up; residual is then not written
};

// The table's row of each token's id, as fp32; zeros where the id lies on another rank.
struct EmbeddingArgs {
    Matrix table;   // packed (a head's own matrix), or with `by_row` one row after the other
    bool by_row;
    int64_t first;  // id of the table's first row
    int64_t count;  // rows that are no padding
    int64_t size;   // columns that count
    float* out;     // [T, cols]
    int64_t cols;
};

// cos and sin of position · inverse frequency, [T, pairs] each, for the rotary embedding of all layers.
struct AngleArgs {
    const float* inverse;  // [pairs]
    int64_t pairs;
    float* cos;
    float* sin;
};

}  // namespace llmserve
