// One step's tokens, as kernels see them: plain pointers into arrays that the program owns for the step.
#pragma once

#include <cstdint>

namespace llmserve {

// A run of consecutive tokens of one sequence: rows first … first + length - 1 of the step.
struct Span {
    int32_t first;
    int32_t length;
    int32_t context;  // positions the span's last token attends to, itself included
    int32_t row;      // of the block table
};

// Whose rows an array of activations has.
enum class RowsOf : uint8_t {
    tokens,  // all of the step
    wanted,  // those whose logits or hidden states are wanted, in the order of wanted_rows
    logits,  // the first of these
};

struct Batch {
    int32_t num_tokens;
    const int32_t* tokens;     // [num_tokens]
    const int32_t* positions;  // [num_tokens]
    const int32_t* variants;   // [num_tokens]: which set of rotation frequencies
    int32_t num_spans;
    const Span* spans;
    const int32_t* block_table;  // [rows, table_stride]: physical block of a sequence's n-th block
    int64_t table_stride;
    int32_t num_logits, num_hidden;
    const int32_t* wanted_rows;  // [num_logits + num_hidden]: rows of the step whose logits are wanted, then those whose
                                 // hidden states behind the final norm are

    int64_t count(RowsOf rows) const {
        return rows == RowsOf::tokens ? num_tokens : rows == RowsOf::logits ? num_logits : num_logits + num_hidden;
    }
};

}  // namespace llmserve
