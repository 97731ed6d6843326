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

// What is done to a number between two matrices. gelu: by tanh (Hendrycks & Gimpel 2016).
enum class Activation : uint8_t { none, silu, gelu };

// y [T, rows of w / 2] = act(x · gateᵀ) · (x · upᵀ), gate and up being the two halves of w's rows.
struct GatedArgs {
    Rows x;
    Matrix w;
    const float* bias;
    Rows y;
    Activation activation;
};

// Rows of fp32, activated, to another form; columns from `size` on become zeros.
struct ConvertArgs {
    const float* in;
    int64_t stride;
    int64_t size;
    Rows x;
    Activation activation;
};

// y [R, cols] becomes cap · tanh(y / cap), in place.
struct SoftcapArgs {
    float* y;
    int64_t stride;
    int64_t cols;
    float cap;
};

// total = residual + post(Σ over ranks of delta); x = total / rms(total) · weight (Zhang & Sennrich 2019), or with a bias
// (total - mean) / deviation · weight + bias (Ba et al. 2016); all in fp32. post is such a norm too, or nothing.
// Columns from `size` to the padded width hold zeros, and stay so.
struct NormArgs {
    const float* deltas[kMaxRanks];  // one [T, cols] a rank, in the order of ranks
    int num_deltas;
    const float* residual;  // [T, cols]
    float* total;           // where the new residual goes, a row for each of x's; null: nowhere
    const float* weight;  // [cols], zeros behind size
    const float* bias;    // alike, or null
    const float* post;    // alike: the weight of a norm without a bias, or null
    int64_t size;         // columns that count
    float eps, post_eps;
    int num_outputs;  // 1 or 2: the same numbers in different forms
    Rows x[2];
    bool fresh;      // residual starts from zero instead of what it holds
    bool gather;  // only of the rows that are wanted, closed up; total is then another array than residual
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
    float scale;       // of the row
    Matrix positions;  // by row; the row of the token's position is added. Without data: nothing is
};

// factor · cos and sin of position · inverse frequency, [T, pairs] each, for the rotary embedding of all layers. Pairs of
// frequency 0 stay as they are, whatever the factor.
struct AngleArgs {
    const float* inverse;  // [sets, pairs]; a token's set is the batch's to say
    int64_t pairs;
    float factor;
    int64_t logn_from;  // queries at positions p from here on grow by log(p + 1) / log(logn_from); 0: none do
    float* cos;
    float* sin;
    float* growth;  // [T]: of queries; null: they do not grow
};

}  // namespace llmserve
