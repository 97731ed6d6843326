#include "packing.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <thread>

#include "matrix.hpp"

// One function for each kind of processor, chosen when it is first called. Sanitizers start too late for that.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#define LLMSERVE_CLONES __attribute__((target_clones("arch=x86-64-v4", "avx2", "default")))
#else
#define LLMSERVE_CLONES
#endif
#define LLMSERVE_INLINE inline __attribute__((always_inline))

namespace llmserve {

namespace {

LLMSERVE_INLINE float as_float(uint32_t bits) {
    float f;
    std::memcpy(&f, &bits, 4);
    return f;
}
LLMSERVE_INLINE uint32_t as_bits(float f) {
    uint32_t bits;
    std::memcpy(&bits, &f, 4);
    return bits;
}

// Finite numbers only. A half's exponent is moved by a product, which makes its subnormals right too.
LLMSERVE_INLINE float from_half(uint16_t h) {
    const float magnitude = as_float((uint32_t)(h & 0x7fff) << 13) * 0x1p112f;
    return as_float(as_bits(magnitude) | (uint32_t)(h & 0x8000) << 16);
}
// Of 0 … 65504, to the nearest, ties to even.
LLMSERVE_INLINE uint16_t to_half(float f) {
    const uint32_t bits = as_bits(f);
    if (bits < 0x38800000) return (uint16_t)(as_bits(f + 0.5f) - 0x3f000000);  // the sum's last bit is 2^-24
    return (uint16_t)((bits + 0xc8000fff + (bits >> 13 & 1)) >> 13);
}

LLMSERVE_INLINE void read_row(const PackJob& job, int64_t row, float* x) {
    const int64_t n = job.cols;
    switch (job.source) {
        case SourceKind::f32: std::memcpy(x, (const float*)job.data + row * n, n * 4); break;
        case SourceKind::bf16: {
            const uint16_t* from = (const uint16_t*)job.data + row * n;
            for (int64_t i = 0; i < n; i++) x[i] = as_float((uint32_t)from[i] << 16);
            break;
        }
        case SourceKind::f16: {
            const uint16_t* from = (const uint16_t*)job.data + row * n;
            for (int64_t i = 0; i < n; i++) x[i] = from_half(from[i]);
            break;
        }
    }
}

LLMSERVE_INLINE float largest(const float* x, int64_t n) {
    uint32_t most = 0;  // magnitudes compare as integers do
    for (int64_t i = 0; i < n; i++) most = std::max(most, as_bits(x[i]) & 0x7fffffff);
    return as_float(most);
}

// x / scale to whole numbers within [-low, high], plus low (int4) or high + 1 (int8).
LLMSERVE_INLINE void round_all(const float* x, int64_t n, float scale, float low, float high, float offset, uint8_t* q) {
    const float divisor = scale > 0 ? scale : 1.0f;
    for (int64_t i = 0; i < n; i++) {
        const float v = std::nearbyintf(x[i] / divisor);
        q[i] = (uint8_t)(int32_t)(std::min(std::max(v, low), high) + offset);
    }
}

// Σ (q · scale - x)², in fp64, where no order of the sum makes a difference worth speaking of.
LLMSERVE_INLINE double squared_error(const float* x, int64_t n, float scale) {
    const float divisor = scale > 0 ? scale : 1.0f;
    double sums[16] = {};
    for (int64_t i = 0; i < n; i += 16) {
        for (int64_t l = 0; l < 16; l++) {
            const float q = std::min(std::max(std::nearbyintf(x[i + l] / divisor), -8.0f), 7.0f);
            const double d = (double)(q * scale - x[i + l]);
            sums[l] += d * d;
        }
    }
    double total = 0;
    for (double s : sums) total += s;
    return total;
}

// 32 rows, each first rounded to bytes and then laid where the panel has it. x, q: room for a padded row.
LLMSERVE_CLONES void pack_panel(const PackJob& job, int64_t panel, float* x, uint8_t* q) {
    const bool int4 = job.group > 0;
    const int64_t stored = int4 ? job.cols : job.last - job.first, width = (stored + 31) / 32 * 32;
    uint8_t* out = job.weight + panel * width * (int4 ? 16 : 32);
    const int64_t groups = int4 ? width / job.group : 1;
    for (int64_t r = 0; r < kPanel; r++) {
        const int64_t row = panel * kPanel + r;
        std::memset(q, int4 ? 8 : 128, width);
        if (row < job.rows) {
            std::memset(x + job.cols, 0, 32 * 4);
            read_row(job, row, x);
        }
        if (!int4) {
            const float scale = row < job.rows ? largest(x, job.cols) / 127.0f : 0.0f;
            ((float*)job.scale)[row] = scale;
            if (row < job.rows) round_all(x + job.first, stored, scale, -127.0f, 127.0f, 128.0f, q);
            for (int64_t k = 0; k < width; k += 4) std::memcpy(out + (k / 4 * kPanel + r) * 4, q + k, 4);
            continue;
        }
        for (int64_t g = 0; g < groups; g++) {
            uint16_t half = 0;
            if (row < job.rows) {
                const float* group = x + g * job.group;
                const float full = largest(group, job.group) / 7.0f;
                double least = std::numeric_limits<double>::infinity();
                for (float clip : job.clips) {
                    const uint16_t candidate = to_half(full * clip);  // judged as it will be stored
                    const double error = squared_error(group, job.group, from_half(candidate));
                    if (error < least) least = error, half = candidate;
                }
                round_all(group, job.group, from_half(half), -8.0f, 7.0f, 8.0f, q + g * job.group);
            }
            ((uint16_t*)job.scale)[(panel * groups + g) * kPanel + r] = half;
        }
        for (int64_t k = 0; k < width; k += 8) {
            uint8_t four[4];
            for (int64_t j = 0; j < 4; j++) four[j] = (uint8_t)(q[k + j] | q[k + 4 + j] << 4);
            std::memcpy(out + (k / 8 * kPanel + r) * 4, four, 4);
        }
    }
}

// Magnitudes compare as integers do, among which what is no number is the largest.
LLMSERVE_CLONES uint32_t largest_bits(SourceKind source, const void* data, int64_t begin, int64_t end) {
    uint32_t most = 0;
    if (source == SourceKind::f32) {
        const uint32_t* x = (const uint32_t*)data;
        for (int64_t i = begin; i < end; i++) most = std::max(most, x[i] & 0x7fffffff);
    } else {
        const uint16_t* x = (const uint16_t*)data;
        uint16_t half = 0;
        for (int64_t i = begin; i < end; i++) half = std::max(half, (uint16_t)(x[i] & 0x7fff));
        most = half;
    }
    return most;
}

// f(first, last) of all of [0, count), in pieces.
template <class F> void share_out(int64_t count, int64_t piece, int threads, F f) {
    std::atomic<int64_t> next{0};
    const auto work = [&] {
        for (int64_t i; (i = next.fetch_add(piece)) < count;) f(i, std::min(i + piece, count));
    };
    std::vector<std::thread> others;
    for (int64_t t = 1; t < std::min<int64_t>(threads, count / piece); t++) others.emplace_back(work);
    work();
    for (std::thread& other : others) other.join();
}

}  // namespace

void pack_rows(const PackJob& job, int threads) {
    share_out((job.rows + kPanel - 1) / kPanel, 4, threads, [&](int64_t first, int64_t last) {
        std::vector<float> x(job.cols + 128);
        std::vector<uint8_t> q(job.cols + 128);
        for (int64_t p = first; p < last; p++) pack_panel(job, p, x.data(), q.data());
    });
}

float largest_magnitude(SourceKind source, const void* data, int64_t count, int threads) {
    std::atomic<uint32_t> most{0};
    share_out(count, 1 << 18, threads, [&](int64_t first, int64_t last) {
        const uint32_t here = largest_bits(source, data, first, last);
        uint32_t seen = most.load();
        while (seen < here && !most.compare_exchange_weak(seen, here)) {}
    });
    switch (source) {
        case SourceKind::f32: return as_float(most);
        case SourceKind::bf16: return as_float(most << 16);
        default: return most >= 0x7c00 ? std::numeric_limits<float>::infinity() : from_half((uint16_t)most.load());
    }
}

}  // namespace llmserve
