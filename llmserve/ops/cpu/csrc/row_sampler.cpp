#include "row_sampler.hpp"

#include <atomic>
#include <new>
#include <utility>

namespace llmserve {

RowSampler::RowSampler(const SamplingTable& table, std::shared_ptr<Pool> pool)
    : table_(table), pool_(std::move(pool)), scratch_(pool_ ? pool_->size() : 1) {}

void RowSampler::sample(const SampleArgs* args, SampleResult* results, size_t rows, int32_t vocab) {
    const size_t bytes = (table_.scratch_bytes(vocab) + 63) / 64 * 64;
    if (bytes != scratch_bytes_) {
        scratch_bytes_ = 0;
        for (auto& each : scratch_) {
            each.reset(std::aligned_alloc(64, bytes));
            if (!each) throw std::bad_alloc();
        }
        scratch_bytes_ = bytes;
    }
    std::atomic<size_t> next{0};
    const auto take_rows = [&](int thread) {
        for (size_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < rows;)
            table_.sample(args[i], results[i], scratch_[thread].get());
    };
    if (!pool_ || rows < 2) return take_rows(0);
    pool_->run([](void* take, int thread) { (*(decltype(take_rows)*)take)(thread); }, (void*)&take_rows);
}

}  // namespace llmserve
