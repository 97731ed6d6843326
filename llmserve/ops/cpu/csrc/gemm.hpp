// Rows of activations times a packed matrix: the same arithmetic for one row and for a thousand.
//
// What is computed for one row and one output is fixed: K in groups of 32 from the first to the last, exact integer
// sums (or fp32 sums in the order of K) within a group, one fp32 multiply-add per group. How many rows go together in
// registers changes how fast that is done and not one bit of the result. Knows nothing of threads: the caller hands out
// ranges of panels.
#pragma once

#include "gemm_float.hpp"
#include "gemm_tile.hpp"
#include "matrix.hpp"
#if defined(__AVX2__) && !defined(__AVX512VNNI__)
#include "gemm_s8_avx2.hpp"
#else
#include "gemm_s8_dot.hpp"
#endif

namespace llmserve {
namespace LLMSERVE_ISA {

// Rows [begin, end) of x times one panel. `next_panel`: weights that will be wanted next.
inline void panel_rows(const Tile& t, int64_t begin, int64_t end, const uint8_t* next_panel) {
    switch (t.x->kind) {
        case InputKind::s8: panel_s8(t, begin, end, next_panel); break;
        case InputKind::bf16: panel_float<true>(t, begin, end, next_panel); break;
        case InputKind::f32: panel_float<false>(t, begin, end, next_panel); break;
    }
}

}  // namespace LLMSERVE_ISA
}  // namespace llmserve
