#include <algorithm>
#include <cmath>

#include "experts_args.hpp"

namespace llmserve {

void Routes::choose(const float* outputs, int64_t t, bool with_shared) {
    int32_t* mine = &chosen[t * per_token];
    for (int32_t n = 0; n < per_token; n++) {
        int32_t best = -1;
        for (int32_t e = 0; e < experts; e++) {
            if (std::find(mine, mine + n, e) != mine + n) continue;
            if (best < 0 || outputs[e] > outputs[best]) best = e;
        }
        mine[n] = best;
    }
    const float largest = outputs[mine[0]];
    std::sort(mine, mine + per_token);
    float total = 0;  // of what is no number none; then no weight is one, whoever has been chosen
    for (int32_t e = 0; e < experts; e++) total += std::exp(outputs[e] - largest);
    float* weight = &weights[t * per_token];
    float sum = 0;
    for (int32_t n = 0; n < per_token; n++) sum += weight[n] = std::exp(outputs[mine[n]] - largest) / total;
    if (renormalise)
        for (int32_t n = 0; n < per_token; n++) weight[n] /= sum;
    if (with_shared) shared[t] = 1.0f / (1.0f + std::exp(-outputs[experts]));
}

void Routes::assign(int64_t tokens) {
    std::fill(first.begin(), first.end(), 0);
    const int64_t slots = tokens * per_token;
    for (int64_t i = 0; i < slots; i++) first[chosen[i] + 1]++;
    for (int32_t e = 0; e < experts; e++) first[e + 1] += first[e];
    std::vector<int32_t> next(first.begin(), first.end() - 1);
    for (int64_t i = 0; i < slots; i++) {
        const int32_t s = next[chosen[i]]++;
        slot[i] = s;
        token[s] = (int32_t)(i / per_token);
    }
}

}  // namespace llmserve
