// The threads of one rank: they run one function together, meet at barriers inside it, and sleep in between.
//
// Each is bound to a processor of its own where there are enough. Thread 0 is whoever calls run(). A meeting costs a few
// hundred nanoseconds as long as all come soon; who waits longer goes to sleep. Knows nothing of what is computed.
#pragma once

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

    // Every thread of a run calls it; the last to come calls serial(argument) before any returns.
    void meet(void (*serial)(void*), void* argument);

  private:
    // A number that goes up; waiting for that is cheap for a while and free after.
    struct alignas(64) Bell {
        std::atomic<uint32_t> count{0};
        std::atomic<int> sleepers{0};
        void ring();
        void wait(uint32_t seen);
    };

    void work(int thread, int cpu);
    void stop();

    Bell start_, met_;
    alignas(64) std::atomic<int> arrived_{0};
    void (*f_)(void*, int) = nullptr;
    void* argument_ = nullptr;
    bool stop_ = false;
    std::vector<std::thread> workers_;
};

}  // namespace llmserve
