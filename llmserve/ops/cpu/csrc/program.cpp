#include "program.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <string>

#include "experts_instructions.hpp"

namespace llmserve {

// ---------------------------------------------------------------------------------------------------- recording

Program::Program(std::shared_ptr<Pool> pool, const Kernels& kernels, const Limits& limits, std::shared_ptr<Team> team)
    : pool_(std::move(pool)),
      kernels_(kernels),
      limits_(limits),
      team_(std::move(team)),
      longest_((int64_t)limits.columns * limits.block_size),
      table_((size_t)limits.rows * limits.columns),
      filled_(limits.rows),
      shares_(pool_->size()) {
    step_.scratch.resize(pool_->size());
    step_.batch = {};
}

Program::~Program() {
    if (started_) pool_->finish();  // of what threads work with
}

uint8_t* Program::buffer(size_t bytes, bool huge) {
    buffers_.emplace_back();
    uint8_t* memory = buffers_.back().reserve(bytes);
    if (huge) madvise(memory, bytes, MADV_HUGEPAGE);  // no is an answer: it is as right without
    return memory;
}

void Program::embedding(const EmbeddingArgs& a) {
    if (a.positions.data) longest_ = std::min(longest_, a.positions.rows);
    add<Embedding>(rows_, a, kernels_);
}
void Program::angles(const AngleArgs& a) { add<Angles>(rows_, a); }
void Program::norm(const NormArgs& a) {
    if (a.gather) rows_ = RowsOf::wanted;
    add<Norm>(rows_, a, kernels_, team_ ? team_->rank() : 0, team_ ? team_->size() : 1);
}
void Program::convert(const ConvertArgs& a) { add<Convert>(rows_, a, kernels_); }
void Program::gemm(const GemmArgs& a, bool of_logits) { add<Gemm>(of_logits ? RowsOf::logits : rows_, a, kernels_); }
void Program::gated(const GatedArgs& a) { add<Gated>(rows_, a, kernels_); }
void Program::rope(const RopeArgs& a) { add<Rope>(rows_, a, kernels_); }

void Program::softcap(const SoftcapArgs& a) { add<Softcap>(RowsOf::logits, a, kernels_); }
void Program::choose(std::shared_ptr<Routes> routes, const float* outputs, int64_t stride, bool with_shared) {
    if (routes->max_tokens() < limits_.max_tokens)
        throw std::invalid_argument("routes of " + std::to_string(routes->max_tokens()) + " tokens will not do for a step of " +
                                    std::to_string(limits_.max_tokens));
    add<Choose>(rows_, std::move(routes), outputs, stride, with_shared);
}
void Program::gather(const GatherArgs& a) { add<Gather>(rows_, a); }
void Program::experts_gated(const ExpertsArgs& a, const Rows& y, Activation activation) {
    add<ExpertsGated>(rows_, a, y, activation, kernels_);
}
void Program::experts_down(const ExpertsArgs& a, float* y, int64_t stride) {
    add<ExpertsDown>(rows_, a, y, stride, kernels_);
}
void Program::combine(const CombineArgs& a) { add<Combine>(rows_, a, kernels_); }

void Program::attention(const AttentionArgs& args, int heads, int window) {
    AttentionArgs a = args;
    a.plan = plan_for(heads, args.cache.kv_heads, args.cache.head_dim, window);
    add<Attention>(rows_, a, kernels_);
    add<Merge>(rows_, a, kernels_);
}

void Program::meet_ranks() { add<MeetRanks>(rows_, team_); }
void Program::pause() { add<Pause>(rows_); }

AttentionPlan* Program::plan_for(int heads, int kv_heads, int head_dim, int window) {
    for (const Plan& p : plans_)
        if (p.heads == heads && p.kv_heads == kv_heads && p.head_dim == head_dim && p.window == window)
            return p.plan.get();
    plans_.push_back({heads, kv_heads, head_dim, window, std::make_unique<AttentionPlan>()});
    return plans_.back().plan.get();
}

// ------------------------------------------------------------------------------------------------ taking a plan

namespace {

// Reads the words of a plan from the front; complains of what cannot be.
class Words {
  public:
    Words(const int32_t* words, size_t count) : words_(words), count_(count) {}

