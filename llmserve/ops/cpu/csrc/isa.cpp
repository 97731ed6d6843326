// One instruction set's kernels: this file is compiled once for each, with that set's flags and LLMSERVE_ISA its name.
#include "kernels.hpp"

#include "attention.hpp"
#include "ceilings.hpp"
#include "gemm.hpp"
#include "rope.hpp"
#include "rows.hpp"
#include "sampling.hpp"

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define TEXT_(a) #a
#define TEXT(a) TEXT_(a)

namespace llmserve {
namespace LLMSERVE_ISA {
namespace {

void gemm(const GemmArgs& a, int64_t p, int64_t begin, int64_t end) {
    panel_rows({&a.x, begin, &a.w, p, 0, a.bias, a.y + begin * a.stride + p * kPanel, a.stride, nullptr, 0}, begin, end,
               a.w.panel(p + 1));
}
void gated(const GatedArgs& a, int64_t p, int64_t begin, int64_t end, float* scratch) {
    gated_panel(a, p, begin, end, scratch);
}
void convert(const ConvertArgs& a, int64_t row) { convert_row(a, row); }
void softcap(const SoftcapArgs& a, int64_t row, int64_t begin, int64_t end) { softcap_row(a, row, begin, end); }
void combine(const CombineArgs& a, int64_t token) { combine_row(a, token); }
void norm(const NormArgs& a, const Batch& batch, int64_t row) { norm_row(a, batch, row); }
void embed(const EmbeddingArgs& a, const Batch& batch, int64_t row) { embedding_row(a, batch, row); }
void write_kv(const llmserve::RopeArgs& a, int64_t begin, int64_t end) {
    rope_write({a.batch, a.cache, a.heads, a.qkv, a.stride, a.q_norm, a.k_norm, a.eps, a.cos, a.sin, a.growth, a.q}, begin, end);
}
void attend(const llmserve::AttentionArgs& a, int64_t item, void* scratch) {
    attention_run({a.plan, a.batch, a.cache, a.q, a.out, a.partials, a.scale, a.softcap}, item, scratch);
}
void merge(const llmserve::AttentionArgs& a, int64_t item) {
    merge_run({a.plan, a.batch, a.cache, a.q, a.out, a.partials, a.scale, a.softcap}, item);
}

#if defined(__AVX2__)
constexpr bool kFastS8 = true;
#else
constexpr bool kFastS8 = false;
#endif
#if defined(__AVX512BF16__)
constexpr bool kFastBf16 = true;
#else
constexpr bool kFastBf16 = false;
#endif

}  // namespace
}  // namespace LLMSERVE_ISA

const Kernels JOIN(kernels_, LLMSERVE_ISA) = {
    TEXT(LLMSERVE_ISA),
    LLMSERVE_ISA::kFastS8,
    LLMSERVE_ISA::kFastBf16,
    LLMSERVE_ISA::kTileRows,
    LLMSERVE_ISA::gemm,
    LLMSERVE_ISA::gated,
    LLMSERVE_ISA::convert,
    LLMSERVE_ISA::softcap,
    LLMSERVE_ISA::combine,
    LLMSERVE_ISA::norm,
    LLMSERVE_ISA::embed,
    LLMSERVE_ISA::write_kv,
    LLMSERVE_ISA::attend,
    LLMSERVE_ISA::merge,
    LLMSERVE_ISA::read_bytes,
    LLMSERVE_ISA::peak_s8,
    LLMSERVE_ISA::peak_u4,
    LLMSERVE_ISA::peak_bf16,
    LLMSERVE_ISA::peak_f32,
};

const SamplingTable JOIN(sampling_, LLMSERVE_ISA) = LLMSERVE_ISA::sampling::table;

}  // namespace llmserve
