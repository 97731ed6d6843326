// The ranks of one host: a segment of shared memory with an area for each, and a barrier between their processes.
//
// The segment has no name in any file system: rank 0 makes it (memfd_create) and the others open it through rank 0's
// /proc/PID/fd. It lives as long as somebody maps it, so nothing is left behind however the ranks end, and a
// container's small /dev/shm does not limit it. Ranks that do not see each other's processes (other hosts, containers
// with pid namespaces of their own) cannot attach; the error says so, and the caller has to send its data another way.
// Knows nothing of what lies in the areas, and nothing of how the handle travels between ranks.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace llmserve {

// In order: rank 0 creates, the others attach with its handle, and when all have, everyone calls meet(). Every error
// is a std::runtime_error of one sentence. A Team is used by one thread of its rank at a time, abort() excepted.
class Team {
  public:
    struct Stats {
        uint64_t barriers;  // passed so far
        uint64_t waits;     // of those, where somebody was late by more than about a microsecond
        uint64_t sleeps;    // of those, where this rank went to sleep
        double seconds;     // spent in waits
    };

    // How long barrier() spins before it sleeps. Longer than ranks with equal work are usually apart, and still short
    // against what another process would do with the core.
    static constexpr int kSpinMicroseconds = 50;

    // Pages are taken from the machine when first written, so bytes_per_rank may be generous.
    static std::shared_ptr<Team> create(int size, size_t bytes_per_rank, int spin_us = kSpinMicroseconds);
    static std::shared_ptr<Team> attach(const std::string& handle, int rank, int spin_us = kSpinMicroseconds);

    // Tells the others that this rank has left: whoever still waits for it gets an error instead of waiting for ever.
    ~Team();
    Team(const Team&) = delete;
    Team& operator=(const Team&) = delete;

    // What attach() takes; printable, without line breaks.
    const std::string& handle() const { return handle_; }

    // Called by every rank once all have attached: from here on barrier() notices a peer's death.
    void meet();

    // Returns when every rank has called it as often as this one has.
    //
    // Whatever any rank wrote before its call is visible to every rank after its own: rank r's arrival is a store with
    // release order after its writes, and every rank loads every r's arrival with acquire order before it returns.
    // Work of r's other threads counts if the calling thread has waited for them. Streaming (non-temporal) stores are
    // outside this order: the thread that made them has to execute an sfence first.
    //
    // The same holds for reads: what a rank reads before its call is not overwritten under its hands by a peer that has
    // returned from its own. So with two buffers used in turn, one barrier per exchange is enough: a rank that writes
    // buffer 0 again has passed the barrier that follows the writes of buffer 1, and no rank calls that one before it
    // has read buffer 0.
    void barrier();

    // Every barrier() that waits, or is called from now on, by any rank, ends in an error that names this rank. Any
    // thread may call it. All ranks hear the same sentence: whatever ended the team first.
    void abort();

    int rank() const { return rank_; }
    int size() const { return size_; }
    size_t bytes_per_rank() const { return bytes_; }

    // Aligned to a page. Pages of a NUMA machine lie with the rank that writes them first.
    void* area(int rank) const;

    Stats stats() const { return stats_; }

  private:
    struct Shared;
    struct Seat;

    Team(int rank, int size, size_t bytes_per_rank, int spin_us);
    void map(int fd);
    void take_seat();
    bool arrived(uint32_t generation, int& first_missing) const;
    void wait(uint32_t generation, int missing);
    void sleep(uint32_t generation, int missing);
    uint32_t find_end(bool look_at_processes) const;
    uint32_t end(uint32_t verdict);
    std::string sentence(uint32_t verdict) const;
    void wake();

    int rank_, size_;
    size_t bytes_;
    int64_t spin_ns_;
    std::string handle_;
    bool seated_ = false;
    int fd_ = -1;  // rank 0's, until all have attached
    void* base_ = nullptr;
    size_t mapped_ = 0;
    Shared* shared_ = nullptr;
    Seat* seats_ = nullptr;
    uint32_t generation_ = 0;
    std::vector<int> processes_;  // a pidfd per rank, -1 for our own; empty before meet()
    Stats stats_{};
};

}  // namespace llmserve
