// Mixture of experts: which tokens go where, and what the kernels on the way are called with.
#pragma once

#include <cstdint>
#include <vector>

#include "args.hpp"

namespace llmserve {

// The routes of a step's tokens through one layer's experts, made anew for each layer. A slot is a token at one of its
// experts; slots lie in the order of experts, and of tokens within one.
struct Routes {
    int32_t experts, per_token;
    bool renormalise;
    std::vector<int32_t> chosen;  // [T, per_token], ascending
    std::vector<float> weights;   // alike
    std::vector<float> shared;    // [T]: weight of the expert that sees every token
    std::vector<int32_t> first;   // [experts + 1]: of the slots of each expert
    std::vector<int32_t> token;   // [slots]
    std::vector<int32_t> slot;    // [T, per_token]

    Routes(int32_t experts, int32_t per_token, bool renormalise, int64_t max_tokens)
        : experts(experts),
          per_token(per_token),
          renormalise(renormalise),
          chosen(max_tokens * per_token),
          weights(max_tokens * per_token),
          shared(max_tokens),
          first(experts + 1),
          token(max_tokens * per_token),
          slot(max_tokens * per_token) {}

    int64_t max_tokens() const { return (int64_t)shared.size(); }
    // Of one token, from the outputs of the router: the softmax's largest, of equals the first; with_shared: one output
    // more, the logit of the shared expert's weight.
    void choose(const float* outputs, int64_t t, bool with_shared);
    // The slots, when all tokens have chosen.
    void assign(int64_t tokens);
};

// x [T, cols] → in the order of slots.
struct GatherArgs {
    Routes* routes;
    Rows x, out;
};

// An expert's share of a matrix that holds all experts' one after the other, times the rows of its slots.
struct ExpertsArgs {
    Routes* routes;
    Rows x;
    Matrix w;
};

// out [T, cols] = Σ over a token's experts, in their order, of weight · given, + weight · shared.
struct CombineArgs {
    const Routes* routes;
    const float* given;   // [slots, cols]
    const float* shared;  // [T, cols] or null
    float* out;
    int64_t cols;
};

}  // namespace llmserve
