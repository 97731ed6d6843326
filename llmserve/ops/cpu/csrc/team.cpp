// The segment and the barrier of team.hpp.
#include "team.hpp"

#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <fcntl.h>
#include <linux/futex.h>
#include <new>
#include <poll.h>
#include <sched.h>
#include <sstream>
#include <stdexcept>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434  // the same on every architecture; older C libraries do not name it
#endif

namespace llmserve {

namespace {

constexpr size_t kPage = 4096;
constexpr int kMaxSize = 1024;
// Two cache lines: processors fetch them in pairs, so a neighbour's writes would cost as much as one's own.
constexpr size_t kLines = 128;
// How often is looked for a rank before a clock is: about a microsecond, which most barriers do not take.
constexpr int kUntimedSpins = 48;
// How long a spinning rank keeps its core. After that it offers the core between two looks: where ranks outnumber
// cores, whoever is late may be waiting for this very one.
constexpr int64_t kYieldAfterNs = 10'000;
// How often a sleeper looks whether its peers' processes still exist.
constexpr int64_t kLifeCheckNs = 100'000'000;

int64_t now_ns() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * int64_t{1'000'000'000} + t.tv_nsec;
}

inline void pause_core() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("isb");
#endif
}

// The word lies in memory that several processes map, so these are the calls without FUTEX_PRIVATE_FLAG.
void futex_wait(std::atomic<uint32_t>& word, uint32_t seen, int64_t ns) {
    const timespec t{ns / 1'000'000'000, ns % 1'000'000'000};
    syscall(SYS_futex, &word, FUTEX_WAIT, seen, &t, nullptr, 0);  // however it ends, the caller looks again
}
void futex_wake_all(std::atomic<uint32_t>& word) {
    syscall(SYS_futex, &word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

int pidfd_open(pid_t pid) { return (int)syscall(SYS_pidfd_open, pid, 0); }

[[noreturn]] void fail(const std::string& sentence) { throw std::runtime_error(sentence); }
[[noreturn]] void fail_with(const std::string& what, const char* advice) {
    fail(what + " (" + std::strerror(errno) + "); " + advice);
}

[[noreturn]] void no_such_rank(int rank, int size) {
    fail("rank " + std::to_string(rank) + " is none of a team of " + std::to_string(size) + "; ranks count from 0.");
}

std::string read_link(const std::string& path) {
    char text[PATH_MAX];
    const ssize_t n = readlink(path.c_str(), text, sizeof text);
    return n < 0 ? "" : std::string(text, (size_t)n);
}

std::string random_name() {
    unsigned char bytes[16];
    if (getrandom(bytes, sizeof bytes, 0) != (ssize_t)sizeof bytes)
        fail_with("getrandom gave no random bytes", "the ranks cannot share memory here.");
    std::string name = "llmserve-team-";
    for (unsigned char b : bytes) {
        char hex[3];
        std::snprintf(hex, sizeof hex, "%02x", b);
        name += hex;
    }
    return name;
}

// Process ids mean the same to two ranks only within one of these.
std::string pid_namespace() {
    std::string id = read_link("/proc/self/ns/pid");
    if (id.empty()) fail_with("cannot read /proc/self/ns/pid", "ranks share memory only where /proc is mounted.");
    return id;
}

constexpr const char* kTogether = "ranks share memory only within one host and one container.";

// Why a team has ended: what happened, and to which rank.
enum class End : uint32_t { none, abort, left, gone };
uint32_t verdict_of(End end, int rank) { return (uint32_t)end << 16 | (uint32_t)rank; }

}  // namespace

// At the segment's start. Zeros, as a new memfd has them, are the valid beginning of all of it. Read by everybody at
// every barrier and written only by those who sleep, so that it stays in every core's cache.
struct Team::Shared {
    alignas(kLines) std::atomic<uint32_t> wakes;  // the word that sleepers sleep on; changed by whoever wakes them
    std::atomic<uint32_t> sleepers;
    // Why the team has ended, 0 while it has not. Written once: who notices next, because the first to notice has
    // ended, too, names the first cause all the same.
    std::atomic<uint32_t> verdict;
};

struct Team::Seat {
    alignas(kLines) std::atomic<uint32_t> arrived;  // barriers this rank has reached; nobody else writes it
    alignas(kLines) std::atomic<int32_t> pid;
    std::atomic<uint32_t> left;
};

static_assert(std::atomic<uint32_t>::is_always_lock_free && std::atomic<int32_t>::is_always_lock_free,
              "only lock-free atomics work between processes");
static_assert(sizeof(std::atomic<uint32_t>) == 4, "a futex is 32 bits");

Team::Team(int rank, int size, size_t bytes_per_rank, int spin_us)
    : rank_(rank),
      size_(size),
      bytes_((bytes_per_rank + kPage - 1) / kPage * kPage),
      spin_ns_(spin_us * int64_t{1000}) {
    if (size < 1 || size > kMaxSize)
        fail("a team of " + std::to_string(size) + " ranks is impossible; it has 1 to " + std::to_string(kMaxSize) +
             ".");
    if (rank < 0 || rank >= size)
        no_such_rank(rank, size);
    if (bytes_ < bytes_per_rank || bytes_ > (size_t{1} << 46) / (size_t)size)
        fail("areas of " + std::to_string(bytes_per_rank) + " bytes do not fit an address space; ask for less.");
    if (spin_us < 0)
        fail("a spin of " + std::to_string(spin_us) + " microseconds is impossible; use 0 to sleep at once.");
    const size_t control = sizeof(Shared) + (size_t)size * sizeof(Seat);
    mapped_ = (control + kPage - 1) / kPage * kPage + (size_t)size * bytes_;
    // Tried now and not in meet(), because now there is still another way to go.
    const int self = pidfd_open(getpid());
    if (self < 0)
        fail_with("this kernel or container does not let a process be watched by pidfd_open",
                  "sharing memory takes Linux 5.3 or newer.");
    close(self);
}

std::shared_ptr<Team> Team::create(int size, size_t bytes_per_rank, int spin_us) {
    std::shared_ptr<Team> team(new Team(0, size, bytes_per_rank, spin_us));
    const std::string name = random_name(), space = pid_namespace();
    team->fd_ = (int)syscall(SYS_memfd_create, name.c_str(), 1u /* MFD_CLOEXEC */);
    if (team->fd_ < 0) fail_with("memfd_create made no shared memory", "the ranks cannot share memory here.");
    if (ftruncate(team->fd_, (off_t)team->mapped_) != 0)
        fail_with("shared memory of " + std::to_string(team->mapped_) + " bytes is refused", "ask for smaller areas.");
    team->map(team->fd_);
    std::ostringstream handle;
    handle << getpid() << ' ' << team->fd_ << ' ' << name << ' ' << space << ' ' << size << ' ' << bytes_per_rank;
    team->handle_ = handle.str();
    team->take_seat();
    return team;
}

std::shared_ptr<Team> Team::attach(const std::string& handle, int rank, int spin_us) {
    std::istringstream in(handle);
    int pid = 0, number = -1, size = 0;
    size_t bytes = 0;
    std::string name, space;
    if (!(in >> pid >> number >> name >> space >> size >> bytes))
        fail("'" + handle + "' is no handle of a team; pass on what rank 0 calls handle.");
    std::shared_ptr<Team> team(new Team(rank, size, bytes, spin_us));
    team->handle_ = handle;
    if (pid_namespace() != space)
        fail("rank " + std::to_string(rank) + " runs in another pid namespace than rank 0; " + kTogether);
    const std::string path = "/proc/" + std::to_string(pid) + "/fd/" + std::to_string(number);
    // Looked at before it is opened: elsewhere the same path may be anybody's pipe or terminal.
    if (read_link(path) != "/memfd:" + name + " (deleted)")
        fail("rank " + std::to_string(rank) + " does not find rank 0's memory at " + path + "; " + kTogether);
    const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC);
    if (fd < 0) fail_with("rank " + std::to_string(rank) + " may not open " + path, "run all ranks as one user.");
    struct stat about {};
    const bool whole = fstat(fd, &about) == 0 && (size_t)about.st_size == team->mapped_;
    if (whole) {
        try {
            team->map(fd);
        } catch (...) {
            close(fd);
            throw;
        }
    }
    close(fd);  // the mapping keeps the memory
    if (!whole) fail("rank 0's memory has not the size its handle says; start all ranks from one installation.");
    team->take_seat();
    return team;
}

void Team::map(int fd) {
    void* base = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (base == MAP_FAILED)
        fail_with("shared memory of " + std::to_string(mapped_) + " bytes cannot be mapped", "ask for smaller areas.");
    base_ = base;
    shared_ = static_cast<Shared*>(base);
    seats_ = reinterpret_cast<Seat*>(static_cast<char*>(base) + sizeof(Shared));
}

void Team::take_seat() {
    int32_t nobody = 0;
    if (!seats_[rank_].pid.compare_exchange_strong(nobody, getpid()))
        fail("rank " + std::to_string(rank_) + " is taken by process " + std::to_string(nobody) +
             "; give every process a rank of its own.");
    seated_ = true;
}

Team::~Team() {
    if (base_ != nullptr) {
        if (seated_ && seats_[rank_].pid.load() == getpid()) {  // and not in a child forked from the rank
            seats_[rank_].left.store(1);
            wake();
        }
        munmap(base_, mapped_);
    }
    if (fd_ >= 0) close(fd_);
    for (int process : processes_)
        if (process >= 0) close(process);
}

void Team::meet() {
    if (!processes_.empty()) return;
    std::vector<int> processes((size_t)size_, -1);
    std::string error;
    for (int r = 0; r < size_ && error.empty(); r++) {
        const pid_t pid = seats_[r].pid.load();
        if (r == rank_) continue;
        if (pid == 0) {
            error = "rank " + std::to_string(r) + " has not attached to the team; meet only when all ranks have.";
        } else if ((processes[r] = pidfd_open(pid)) < 0) {
            error = "rank " + std::to_string(r) + " of the engine is gone (process " + std::to_string(pid) + ": " +
                    std::strerror(errno) + "); start the engine again.";
        }
    }
    if (!error.empty()) {
        for (int process : processes)
            if (process >= 0) close(process);
        fail(error);
    }
    processes_ = std::move(processes);
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
}

void* Team::area(int rank) const {
    if (rank < 0 || rank >= size_)
        no_such_rank(rank, size_);
    return static_cast<char*>(base_) + (mapped_ - (size_t)(size_ - rank) * bytes_);
}

// Each rank counts its arrivals in a line that it alone writes, and reads those of all others. That takes one transfer
// of a line from core to core, where a common counter takes three in turn (add, add, release), and it says who is late.
//
// Nobody sleeps for ever. Let the arrival that comes last in the order of sequentially consistent operations be rank
// L's. L looks at all arrivals after its own, sees all, and only then loads `sleepers`. A sleeper adds itself to
// `sleepers`, loads `wakes`, looks at all arrivals, and then sleeps if `wakes` is still what it was. If it did not see
// L's arrival, all it did before comes before that arrival, so L sees a sleeper; and L changes `wakes` after the
// sleeper has read it, so that either the kernel finds it changed and refuses the sleep, or L's call to wake ends it.
// The order this needs (a store, then a load of another word) is why arrivals are sequentially consistent and not just
// release and acquire: on x86 that makes the one store a locked instruction and changes no load. The same goes for
// verdicts and for leaving, which set their flag, then change `wakes`, and then wake.
void Team::barrier() {
    if (processes_.empty()) fail("a barrier before the ranks have met would not notice a dead one; call meet first.");
    if (const uint32_t verdict = shared_->verdict.load()) fail(sentence(verdict));
    const uint32_t generation = ++generation_;
    seats_[rank_].arrived.store(generation);
    int missing = 0;
    if (!arrived(generation, missing)) {
        wait(generation, missing);
    } else if (shared_->sleepers.load() != 0) {
        wake();
    }
    stats_.barriers++;
}

// Moves first_missing past all ranks that have arrived; whether that is all of them. A rank may be one barrier ahead,
// and the count may wrap around.
bool Team::arrived(uint32_t generation, int& first_missing) const {
    while (first_missing < size_ && (int32_t)(seats_[first_missing].arrived.load() - generation) >= 0) first_missing++;
    return first_missing == size_;
}

void Team::wait(uint32_t generation, int missing) {
    for (int i = 0; i < kUntimedSpins; i++) {
        pause_core();
        if (arrived(generation, missing)) return;
    }
    const int64_t start = now_ns();
    stats_.waits++;
    bool done = false;
    for (int64_t spent = 0; !done && spent < spin_ns_; spent = now_ns() - start) {
        if (spent < kYieldAfterNs) {
            pause_core();
        } else {
            sched_yield();
        }
        done = arrived(generation, missing);
    }
    if (!done) {
        stats_.sleeps++;
        sleep(generation, missing);
    }
    stats_.seconds += 1e-9 * (double)(now_ns() - start);
}

void Team::sleep(uint32_t generation, int missing) {
    uint32_t verdict = 0;
    int64_t look = now_ns() + kLifeCheckNs;
    shared_->sleepers.fetch_add(1);
    for (;;) {
        const uint32_t wakes = shared_->wakes.load();
        if (arrived(generation, missing)) break;
        if ((verdict = shared_->verdict.load()) != 0) break;
        const bool look_now = now_ns() >= look;
        if (look_now) look += kLifeCheckNs;
        // A rank that passed this barrier may have ended since; but then all had arrived before, and we see it now.
        const uint32_t found = find_end(look_now);
        if (found != 0 && !arrived(generation, missing)) {
            verdict = end(found);
            break;
        }
        futex_wait(shared_->wakes, wakes, kLifeCheckNs);
    }
    shared_->sleepers.fetch_sub(1);
    if (verdict != 0) fail(sentence(verdict));
}

// The verdict on the first rank found that will not come any more, or 0.
uint32_t Team::find_end(bool look_at_processes) const {
    for (int r = 0; r < size_; r++)
        if (seats_[r].left.load() != 0) return verdict_of(End::left, r);
    if (!look_at_processes) return 0;
    std::vector<pollfd> processes;  // readable once the process has ended, reaped or not; poll ignores a -1
    for (int process : processes_) processes.push_back({process, POLLIN, 0});
    if (poll(processes.data(), processes.size(), 0) > 0)
        for (int r = 0; r < size_; r++)
            if (processes[r].revents != 0) return verdict_of(End::gone, r);
    return 0;
}

// Gives the team this verdict and tells everyone; returns the one it had already, if it had one.
uint32_t Team::end(uint32_t verdict) {
    uint32_t before = 0;
    const bool first = shared_->verdict.compare_exchange_strong(before, verdict);
    wake();
    return first ? verdict : before;
}

std::string Team::sentence(uint32_t verdict) const {
    const int r = (int)(verdict & 0xffff);
    const std::string rank = "rank " + std::to_string(r) + " of the engine ";
    switch ((End)(verdict >> 16)) {
        case End::abort: return rank + "gave up; its log says why.";
        case End::left: return rank + "has left before the others; its log says why.";
        default: break;
    }
    return rank + "is gone (process " + std::to_string(seats_[r].pid.load()) + " has ended); start the engine again.";
}

void Team::abort() { end(verdict_of(End::abort, rank_)); }

void Team::wake() {
    shared_->wakes.fetch_add(1);
    futex_wake_all(shared_->wakes);
}

}  // namespace llmserve
