// The threads of one rank: they run one function together, meet at barriers inside it, and sleep in between.
//
// Each is bound to a processor of its own where there are enough. Thread 0 is whoever calls run(), or a deputy where the
// caller has something else to do. A meeting costs a few hundred nanoseconds as long as all come soon; who waits longer
// goes to sleep. Knows nothing of what is computed.
#pragma once

#include <sched.h>

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace llmserve {

class Pool {
  public:
    // std::runtime_error where the system refuses that many threads.
    // `cpus`: one thread for each. With more threads than processors, or an empty list of them, none is bound.
    explicit Pool(const std::vector<int>& cpus, int threads);
    ~Pool();
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    int size() const { return (int)workers_.size() + 1; }

    // f(argument, thread) on every thread; returns when all have returned. f must not throw.
    void run(void (*f)(void*, int), void* argument);

    // The same, with a thread of the pool's own as thread 0: start returns at once, finish when all have returned. From
    // the first start on the caller is bound to no processor that it was not bound to before it made the pool.
    void start(void (*f)(void*, int), void* argument);
    void finish();

    // Every thread of a run calls it; the last to come calls serial(argument) before any returns.
    void meet(void (*serial)(void*), void* argument);

  private:
    // A number that goes up; waiting for that is cheap for a while and free after.
    struct alignas(64) Bell {
        std::atomic<uint32_t> count{0};
        std::atomic<int> sleepers{0};
        void ring();
        void wait(uint32_t seen);   // cheap for a while, then asleep
        void sleep(uint32_t seen);  // asleep at once: for who would only take a processor from those it waits for
    };

    void work(int thread, int cpu);
    void stand_in();
    void stop();

    Bell start_, met_;
    Bell stand_in_, done_;  // of start and finish
    uint32_t finished_ = 0;
    int first_cpu_ = -1;    // of thread 0, where threads are bound
    cpu_set_t before_;      // what the caller was bound to
    std::thread deputy_;    // there from the first start on
    alignas(64) std::atomic<int> arrived_{0};
    void (*f_)(void*, int) = nullptr;
    void* argument_ = nullptr;
    bool stop_ = false;
    std::vector<std::thread> workers_;
};

}  // namespace llmserve
