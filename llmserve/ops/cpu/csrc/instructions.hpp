// What a program is made of: each operation's arguments, how many independent pieces of work it has, and how a piece is
// done with the kernels of an instruction set. Pieces are cut the same way whatever the number of threads.
#pragma once

#include <cmath>
#include <cstring>

#include "program.hpp"

namespace llmserve {

struct OfRows : Instruction {
    int64_t prepare(Step& step) override { return step.batch.count(rows); }
    int64_t grain() const override { return 4; }
};

struct Embedding final : OfRows {
    EmbeddingArgs args;
    const Kernels& k;
    Embedding(const EmbeddingArgs& a, const Kernels& kernels) : args(a), k(kernels) {}
    void run(Step& step, int, int64_t begin, int64_t end) override {
        for (int64_t i = begin; i < end; i++) k.embedding(args, step.batch, i);
    }
};

struct Angles final : OfRows {
    AngleArgs args;
    explicit Angles(const AngleArgs& a) : args(a) {}
    void run(Step& step, int, int64_t begin, int64_t end) override {
        for (int64_t i = begin; i < end; i++) {
            const int32_t position = step.batch.positions[i], set = step.batch.variants[i];
            const float* inverse = args.inverse + set * args.pairs;
            for (int64_t j = 0; j < args.pairs; j++) {
                const float angle = (float)position * inverse[j], factor = inverse[j] != 0 ? args.factor : 1;
                args.cos[i * args.pairs + j] = std::cos(angle) * factor;
                args.sin[i * args.pairs + j] = std::sin(angle) * factor;
            }
            if (args.growth)
                args.growth[i] = position < args.logn_from ? 1 : (float)(std::log(position + 1.0) / std::log((double)args.logn_from));
        }
    }
};

// Ranks that share memory share the rows too: each does its part of them, where all will read them.
struct Norm final : OfRows {
    NormArgs args;
    const Kernels& k;
    const int rank, ranks;
    int64_t first = 0;
    Norm(const NormArgs& a, const Kernels& kernels, int rank, int ranks) : args(a), k(kernels), rank(rank), ranks(ranks) {}
    int64_t prepare(Step& step) override {
        const int64_t count = step.batch.count(rows);
        first = count * rank / ranks;
        return count * (rank + 1) / ranks - first;
    }
    void run(Step& step, int, int64_t begin, int64_t end) override {
        for (int64_t i = begin; i < end; i++) k.norm(args, step.batch, first + i);
    }
};

struct Convert final : OfRows {
    ConvertArgs args;
    const Kernels& k;
    Convert(const ConvertArgs& a, const Kernels& kernels) : args(a), k(kernels) {}
    void run(Step&, int, int64_t begin, int64_t end) override {
        for (int64_t i = begin; i < end; i++) k.convert(args, i);
    }
};

// Pieces of a matrix multiplication: panels within blocks of rows that a core's own cache holds while the panels go by.
struct Blocks {
    int64_t panels, rows, count;

    static constexpr int64_t kCached = 384 << 10;  // bytes of activations

    Blocks() = default;
    Blocks(int64_t rows, int64_t row_bytes, int64_t panels, int tile) : panels(panels), rows(rows) {
        int64_t fit = kCached / row_bytes / tile * tile;
        if (fit < 8 * tile) fit = 8 * tile;
        count = rows ? (rows + fit - 1) / fit : 1;
    }
    int64_t items() const { return rows ? panels * count : 0; }
    int64_t panel(int64_t item) const { return item % panels; }
    int64_t begin(int64_t item) const { return rows * (item / panels) / count; }
    int64_t end(int64_t item) const { return rows * (item / panels + 1) / count; }

