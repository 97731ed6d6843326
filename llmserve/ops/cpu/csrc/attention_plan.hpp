// What one step's attention consists of: which tiles of rows meet which stretches of their context, as work items.
//
// Built once per step and window by one thread; read by all, for every layer. A sequence's positions are cut into
// *splits* of 512, at absolute positions. A tile of rows with a long context may be spread over several items, a few
// splits each, whose partial results are merged in the order of the splits (the idea of Flash-Decoding); or one item
// may do all splits and merge as it goes. Both do the same arithmetic, so how the plan cuts the work is a matter of
// balance alone, and no output bit depends on it. Knows nothing of kernels and compiles without any instruction set.
#pragma once

#include <cstdint>
#include <vector>

#include "batch.hpp"
#include "kv_cache.hpp"

namespace llmserve {

constexpr int kAttentionKeys = 64;    // keys whose scores are taken, exponentiated and summed together
constexpr int kAttentionSplit = 512;  // keys after which a partial result is closed
constexpr int kAttentionGroup = 12;   // rows whose scores are in hand at a time
constexpr int kAttentionRows = 64;    // rows that share one pass over K and V

// A tile of a span's tokens, with the heads of one kv head (all of them when merging), and a range of splits.
struct AttentionItem {
    int32_t span;
    int32_t token, tokens;         // within the span
    int32_t first_split, splits;   // this item's
    int32_t origin;                // first split of the tile: where its partial results are counted from
    int64_t partial;               // the tile's first row of partial results; -1: writes the output itself
};

struct AttentionPlan {
    int32_t window = 0;  // 0: none
    int32_t heads = 0, kv_heads = 0, head_dim = 0;
    int32_t max_rows = 0;      // of any item
    int64_t partial_rows = 0;  // one for each split, token and head of the tiles that are spread out
    int32_t num_items = 0, num_merges = 0;
    const AttentionItem* items = nullptr;   // biggest first
    const AttentionItem* merges = nullptr;  // the tiles that are spread out, with all their splits
    std::vector<AttentionItem> item_store, unsorted, merge_store;
};

// Floats of one row of partial results: the accumulator, then its maximum and its sum.
inline __attribute__((always_inline)) int64_t partial_stride(int head_dim) { return round_up(head_dim, 16) + 16; }

static inline int64_t attention_partial_bytes(const AttentionPlan& plan) {
    return plan.partial_rows * partial_stride(plan.head_dim) * 4;
}

// Of one thread; aligned to 64 bytes.
static inline int64_t attention_scratch_bytes(const AttentionPlan& plan) {
    const int64_t rows = plan.max_rows + 16;
    return rows * (3 * 4 * round_up(plan.head_dim, 16) + 64 + 8 * 4) + (2 * kAttentionGroup + 4) * kAttentionKeys * 4;
}

static inline int64_t attention_items(const AttentionPlan& plan) { return (int64_t)plan.num_items * plan.kv_heads; }
static inline int64_t merge_items(const AttentionPlan& plan) { return (int64_t)plan.num_merges * plan.heads; }

namespace plan_detail {

// The splits that the tile's tokens see anything of: [first, last].
static inline void split_range(const Span& span, int32_t token, int32_t tokens, int32_t window, int32_t& first,
                               int32_t& last) {
    const int32_t position = span.context - span.length + token;
    const int32_t low = window && position >= window ? position - window + 1 : 0;
    first = low / kAttentionSplit;
    last = (position + tokens - 1) / kAttentionSplit;
}

// About what a kv head's part costs: a key is read once, and then met by every row.
static inline int64_t cost(int64_t rows, int64_t keys) { return keys * (rows + 8); }

static inline int64_t keys_seen(const Span& span, int32_t token, int32_t tokens, int32_t window) {
    const int64_t end = span.context - span.length + token + tokens, seen = (int64_t)window + tokens - 1;
    return window && seen < end ? seen : end;
}

}  // namespace plan_detail

// The same plan object may be built anew every step: it keeps its memory.
static inline void attention_plan(AttentionPlan& plan, const Batch& batch, int heads, int kv_heads, int head_dim,
                                  int window) {
    using namespace plan_detail;
    plan.window = window, plan.heads = heads, plan.kv_heads = kv_heads, plan.head_dim = head_dim;
    plan.max_rows = 0, plan.partial_rows = 0;
    plan.unsorted.clear(), plan.merge_store.clear();
    const int32_t group = heads / kv_heads;

    // Items of a 256th of the work keep 64 threads busy to the end; below a few microseconds, handing them out costs
    // more than it evens out.
    int64_t total = 0;
    for (int32_t i = 0; i < batch.num_spans; i++) {
        const Span& span = batch.spans[i];
        total += cost((int64_t)group * span.length, keys_seen(span, 0, span.length, window) - span.length / 2);
    }
    int64_t target = total * kv_heads / 256;
    if (target < 8192) target = 8192;

    for (int32_t i = 0; i < batch.num_spans; i++) {
        const Span& span = batch.spans[i];
        int32_t tokens = kAttentionRows / group;
        if (tokens < 1) tokens = 1;
        while (tokens > 1 && tokens * group > 24 &&
               cost(tokens * group, keys_seen(span, 0, span.length, window)) > 4 * target)
            tokens = (tokens + 1) / 2;
        const bool alone = span.length <= tokens;  // the span is one tile
        for (int32_t t = 0; t < span.length; t += tokens) {
            const int32_t n = span.length - t < tokens ? span.length - t : tokens;
            int32_t first, last;
            split_range(span, t, n, window, first, last);
            if (n * group > plan.max_rows) plan.max_rows = n * group;
            AttentionItem item{i, t, n, first, last - first + 1, first, -1};
            const int64_t all = cost(n * group, keys_seen(span, t, n, window));
            // Partial results take memory in proportion to rows × splits: a thing for decoding.
            int64_t pieces = alone && item.splits > 1 ? (all + target - 1) / target : 1;
            if (pieces > item.splits) pieces = item.splits;
            if (pieces > 1) {
                item.partial = plan.partial_rows;
                plan.partial_rows += (int64_t)item.splits * n * heads;
                plan.merge_store.push_back(item);
            }
            for (int32_t p = 0; p < pieces; p++) {
                AttentionItem piece = item;
                const int32_t begin = (int32_t)(item.splits * (int64_t)p / pieces);
                piece.first_split = first + begin;
                piece.splits = (int32_t)(item.splits * (int64_t)(p + 1) / pieces) - begin;
                plan.unsorted.push_back(piece);
            }
        }
    }

    // Biggest first, by powers of two of the cost: one counting sort.
    const int32_t n = (int32_t)plan.unsorted.size();
    int32_t start[65] = {0};
    const auto bucket = [&](const AttentionItem& item) {
        int64_t keys = keys_seen(batch.spans[item.span], item.token, item.tokens, window);
        if (keys > (int64_t)item.splits * kAttentionSplit) keys = (int64_t)item.splits * kAttentionSplit;
        return __builtin_clzll((unsigned long long)cost(item.tokens * group, keys) | 1);
    };
    for (const AttentionItem& item : plan.unsorted) start[bucket(item) + 1]++;
    for (int i = 0; i < 64; i++) start[i + 1] += start[i];
    plan.item_store.resize(n);
    for (const AttentionItem& item : plan.unsorted) plan.item_store[start[bucket(item)]++] = item;

    plan.items = plan.item_store.data(), plan.num_items = n;
    plan.merges = plan.merge_store.data(), plan.num_merges = (int32_t)plan.merge_store.size();
}

}  // namespace llmserve
