// Rows of a checkpoint's matrix, rounded to int8 or int4, into the panels of matrix.hpp. A build's work, not a step's.
//
// The arithmetic is that of llmserve/quant, number for number; this is only faster. Knows nothing of files or ranks.
#pragma once

#include <cstdint>
#include <vector>

namespace llmserve {

enum class SourceKind : uint8_t { f32, bf16, f16 };

struct PackJob {
    SourceKind source;
    const void* data;  // [rows, cols], finite
    int64_t rows, cols;
    int64_t group;             // int4: columns that share a scale; 0: int8, one scale a row
    int64_t first, last;       // int8: columns that are stored of those that make the scale
    std::vector<float> clips;  // int4: candidates for a group's scale, as shares of max|group| / 7
    uint8_t* weight;           // panels of matrix.hpp
    void* scale;               // int8: fp32 [panels][32]; int4: fp16 [panels][groups][32]
};

void pack_rows(const PackJob& job, int threads);

// The largest magnitude among `count` numbers; infinity or not a number, if there is one among them.
float largest_magnitude(SourceKind source, const void* data, int64_t count, int threads);

}  // namespace llmserve
