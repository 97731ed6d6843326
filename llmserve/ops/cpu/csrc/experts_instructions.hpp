// The instructions of a mixture of experts: choose, sort tokens by expert, two matrices of each expert, and put together.
//
// Each row goes through the same micro-kernels as in any other matrix, so it does not matter who goes with it.
#pragma once

#include <algorithm>
#include <cstring>

#include "instructions.hpp"

namespace llmserve {

struct Choose final : OfRows {
    std::shared_ptr<Routes> routes;
    const float* outputs;
    int64_t stride;
    bool with_shared;
    Choose(std::shared_ptr<Routes> r, const float* outputs, int64_t stride, bool with_shared)
        : routes(std::move(r)), outputs(outputs), stride(stride), with_shared(with_shared) {}
    void run(Step&, int, int64_t begin, int64_t end) override {
        for (int64_t t = begin; t < end; t++) routes->choose(outputs + t * stride, t, with_shared);
    }
};

struct Gather final : OfRows {
    GatherArgs args;
    explicit Gather(const GatherArgs& a) : args(a) {}
    int64_t prepare(Step& step) override {
        const int64_t tokens = step.batch.count(rows);
        args.routes->assign(tokens);
        return tokens * args.routes->per_token;
    }
    void run(Step&, int, int64_t begin, int64_t end) override {
        const Rows &x = args.x, &out = args.out;
        const int64_t bytes = Blocks::row_bytes(x), groups = x.cols / kQuantGroup;
        for (int64_t s = begin; s < end; s++) {
            const int64_t t = args.routes->token[s];
            std::memcpy((uint8_t*)out.data + s * bytes, (const uint8_t*)x.data + t * bytes, bytes);
            if (x.kind != InputKind::s8) continue;
            std::memcpy(out.scale + s * groups, x.scale + t * groups, groups * 4);
            std::memcpy(out.sums + s * groups, x.sums + t * groups, groups * 4);
        }
    }
};

// Pieces of the matrix multiplications of all experts that have tokens.
struct OfExperts : Instruction {
    struct Part {
        int64_t first;  // of its items
        int32_t expert;
        int64_t row;  // its first slot
        Blocks blocks;
    };
    ExpertsArgs args;
    const Kernels& k;
    const int64_t panels;  // of the weights of one expert
    std::vector<Part> parts;

    OfExperts(const ExpertsArgs& a, const Kernels& kernels)
        : args(a), k(kernels), panels(a.w.panels() / a.routes->experts) {}

    // `outputs`: panels that a piece is cut by.
    int64_t cut(int64_t outputs) {
        parts.clear();
        int64_t items = 0;
        for (int32_t e = 0; e < args.routes->experts; e++) {
            const int64_t row = args.routes->first[e], rows = args.routes->first[e + 1] - row;
            if (!rows) continue;
            parts.push_back({items, e, row, Blocks(rows, Blocks::row_bytes(args.x), outputs, k.tile_rows)});
            items += parts.back().blocks.items();
        }
        return items;
    }
    const Part& part_of(int64_t item) const {
        return *(std::upper_bound(parts.begin(), parts.end(), item,
                                  [](int64_t i, const Part& p) { return i < p.first; }) - 1);
    }
    Matrix weights(const Part& part) const { return args.w.slice(part.expert * panels, panels); }
};

struct ExpertsGated final : OfExperts {
    const Rows y;
    const Activation activation;
    ExpertsGated(const ExpertsArgs& a, const Rows& y, Activation activation, const Kernels& kernels)
        : OfExperts(a, kernels), y(y), activation(activation) {}
    int64_t prepare(Step& step) override {
        const int64_t items = cut(panels / 2);
        int64_t most = 0;
        for (const Part& p : parts) most = std::max(most, (p.blocks.rows + p.blocks.count - 1) / p.blocks.count);
        for (Memory& m : step.scratch) m.reserve(most * 64 * 4);
        return items;
    }
    void run(Step& step, int thread, int64_t begin, int64_t end) override {
        float* scratch = (float*)step.scratch[thread].data();
        for (int64_t i = begin; i < end; i++) {
            const Part& p = part_of(i);
            const int64_t item = i - p.first;
            k.gated({args.x, weights(p), nullptr, y, activation}, p.blocks.panel(item), p.row + p.blocks.begin(item),
                    p.row + p.blocks.end(item), scratch);
        }
    }
};

struct ExpertsDown final : OfExperts {
    float* y;
    int64_t stride;
    ExpertsDown(const ExpertsArgs& a, float* y, int64_t stride, const Kernels& kernels)
        : OfExperts(a, kernels), y(y), stride(stride) {}
    int64_t prepare(Step&) override { return cut(panels); }
    void run(Step&, int, int64_t begin, int64_t end) override {
        for (int64_t i = begin; i < end; i++) {
            const Part& p = part_of(i);
            const int64_t item = i - p.first;
            k.gemm({args.x, weights(p), nullptr, y, stride}, p.blocks.panel(item), p.row + p.blocks.begin(item),
                   p.row + p.blocks.end(item));
        }
    }
};

struct Combine final : OfRows {
    CombineArgs args;
    const Kernels& k;
    Combine(const CombineArgs& a, const Kernels& kernels) : args(a), k(kernels) {}
    void run(Step&, int, int64_t begin, int64_t end) override {
        for (int64_t t = begin; t < end; t++) k.combine(args, t);
    }
};

}  // namespace llmserve
