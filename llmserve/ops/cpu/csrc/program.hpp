// A model's forward pass as a list of instructions, run by all threads of a rank in one call per step.
//
// It is recorded once, when the engine is loaded, from the same Python lines that the reference executes directly; a
// step then costs no Python between its kernels. A step comes in as the words of a step plan (llmserve/scheduler/plan.py).
// The program checks every number in it, keeps the block table, and computes. It knows nothing of requests or sampling.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <vector>

#include "kernels.hpp"
#include "memory.hpp"
#include "pool.hpp"
#include "team.hpp"

namespace llmserve {

struct Limits {
    int32_t max_tokens;   // of one step
    int32_t rows;         // of the block table
    int32_t columns;      // of the block table
    int32_t num_blocks;
    int32_t block_size;
    int32_t vocab_size;
    int32_t variants;     // sets of rotation frequencies
};

// What the instructions of a step read beside their own arguments.
struct Step {
    Batch batch;
    std::vector<Memory> scratch;  // of each thread
    Memory partials;              // of spread-out attention
};

class Instruction {
  public:
    RowsOf rows = RowsOf::tokens;  // that it computes

    virtual ~Instruction() = default;
    // Done by one thread before any item; how many independent items of work there are, maybe none.
    virtual int64_t prepare(Step& step) = 0;
    virtual void run(Step& step, int thread, int64_t begin, int64_t end) = 0;
    // Items that are handed to a thread at a time.
    virtual int64_t grain() const { return 1; }
    // The program returns to its caller after this one, who does something and goes on.
    virtual bool pauses() const { return false; }
};

class Program {
  public:
    Program(std::shared_ptr<Pool> pool, const Kernels& kernels, const Limits& limits, std::shared_ptr<Team> team);
    ~Program();

    // A buffer that lives as long as the program. `huge`: on huge pages if the system has them, for what is read from end
    // to end; its memory then counts as used in steps of 2 MB.
    uint8_t* buffer(size_t bytes, bool huge);

    void embedding(const EmbeddingArgs& args);
    void angles(const AngleArgs& args);
    // Of a team's ranks, each does its share of the rows. What follows a norm that gathers has only the rows that it leaves.
    void norm(const NormArgs& args);
    void convert(const ConvertArgs& args);
    void gemm(const GemmArgs& args, bool of_logits);
    void gated(const GatedArgs& args);
    void rope(const RopeArgs& args);
    void attention(const AttentionArgs& args, int heads, int window);
    void softcap(const SoftcapArgs& args);
    void choose(std::shared_ptr<Routes> routes, const float* outputs, int64_t stride, bool with_shared);
    void gather(const GatherArgs& args);
    void experts_gated(const ExpertsArgs& args, const Rows& y, Activation activation);
    void experts_down(const ExpertsArgs& args, float* y, int64_t stride);
    void combine(const CombineArgs& args);
    void meet_ranks();  // every rank of this host has come so far
    void pause();       // the caller has something to do between the ranks

    // Takes a step's plan. std::invalid_argument, and nothing has changed, if it is not one for this program.
    void begin(const int32_t* words, size_t count);
    // Computes until a pause (true) or the end (false). Rethrows what the meeting of ranks threw.
    bool run();
    // The same in two halves: the caller is free between them, and calls nothing else here.
    void start();
    bool finish();

    int32_t num_tokens() const { return step_.batch.num_tokens; }
    // Of the array that the program has paused for.
    int64_t paused_rows() const { return paused_rows_; }
    int32_t num_logits() const { return step_.batch.num_logits; }
    int32_t num_hidden() const { return step_.batch.num_hidden; }
    const Kernels& kernels() const { return kernels_; }
    Pool& pool() { return *pool_; }

    // When the last run came to its end or a pause: seconds of the monotonic clock, as Python's time.monotonic has them.
    double ended() const { return ended_; }

    // With a profile: seconds spent in each instruction so far, meetings included.
    void profile(bool on) { profiling_ = on; }
    const std::vector<double>& seconds() const { return seconds_; }

  private:
    // Items of the current instruction that a thread has still to do; others help themselves from its end.
    struct alignas(64) Share {
        std::atomic<uint64_t> range{0};  // begin in the low half, end in the high one
    };
    struct Plan {
        int heads, kv_heads, head_dim, window;
        std::unique_ptr<AttentionPlan> plan;
    };

    template <class T, class... Args> void add(RowsOf rows, Args&&... args) {
        instructions_.push_back(std::make_unique<T>(std::forward<Args>(args)...));
        instructions_.back()->rows = rows;
    }
    void set_out();
    bool outcome();
    void advance();
    void work(int thread);
    bool take(int thread, int64_t& begin, int64_t& end);
    AttentionPlan* plan_for(int heads, int kv_heads, int head_dim, int window);

    std::shared_ptr<Pool> pool_;
    const Kernels& kernels_;
    const Limits limits_;
    std::shared_ptr<Team> team_;
    std::vector<Memory> buffers_;
    std::vector<std::unique_ptr<Instruction>> instructions_;
    RowsOf rows_ = RowsOf::tokens;  // of what is recorded next
    std::vector<Plan> plans_;  // one for each kind of attention in the model

    int64_t longest_;  // positions of a sequence, of which the block table and learned positions have no more
    std::vector<int32_t> table_, filled_;  // block table; entries known of each of its rows
    struct Taken {
        std::vector<int32_t> tokens, positions, variants, wanted_rows;
        std::vector<Span> spans;
    } taken_, spare_;  // the step's; where the next plan is read to, until all of it has been checked
    Step step_;

    size_t next_ = 0;        // instruction after the current one
    Instruction* current_ = nullptr;
    std::vector<Share> shares_;
    std::exception_ptr failure_;
    bool paused_ = false;
    int64_t paused_rows_ = 0;
    bool started_ = false;  // threads are at work

    bool profiling_ = false;
    std::vector<double> seconds_;
    double since_ = 0, ended_ = 0;
};

}  // namespace llmserve