    // The next word, which is at least 0 and less than `bound`.
    int32_t number(const char* what, int64_t bound) {
        if (at_ == count_) throw std::invalid_argument("the step plan ends after " + std::to_string(at_) + " words");
        const int32_t n = words_[at_++];
        if (n < 0 || n >= bound)
            throw std::invalid_argument("the step plan's " + std::string(what) + " " + std::to_string(n) +
                                        " is outside [0, " + std::to_string(bound) + ")");
        return n;
    }
    size_t left() const { return count_ - at_; }
    // The words that follow the next n.
    Words skip(size_t n) const {
        if (n > left()) throw std::invalid_argument("the step plan ends after " + std::to_string(count_) + " words");
        return Words(words_ + at_ + n, left() - n);
    }

  private:
    const int32_t* words_;
    size_t count_, at_ = 0;
};

constexpr size_t kChunkWords = 8;  // beside its tokens and blocks

}  // namespace

void Program::begin(const int32_t* data, size_t count) {
    Words words(data, count);
    auto& [tokens, positions, variants, wanted_rows, spans] = spare_;
    tokens.clear(), positions.clear(), variants.clear(), wanted_rows.clear(), spans.clear();
    std::vector<int32_t> hidden_rows;
    struct NewBlocks {
        int32_t row, first, begin, count;
    };
    std::vector<int32_t> blocks;
    std::vector<NewBlocks> updates;
    const int32_t chunks = words.number("number of chunks", (int64_t)limits_.rows + 1);
    const int32_t all_tokens = words.number("number of tokens", (int64_t)limits_.max_tokens + 1);
    const int32_t all_blocks = words.number("number of new blocks", (int64_t)limits_.rows * limits_.columns + 1);
    Words token_words = words.skip((size_t)chunks * kChunkWords), block_words = token_words.skip(all_tokens);
    for (int32_t c = 0; c < chunks; c++) {
        const int32_t row = words.number("row", limits_.rows);
        const int32_t start = words.number("first position", longest_);
        const int32_t first_block = words.number("first new block", (int64_t)filled_[row] + 1);
        const int32_t logits = words.number("number of logits", (int64_t)limits_.max_tokens + 1);
        const int32_t variant = words.number("rotation variant", limits_.variants);
        const int32_t length = words.number("number of tokens", limits_.max_tokens - (int64_t)tokens.size() + 1);
        const int32_t fresh = words.number("number of new blocks", (int64_t)limits_.columns - first_block + 1);
        const int32_t hidden = words.number("number of hidden states", (int64_t)limits_.max_tokens + 1);
        const int64_t context = (int64_t)start + length;
        const int64_t known = fresh ? first_block + fresh : filled_[row];
        if (length < 1 || (int64_t)logits + hidden > length || context > std::min(known * limits_.block_size, longest_))
            throw std::invalid_argument("the step plan's chunk for row " + std::to_string(row) + " has " +
                                        std::to_string(length) + " tokens from position " + std::to_string(start) +
                                        ", " + std::to_string(logits) + " logits, " + std::to_string(hidden) +
                                        " hidden states and " + std::to_string(known) +
                                        " blocks, which do not go together or go beyond " +
                                        std::to_string(longest_) + " positions");
        const int32_t first = (int32_t)tokens.size();
        for (int32_t i = 0; i < length; i++) {
            tokens.push_back(token_words.number("token id", limits_.vocab_size));
            positions.push_back(start + i);
            variants.push_back(variant);
        }
        if (fresh) updates.push_back({row, first_block, (int32_t)blocks.size(), fresh});
        for (int32_t i = 0; i < fresh; i++) blocks.push_back(block_words.number("block", limits_.num_blocks));
        for (int32_t i = first + length - logits; i < first + length; i++) wanted_rows.push_back(i);
        for (int32_t i = first + length - hidden; i < first + length; i++) hidden_rows.push_back(i);
        spans.push_back({first, length, (int32_t)context, row});
    }
    if ((int32_t)tokens.size() != all_tokens || (int32_t)blocks.size() != all_blocks)
        throw std::invalid_argument("the step plan's chunks have " + std::to_string(tokens.size()) + " tokens and " +
                                    std::to_string(blocks.size()) + " new blocks, not " + std::to_string(all_tokens) +
                                    " and " + std::to_string(all_blocks));
    if (block_words.left())
        throw std::invalid_argument("the step plan has " + std::to_string(block_words.left()) + " words too many");
    for (const NewBlocks& u : updates) {
        std::memcpy(&table_[(size_t)u.row * limits_.columns + u.first], &blocks[u.begin], u.count * sizeof(int32_t));
        filled_[u.row] = u.first + u.count;
    }
    const int32_t num_logits = (int32_t)wanted_rows.size();
    wanted_rows.insert(wanted_rows.end(), hidden_rows.begin(), hidden_rows.end());
    std::swap(taken_, spare_);
    const Taken& t = taken_;
    step_.batch = {(int32_t)t.tokens.size(), t.tokens.data(), t.positions.data(), t.variants.data(),
                   (int32_t)t.spans.size(), t.spans.data(), table_.data(), limits_.columns, num_logits,
                   (int32_t)hidden_rows.size(), t.wanted_rows.data()};
    for (Plan& p : plans_) attention_plan(*p.plan, step_.batch, p.heads, p.kv_heads, p.head_dim, p.window);
    next_ = 0;
    failure_ = nullptr;
}

// ------------------------------------------------------------------------------------------------------ running

namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

uint64_t join(int64_t begin, int64_t end) { return (uint64_t)begin | (uint64_t)end << 32; }

}  // namespace

