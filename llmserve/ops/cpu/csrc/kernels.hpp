// The table of kernels of one instruction set, and the choice among those that this processor can run.
#pragma once

#include <cstdint>

#include "args.hpp"
#include "attention_args.hpp"
#include "experts_args.hpp"
#include "sampling_table.hpp"

namespace llmserve {

struct Kernels {
    const char* name;
    bool fast_s8;    // multiplies integer weights by s8 faster than by fp32
    bool fast_bf16;  // has instructions for bf16 dot products
    int tile_rows;   // of a matrix multiplication

    // Rows [begin, end) times panel p.
    void (*gemm)(const GemmArgs&, int64_t p, int64_t begin, int64_t end);
    void (*gated)(const GatedArgs&, int64_t p, int64_t begin, int64_t end, float* scratch);  // 64 floats a row
    // One row each; of a gathering norm, a row of what comes out.
    void (*convert)(const ConvertArgs&, int64_t row);
    void (*softcap)(const SoftcapArgs&, int64_t row, int64_t begin, int64_t end);  // of columns
    void (*combine)(const CombineArgs&, int64_t token);
    void (*norm)(const NormArgs&, const Batch&, int64_t row);
    void (*embedding)(const EmbeddingArgs&, const Batch&, int64_t row);
    void (*rope)(const RopeArgs&, int64_t begin, int64_t end);
    void (*attention)(const AttentionArgs&, int64_t item, void* scratch);
    void (*merge)(const AttentionArgs&, int64_t item);
    // For measuring what the machine can do: bytes read or operations done.
    double (*read)(const void*, int64_t bytes);
    double (*peak_s8)(int64_t rounds);  // by weights of 8 bits
    double (*peak_u4)(int64_t rounds);  // … of 4
    double (*peak_bf16)(int64_t rounds);
    double (*peak_f32)(int64_t rounds);
};

extern const Kernels kernels_portable;
#if defined(__x86_64__)
extern const Kernels kernels_avx2, kernels_avx512, kernels_avx512_bf16;
#endif

}  // namespace llmserve
