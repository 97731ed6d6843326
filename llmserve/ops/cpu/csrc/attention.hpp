// Attention over a paged KV cache, for prompts and decoding in one batch: causal, grouped queries, with an optional
// sliding window and soft cap. In tiles with a running softmax (Dao et al. 2022, FlashAttention).
//
// How to use it. Once per step and window: `attention_plan` (attention_plan.hpp), memory for `attention_partial_bytes`,
// and for each thread `attention_scratch_bytes`. Then in every layer, after rope_write (rope.hpp), with all threads:
//
//     attention_run(args, i, scratch)   for i in [0, attention_items(plan)), in any order, by any thread
//     (all have finished)
//     merge_run(args, i)                for i in [0, merge_items(plan)), which may be none
//
// What a row's output depends on: its query, the keys and values that it sees, the instruction set. Not on its
// neighbours, the cutting of the prompt, where blocks lie, or threads. For that, everything that rounds is tied to
// absolute positions: keys go by in blocks of 64; a row meets those blocks of which it sees at least one key, in order;
// results are closed every 512 keys and merged in order by one formula. What a row does not see within a block weighs
// exactly 0 and adds it.
//
// Arithmetic, by the kind of the cache:
//   f32    fp32 throughout.
//   bf16   queries and weights (probabilities) rounded to bf16, products summed in fp32, two to a lane.
//   s8     queries become 16-bit integers (256 · high + low) with one scale per row, weights times the scale of V become
//          16-bit integers with one scale per row and block of 64 keys; then both products are exact sums of
//          bytes · bytes. As many instructions as bf16 takes, nothing to unpack, and less rounding.
//
// Serial: the caller owns the threads and all memory.
#pragma once

#include "attention_args.hpp"
#include "attention_kernels.hpp"
#include "attention_softmax.hpp"