// The next instruction that has work, and an equal share of it for each thread. Done by one thread while the others wait.
void Program::advance() {
    if (profiling_) {
        seconds_.resize(instructions_.size());
        const double t = now();
        if (current_) seconds_[next_ - 1] += t - since_;
        since_ = t;
    }
    current_ = nullptr;
    try {
        while (next_ < instructions_.size() && !paused_) {
            Instruction* candidate = instructions_[next_++].get();
            const int64_t items = candidate->prepare(step_);
            if (profiling_ && !items) {
                const double t = now();
                seconds_[next_ - 1] += t - since_;
                since_ = t;
            }
            paused_ = candidate->pauses();
            if (paused_) paused_rows_ = step_.batch.count(candidate->rows);
            if (!items) continue;
            const int64_t threads = (int64_t)shares_.size();
            for (int64_t t = 0; t < threads; t++)
                shares_[t].range.store(join(items * t / threads, items * (t + 1) / threads), std::memory_order_relaxed);
            current_ = candidate;
            return;
        }
    } catch (...) {
        failure_ = std::current_exception();
    }
    ended_ = now();
}

// From the front of one's own share, then from the ends of the others': neighbouring items lie side by side in memory, and
// whoever reads on in order reads fastest.
bool Program::take(int thread, int64_t& begin, int64_t& end) {
    const int64_t grain = current_->grain();
    const int threads = (int)shares_.size();
    for (int i = 0; i < threads; i++) {
        std::atomic<uint64_t>& range = shares_[(thread + i) % threads].range;
        uint64_t seen = range.load(std::memory_order_relaxed);
        for (;;) {
            const int64_t b = seen & 0xffffffff, e = seen >> 32;
            if (b >= e) break;
            const int64_t n = e - b < grain ? e - b : grain;
            begin = i ? e - n : b;
            end = begin + n;
            // Relaxed will do: items are independent, and what they read and write is ordered by the meetings.
            if (range.compare_exchange_weak(seen, i ? join(b, begin) : join(end, e), std::memory_order_relaxed)) return true;
        }
    }
    return false;
}

void Program::work(int thread) {
    while (current_) {
        for (int64_t begin, end; take(thread, begin, end);) current_->run(step_, thread, begin, end);
        pool_->meet([](void* self) { ((Program*)self)->advance(); }, this);
    }
}

void Program::set_out() {
    paused_ = false;
    current_ = nullptr;
    since_ = now();
    advance();
}

bool Program::outcome() {
    if (failure_) std::rethrow_exception(failure_);
    return paused_;
}

bool Program::run() {
    set_out();
    if (current_) pool_->run([](void* self, int thread) { ((Program*)self)->work(thread); }, this);
    return outcome();
}

void Program::start() {
    set_out();
    if ((started_ = current_)) pool_->start([](void* self, int thread) { ((Program*)self)->work(thread); }, this);
}

bool Program::finish() {
    if (started_) pool_->finish();
    started_ = false;
    return outcome();
}

}  // namespace llmserve
