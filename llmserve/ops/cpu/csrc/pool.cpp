#include "pool.hpp"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <stdexcept>
#include <string>
#include <system_error>

namespace llmserve {

namespace {

// About 50 µs: longer than threads of one step are apart, shorter than anybody else would want the processor back.
constexpr int kSpins = 2000;

void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

void bind(int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
}

}  // namespace

void Pool::Bell::ring() {
    count.fetch_add(1);  // sequentially consistent, as are both uses of sleepers: one of the two sees the other
    if (sleepers.load()) syscall(SYS_futex, &count, FUTEX_WAKE_PRIVATE, 1 << 30, nullptr, nullptr, 0);
}

void Pool::Bell::wait(uint32_t seen) {
    for (int i = 0; i < kSpins; i++) {
        if (count.load(std::memory_order_acquire) != seen) return;
        relax();
    }
    sleep(seen);
}

void Pool::Bell::sleep(uint32_t seen) {
    sleepers.fetch_add(1);
    while (count.load() == seen) syscall(SYS_futex, &count, FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
    sleepers.fetch_sub(1);
}

Pool::Pool(const std::vector<int>& cpus, int threads) {
    const bool bound = (int)cpus.size() >= threads;
    sched_getaffinity(0, sizeof(before_), &before_);
    if (bound) bind(first_cpu_ = cpus[0]);
    try {
        for (int t = 1; t < threads; t++)
            workers_.emplace_back([this, t, cpu = bound ? cpus[t] : -1] { work(t, cpu); });
    } catch (const std::system_error&) {
        stop();
        throw std::runtime_error("the system refuses " + std::to_string(threads) + " threads");
    }
}

Pool::~Pool() { stop(); }

void Pool::stop() {
    stop_ = true;
    start_.ring();
    for (std::thread& worker : workers_) worker.join();
    if (deputy_.joinable()) {
        stand_in_.ring();
        deputy_.join();
    }
}

void Pool::work(int thread, int cpu) {
    if (cpu >= 0) bind(cpu);
    for (uint32_t seen = 0;; seen++) {
        start_.wait(seen);
        if (stop_) return;
        f_(argument_, thread);
        meet([](void*) {}, nullptr);
    }
}

void Pool::run(void (*f)(void*, int), void* argument) {
    f_ = f;
    argument_ = argument;
    if (!workers_.empty()) start_.ring();
    f(argument, 0);
    meet([](void*) {}, nullptr);
}

void Pool::stand_in() {
    if (first_cpu_ >= 0) bind(first_cpu_);
    for (uint32_t seen = 0;; seen++) {
        stand_in_.wait(seen);
        if (stop_) return;
        f_(argument_, 0);
        meet([](void*) {}, nullptr);
        done_.ring();
    }
}

void Pool::start(void (*f)(void*, int), void* argument) {
    if (!deputy_.joinable()) {
        deputy_ = std::thread([this] { stand_in(); });
        if (first_cpu_ >= 0) sched_setaffinity(0, sizeof(before_), &before_);
    }
    f_ = f;
    argument_ = argument;
    if (!workers_.empty()) start_.ring();
    stand_in_.ring();
}

void Pool::finish() { done_.sleep(finished_++); }

void Pool::meet(void (*serial)(void*), void* argument) {
    // Read before arriving: the count cannot change until this thread has arrived too.
    const uint32_t seen = met_.count.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 < size()) {
        met_.wait(seen);
        return;
    }
    arrived_.store(0, std::memory_order_relaxed);
    serial(argument);
    met_.ring();
}

}  // namespace llmserve