namespace llmserve {
namespace LLMSERVE_ISA {
namespace attention {

constexpr int kGroup = kAttentionGroup;
constexpr float kNothing = -1e30f;  // a running maximum before the first key: finite, so that differences are

// An item's state: the rows are its tokens × the query heads of its kv head, tokens outermost.
struct Work {
    const AttentionArgs* args;
    const AttentionItem* item;
    const int32_t* blocks;  // the sequence's row of the block table
    int32_t kv_head, group, rows, tokens;
    int64_t position;       // of the first token
    int64_t low, high;      // positions that any row sees: [low, high)
    int32_t dim, padded;    // D, and rounded up to 16
    int64_t steps;          // 4-byte units of a row of q (s8: of its high bytes)
    int64_t q_stride;       // between rows of q
    int32_t span, first_token;
    // [rows] …
    int32_t* q;             // [steps]; s8: high bytes, then as many low bytes
    int32_t* q_sum;         // [2]: s8: what the offset of K adds to the high and low sums, negated
    int32_t* token;         // within the item
    float* to_log2;         // a score times this is the exponent of 2
    float* to_cap;          // a score times this is what tanh is taken of
    float* maximum;         // of this split so far, as an exponent of 2
    float* sum;             // [16], lane by lane
    float* acc;             // [padded]
    float* all_maximum;     // of the splits closed so far
    float* all_sum;
    float* all_acc;         // [padded]
    // of the rows in hand
    float* scores;          // [kGroup][kKeys]
    int32_t* weights;       // [kGroup][kKeys]
    float* v_weight;        // [2][kKeys]
};

SIMD void carve(Work& w, void* scratch) {
    uint8_t* at = (uint8_t*)scratch;
    const int64_t n = w.rows + 16;  // vectors of 16 rows may reach past the end
    const auto take = [&](int64_t count) {
        uint8_t* p = at;
        at += count * 4;
        return (void*)p;
    };
    w.acc = (float*)take(n * w.padded);
    w.all_acc = (float*)take(n * w.padded);
    w.q = (int32_t*)take(n * w.padded);
    w.sum = (float*)take(n * 16);
    w.scores = (float*)take(kGroup * kKeys);
    w.weights = (int32_t*)take(kGroup * kKeys);
    w.v_weight = (float*)take(2 * kKeys);
    w.to_log2 = (float*)take(n);
    w.to_cap = (float*)take(n);
    w.maximum = (float*)take(n);
    w.all_maximum = (float*)take(n);
    w.all_sum = (float*)take(n);
    w.token = (int32_t*)take(n);
    w.q_sum = (int32_t*)take(2 * n);
}

// A block of keys at a time: which rows see any of it, which tiles of 16 keys they see, and where those lie. Tiles
// outside [tile_begin, tile_end) are not looked up: their blocks may have been given up, or not given out yet.
struct KeyBlock {
    int64_t first;
    int32_t row_begin, row_end, tile_begin, tile_end;
    KVTile tile[kTiles];
};

SIMD void locate(const Work& w, int64_t first, KeyBlock& b) {
    const int64_t window = w.args->plan->window, last = first + kKeys - 1;
    int64_t begin = first > w.position ? first - w.position : 0, end = w.tokens;
    if (window && last + window - w.position < end) end = last + window - w.position;
    int64_t low = window ? w.position + begin - window + 1 : 0, high = w.position + end - 1;
    if (low < first) low = first;
    if (high > last) high = last;
    b.first = first;
    b.row_begin = (int32_t)begin * w.group, b.row_end = (int32_t)end * w.group;
    b.tile_begin = (int32_t)(low - first) / kKVTile, b.tile_end = (int32_t)(high - first) / kKVTile + 1;
    for (int t = b.tile_begin; t < b.tile_end; t++)
        b.tile[t] = kv_tile(w.args->cache, w.blocks, w.kv_head, first + t * kKVTile);
}


// The rows' queries in the form the dot product takes, and an empty state.
template <KVKind kind> SIMD void load_queries(const Work& w) {
    const AttentionArgs& a = *w.args;
    const int heads = a.plan->heads;
    const Span& span = a.batch->spans[w.span];
    alignas(64) float x[kMaxHeadDim];
    for (int i = w.dim; i < w.padded; i++) x[i] = 0;
    for (int t = 0; t < w.tokens; t++)
        for (int g = 0; g < w.group; g++) {
            const int row = t * w.group + g;
            const int64_t head = (int64_t)(span.first + w.first_token + t) * heads + w.kv_head * w.group + g;
            const float* q = a.q + head * w.dim;
            float unit = 1;
            if constexpr (kind == KVKind::f32) {
                std::memcpy(w.q + row * w.q_stride, q, w.dim * 4);
            } else {
                std::memcpy(x, q, w.dim * 4);
                if constexpr (kind == KVKind::bf16) {
                    uint16_t pairs[kMaxHeadDim];
                    for (int i = 0; i < w.padded; i += 16) store_bf16(pairs + i, load(x + i));
                    std::memcpy(w.q + row * w.q_stride, pairs, w.steps * 4);
                } else {
                    unit = quantize_query(x, w.padded, w.steps, w.q + row * w.q_stride, w.q_sum + 2 * row);
                }
            }
            w.token[row] = t;
            w.to_log2[row] = a.softcap > 0 ? kLog2e : a.scale * unit * kLog2e;
            w.to_cap[row] = a.softcap > 0 ? a.scale * unit / a.softcap : 0;
            w.all_maximum[row] = kNothing, w.all_sum[row] = 0;
        }
}

SIMD void empty_split(const Work& w) {
    for (int r = 0; r < w.rows; r++) w.maximum[r] = kNothing;
    std::memset(w.sum, 0, (int64_t)w.rows * 64);
    std::memset(w.acc, 0, (int64_t)w.rows * w.padded * 4);
}

// What the softmax leaves for the second product, row by row.
struct Weights {
    float decay[16];  // what the accumulators are multiplied by first
    float unit[16];   // s8: what an integer sum is worth
};

// From scores to weights, for rows [row, row + n): they join the running maximum and sum. Whole: all tiles of the block
// are there, which is most blocks.
template <KVKind kind, bool Whole> SIMD void softmax(const Work& w, const KeyBlock& b, int row, int n, Weights& out) {
    const AttentionArgs& a = *w.args;
    const int64_t window = a.plan->window;
    const int begin = Whole ? 0 : b.tile_begin, end = Whole ? kTiles : b.tile_end;
    float top[16] = {0}, whole_unit = 0;
    if constexpr (kind == KVKind::s8) whole_unit = scale_values<false>(b.tile, begin, end, 0, 0, w.v_weight);
    const auto sees = [&](int r) { return w.position + w.token[row + r] + 1 - b.first; };  // keys before this one
    const auto is_edge = [&](int64_t high) { return high < end * 16 || (window && high - window > begin * 16); };
    for (int r = 0; r < n; r++) {
        float* s = w.scores + r * kKeys;
        const int64_t high = sees(r);
        top[r] = is_edge(high)
                     ? top_score<true>(s, begin, end, window ? high - window : 0, high, a.softcap, w.to_cap[row + r])
                     : top_score<false>(s, begin, end, 0, 0, a.softcap, w.to_cap[row + r]);
    }
    // The maximum is kept as it will be subtracted: rounded once, so that it cancels exactly between blocks. Weights in
    // integers are relative to the block's own maximum, to be as fine as they can.
    const F here = load(top) * load(w.to_log2 + row), old = load(w.maximum + row), now = max(here, old);
    float from[16], grown[16];
    store(out.decay, exp2(old - now));
    store(from, kind == KVKind::s8 ? here : now);
    if (kind == KVKind::s8) store(grown, exp2(here - now));
    store(top, now);
    for (int r = 0; r < n; r++) {
        const float *s = w.scores + r * kKeys, *factor = w.v_weight;
        int32_t* p = w.weights + r * kKeys;
        float* sum = w.sum + (row + r) * 16;
        const float scale = w.to_log2[row + r];
        const F old_sum = load(sum) * splat(out.decay[r]);
        w.maximum[row + r] = top[r];
        if constexpr (kind == KVKind::s8) {
            float unit = whole_unit;
            const int64_t high = sees(r);
            if (is_edge(high)) {
                unit = scale_values<true>(b.tile, begin, end, window ? high - window : 0, high, w.v_weight + kKeys);
                factor = w.v_weight + kKeys;
            }
            const F added = weigh_scores<kind, Whole>(s, p, begin, end, scale, from[r], factor, zero());
            store(sum, fma(added, splat(grown[r]), old_sum));
            out.unit[r] = unit * grown[r];
        } else {
            store(sum, weigh_scores<kind, Whole>(s, p, begin, end, scale, from[r], nullptr, old_sum));
        }
    }
}

// One block of keys meets all rows that see any of it.
template <KVKind kind> SIMD void attend_block(const Work& w, const KeyBlock& b, const KVTile* next) {
    constexpr int most = rows_at_once(kind);
    for (int row = b.row_begin; row < b.row_end; row += kGroup) {
        const int n = b.row_end - row < kGroup ? b.row_end - row : kGroup;
        const bool asked = row > b.row_begin;  // for the next block's lines: with the first rows
        in_parts<most>(n, [&](auto count, int at, int part, int parts) {
            constexpr int R = decltype(count)::value;
            const ScoreArgs s{w.q + (row + at) * w.q_stride, w.q_stride, w.steps, w.q_sum + 2 * (row + at),
                              w.scores + at * kKeys, kKeys};
            all_scores<kind, R>(s, b.tile_begin, b.tile_end, b.tile, {asked ? nullptr : next, part, parts});
        });
        Weights weights;
        if (b.tile_begin == 0 && b.tile_end == kTiles) softmax<kind, true>(w, b, row, n, weights);
        else softmax<kind, false>(w, b, row, n, weights);
        in_parts<most>(n, [&](auto count, int at, int part, int parts) {
            constexpr int R = decltype(count)::value;
            const WeighArgs v{w.weights + at * kKeys, kKeys, kKeys / 4, weights.decay + at, weights.unit + at,
                              w.acc + (int64_t)(row + at) * w.padded, w.padded, w.padded * 4,
                              b.tile_begin, b.tile_end};
            weigh_all<kind, R>(v, w.padded / 16, b.tile, {asked ? nullptr : next, part, parts});
        });
    }
}

// The one formula by which a split joins those before it. `sum` is a number by now.
SIMD void merge(float* maximum, float* sum, float* acc, float maximum2, float sum2, const float* acc2, int padded) {
    const float now = *maximum > maximum2 ? *maximum : maximum2;
    const float a = exp2(*maximum - now), b = exp2(maximum2 - now);
    *maximum = now;
    *sum = *sum * a + sum2 * b;
    for (int i = 0; i < padded; i += 16) store(acc + i, fma(load(acc2 + i), splat(b), load(acc + i) * splat(a)));
}

SIMD void finish(float* out, const float* acc, float sum, int dim) {
    const F inverse = splat(1.0f / sum);
    int i = 0;
    for (; i + 16 <= dim; i += 16) store(out + i, load(acc + i) * inverse);
    if (i < dim) {
        float rest[16];
        store(rest, load(acc + i) * inverse);
        std::memcpy(out + i, rest, (dim - i) * 4);
    }
}

// Closes a split: joins it to those before, or leaves it as a partial result.
SIMD void close_split(const Work& w, const AttentionItem& item, int64_t split) {
    // The rows that see any key of this split; for a row's first split there is nothing to join.
    const AttentionPlan& plan = *w.args->plan;
    const int64_t first = split * kAttentionSplit, last = first + kAttentionSplit - 1, window = plan.window;
    for (int t = 0; t < w.tokens; t++) {
        const int64_t position = w.position + t, low = window && position >= window ? position - window + 1 : 0;
        if (position < first || low > last) continue;
        for (int row = t * w.group; row < (t + 1) * w.group; row++) {
            const float sum = reduce_add(load(w.sum + row * 16)), maximum = w.maximum[row];
            const float* acc = w.acc + (int64_t)row * w.padded;
            float* all = w.all_acc + (int64_t)row * w.padded;
            if (item.partial >= 0) {
                const int head = w.kv_head * w.group + row - t * w.group;
                const int64_t slot = ((split - item.origin) * item.tokens + t) * plan.heads + head;
                float* out = (float*)w.args->partials + (item.partial + slot) * partial_stride(w.dim);
                std::memcpy(out, acc, w.padded * 4);
                out[w.padded] = maximum, out[w.padded + 1] = sum;
            } else if (low >= first) {
                std::memcpy(all, acc, w.padded * 4);
                w.all_maximum[row] = maximum, w.all_sum[row] = sum;
            } else {
                merge(w.all_maximum + row, w.all_sum + row, all, maximum, sum, acc, w.padded);
            }
        }
    }
}

// Item i, without memory for its state.
SIMD Work work_of(const AttentionArgs& args, int64_t i) {
    const AttentionPlan& plan = *args.plan;
    const AttentionItem& item = plan.items[i % plan.num_items];
    const Span& span = args.batch->spans[item.span];
    Work w;
    w.args = &args;
    w.item = &item;
    w.blocks = args.batch->block_table + span.row * args.batch->table_stride;
    w.kv_head = (int)(i / plan.num_items), w.group = plan.heads / plan.kv_heads;
    w.span = item.span, w.first_token = item.token, w.tokens = item.tokens, w.rows = item.tokens * w.group;
    w.position = span.context - span.length + item.token;
    w.low = plan.window && w.position >= plan.window ? w.position - plan.window + 1 : 0;
    w.high = w.position + w.tokens;
    w.dim = plan.head_dim, w.padded = (int)round_up(w.dim, 16);
    const int unit = kv_unit(args.cache.kind);
    w.steps = round_up(w.dim, unit) / unit;
    w.q_stride = args.cache.kind == KVKind::s8 ? 2 * w.steps : w.steps;
    return w;
}

// The first position of the first block of keys that an item reads.
SIMD int64_t first_key(const Work& w) {
    const int64_t from = w.low / kKeys * kKeys, begin = (int64_t)w.item->first_split * kAttentionSplit;
    return from > begin ? from : begin;
}

// Gives tiles that are not looked up the place of another's, so that all can be asked for.
SIMD void fill(KeyBlock& b, const KVTile* with) {
    for (int t = 0; t < kTiles; t++)
        if (t < b.tile_begin || t >= b.tile_end) b.tile[t] = with[t];
}

// The block of keys after the one at `first`, for its tiles to be asked for; false where there is none. Where this sequence
// has no more, or not a whole block, it is, or is filled up by, the one with which the next item begins: that will run soon,
// and likely here.
SIMD bool locate_next(const Work& w, int64_t i, int64_t first, KeyBlock& next) {
    const bool own = first + kKeys < w.high;  // even if it is the next item's
    if (own) {
        locate(w, first + kKeys, next);
        if (next.tile_begin == 0 && next.tile_end == kTiles) return true;
    }
    KeyBlock other;
    if (i + 1 < attention_items(*w.args->plan)) {
        const Work after = work_of(*w.args, i + 1);
        locate(after, first_key(after), other);
    } else if (own) {
        other = next;
    } else {
        return false;
    }
    KVTile same[kTiles];
    for (KVTile& tile : same) tile = other.tile[other.tile_begin];
    fill(other, same);
    if (own) fill(next, other.tile);
    else next = other;
    return true;
}

template <KVKind kind> inline __attribute__((noinline)) void run(Work& w, int64_t i) {
    const AttentionArgs& a = *w.args;
    const AttentionItem& item = *w.item;
    load_queries<kind>(w);
    KeyBlock block[2];
    const int64_t end = ((int64_t)item.first_split + item.splits) * kAttentionSplit;
    const int64_t stop = w.high < end ? w.high : end;
    int64_t first = first_key(w);
    int now = 0;
    locate(w, first, block[0]);
    empty_split(w);
    for (; first < stop; first += kKeys, now ^= 1) {
        KeyBlock &b = block[now], &next = block[now ^ 1];
        const bool more = locate_next(w, i, first, next);
        attend_block<kind>(w, b, more ? next.tile : nullptr);
        if ((first + kKeys) % kAttentionSplit == 0 || first + kKeys >= stop) {
            close_split(w, item, first / kAttentionSplit);
            if (first + kKeys < stop) empty_split(w);
        }
    }
    if (item.partial >= 0) return;
    const int64_t token = a.batch->spans[item.span].first + item.token;
    for (int row = 0; row < w.rows; row++) {
        const int64_t head = (token + w.token[row]) * a.plan->heads + w.kv_head * w.group + row % w.group;
        finish(a.out + head * w.dim, w.all_acc + (int64_t)row * w.padded, w.all_sum[row], w.dim);
    }
}

}  // namespace attention

inline void attention_run(const AttentionArgs& args, int64_t i, void* scratch) {
    using namespace attention;
    Work w = work_of(args, i);
    carve(w, scratch);
    switch (args.cache.kind) {
        case KVKind::f32: return run<KVKind::f32>(w, i);
        case KVKind::bf16: return run<KVKind::bf16>(w, i);
        case KVKind::s8: return run<KVKind::s8>(w, i);
    }
}

inline void merge_run(const AttentionArgs& args, int64_t i) {
    using namespace attention;
    const AttentionPlan& plan = *args.plan;
    const AttentionItem& item = plan.merges[i / plan.heads];
    const int64_t head = i % plan.heads, stride = partial_stride(plan.head_dim), window = plan.window;
    const Span& span = args.batch->spans[item.span];
    const int padded = (int)round_up(plan.head_dim, 16);
    alignas(64) float acc[kMaxHeadDim];
    for (int t = 0; t < item.tokens; t++) {
        const int64_t position = span.context - span.length + item.token + t;
        const int64_t low = window && position >= window ? position - window + 1 : 0;
        const int64_t first = low / kAttentionSplit, last = position / kAttentionSplit;
        float maximum = 0, sum = 0;
        for (int64_t split = first; split <= last; split++) {
            const int64_t slot = ((split - item.origin) * item.tokens + t) * plan.heads + head;
            const float* part = (const float*)args.partials + (item.partial + slot) * stride;
            if (split == first) {
                std::memcpy(acc, part, padded * 4);
                maximum = part[padded], sum = part[padded + 1];
            } else {
                merge(&maximum, &sum, acc, part[padded], part[padded + 1], part, padded);
            }
        }
        const int64_t token = span.first + item.token + t;
        finish(args.out + (token * plan.heads + head) * plan.head_dim, acc, sum, plan.head_dim);
    }
}

}  // namespace LLMSERVE_ISA
}  // namespace llmserve
