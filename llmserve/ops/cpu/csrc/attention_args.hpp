// What the kernels between the projections are called with.
#pragma once

#include <cstdint>

#include "attention_plan.hpp"
#include "batch.hpp"
#include "kv_cache.hpp"

namespace llmserve {

struct RopeArgs {
    const Batch* batch;
    KVCache cache;  // of this layer
    int32_t heads;
    const float* qkv;     // [T, stride]: query heads, key heads, value heads, D each
    int64_t stride;
    const float* q_norm;  // [D], or null: no normalisation
    const float* k_norm;
    float eps;
    const float* cos;     // [T, D / 2]
    const float* sin;
    const float* growth;  // [T]: what queries are multiplied by, or null
    float* q;             // [T, heads, D]: out
};

struct AttentionArgs {
    const AttentionPlan* plan;
    const Batch* batch;
    KVCache cache;      // of this layer; holds the keys and values of this step's tokens already
    const float* q;     // [T, heads, D], rotated, not scaled
    float* out;         // [T, heads, D]
    uint8_t* partials;  // attention_partial_bytes(plan), aligned to 64
    float scale;        // of the scores
    float softcap;      // 0: none; else the scores are softcap · tanh(score / softcap)
};

}  // namespace llmserve