    static int64_t row_bytes(const Rows& x) {
        return x.cols * (x.kind == InputKind::s8 ? 1 : x.kind == InputKind::bf16 ? 2 : 4);
    }
};

struct Gemm final : Instruction {
    GemmArgs args;
    const Kernels& k;
    Blocks blocks;
    Gemm(const GemmArgs& a, const Kernels& kernels) : args(a), k(kernels) {}
    int64_t prepare(Step& step) override {
        blocks = Blocks(step.batch.count(rows), Blocks::row_bytes(args.x), args.w.panels(), k.tile_rows);
        return blocks.items();
    }
    void run(Step&, int, int64_t begin, int64_t end) override {
        for (int64_t i = begin; i < end; i++) k.gemm(args, blocks.panel(i), blocks.begin(i), blocks.end(i));
    }
};

struct Gated final : Instruction {
    GatedArgs args;
    const Kernels& k;
    Blocks blocks;
    Gated(const GatedArgs& a, const Kernels& kernels) : args(a), k(kernels) {}
    int64_t prepare(Step& step) override {
        blocks = Blocks(step.batch.count(rows), Blocks::row_bytes(args.x), args.w.panels() / 2, k.tile_rows);
        const int64_t most = (blocks.rows + blocks.count - 1) / blocks.count;
        for (Memory& m : step.scratch) m.reserve(most * 64 * 4);
        return blocks.items();
    }
    void run(Step& step, int thread, int64_t begin, int64_t end) override {
        float* scratch = (float*)step.scratch[thread].data();
        for (int64_t i = begin; i < end; i++) k.gated(args, blocks.panel(i), blocks.begin(i), blocks.end(i), scratch);
    }
};

struct Softcap final : Instruction {
    static constexpr int64_t kColumns = 4096;
    SoftcapArgs args;
    const Kernels& k;
    Softcap(const SoftcapArgs& a, const Kernels& kernels) : args(a), k(kernels) {}
    int64_t parts() const { return (args.cols + kColumns - 1) / kColumns; }
    int64_t prepare(Step& step) override { return step.batch.count(rows) * parts(); }
    void run(Step&, int, int64_t begin, int64_t end) override {
        for (int64_t i = begin; i < end; i++) {
            const int64_t c = i % parts() * kColumns, stop = c + kColumns;
            k.softcap(args, i / parts(), c, stop < args.cols ? stop : args.cols);
        }
    }
};

struct Rope final : OfRows {
    RopeArgs args;
    const Kernels& k;
    Rope(const RopeArgs& a, const Kernels& kernels) : args(a), k(kernels) {}
    int64_t prepare(Step& step) override {
        args.batch = &step.batch;
        return (int64_t)step.batch.num_tokens * args.cache.kv_heads;
    }
    void run(Step&, int, int64_t begin, int64_t end) override { k.rope(args, begin, end); }
};

struct Attention final : Instruction {
    AttentionArgs args;
    const Kernels& k;
    Attention(const AttentionArgs& a, const Kernels& kernels) : args(a), k(kernels) {}
    int64_t prepare(Step& step) override {
        args.batch = &step.batch;
        args.partials = step.partials.reserve(attention_partial_bytes(*args.plan));
        const int64_t bytes = attention_scratch_bytes(*args.plan);
        for (Memory& m : step.scratch) m.reserve(bytes);
        return attention_items(*args.plan);
    }
    void run(Step& step, int thread, int64_t begin, int64_t end) override {
        for (int64_t i = begin; i < end; i++) k.attention(args, i, step.scratch[thread].data());
    }
};

struct Merge final : Instruction {
    AttentionArgs args;
    const Kernels& k;
    Merge(const AttentionArgs& a, const Kernels& kernels) : args(a), k(kernels) {}
    int64_t prepare(Step& step) override {
        args.batch = &step.batch;
        args.partials = step.partials.data();
        return merge_items(*args.plan);
    }
    void run(Step&, int, int64_t begin, int64_t end) override {
        for (int64_t i = begin; i < end; i++) k.merge(args, i);
    }
};

struct MeetRanks final : Instruction {
    std::shared_ptr<Team> team;
    explicit MeetRanks(std::shared_ptr<Team> t) : team(std::move(t)) {}
    int64_t prepare(Step&) override {
        team->barrier();
        return 0;
    }
    void run(Step&, int, int64_t, int64_t) override {}
};

struct Pause final : Instruction {
    int64_t prepare(Step&) override { return 0; }
    void run(Step&, int, int64_t, int64_t) override {}
    bool pauses() const override { return true; }
};

}  // namespace llmserve
