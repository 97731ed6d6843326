// The extension module: threads, instruction sets, matrices and programs as Python sees them.
//
// Memory passes as addresses: whoever gives one keeps what lies there alive (llmserve/ops/cpu/recorder.py does).
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <chrono>
#include <string>

#include "experts_args.hpp"
#include "program.hpp"

namespace nb = nanobind;
using namespace nb::literals;

void bind_packing(nb::module_& m);
void bind_team(nb::module_& m);

namespace llmserve {

void bind_sampling(nb::module_& m);

namespace {

// Best first.
std::vector<const Kernels*> runnable() {
    std::vector<const Kernels*> sets;
#if defined(__x86_64__)
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    const bool vnni = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512vnni");
#if defined(LLMSERVE_AVX512_BF16)  // the compiler had it
    if (vnni && __builtin_cpu_supports("avx512bf16")) sets.push_back(&kernels_avx512_bf16);
#endif
    if (vnni) sets.push_back(&kernels_avx512);
    if (avx2) sets.push_back(&kernels_avx2);
#endif
    sets.push_back(&kernels_portable);
    return sets;
}

const Kernels& named(const std::string& name) {
    std::string known;
    for (const Kernels* k : runnable()) {
        if (name == k->name) return *k;
        known += (known.empty() ? "" : ", ") + std::string(k->name);
    }
    throw nb::value_error(("this processor cannot run the instruction set '" + name + "'; it can run " + known + ".").c_str());
}

nb::list instruction_sets() {
    nb::list out;
    for (const Kernels* k : runnable()) {
        nb::dict d;
        d["name"] = k->name;
        d["fast_s8"] = k->fast_s8;
        d["fast_bf16"] = k->fast_bf16;
        out.append(d);
    }
    return out;
}

// How often per second all threads together do what `f(argument of the thread)` returns, the best of a few rounds.
template <class F> double rate(Pool& pool, int rounds, F f) {
    double best = 0;
    for (int i = 0; i < rounds; i++) {
        struct Job {
            F* f;
            std::vector<double> done;
        } job{&f, std::vector<double>(pool.size())};
        const auto from = std::chrono::steady_clock::now();
        pool.run([](void* p, int thread) { ((Job*)p)->done[thread] = (*((Job*)p)->f)(thread); }, &job);
        const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - from).count();
        double total = 0;
        for (double d : job.done) total += d;
        if (total / seconds > best) best = total / seconds;
    }
    return best;
}

Matrix make_matrix(const std::string& kind, int64_t rows, int64_t cols, uintptr_t data, int64_t group, uintptr_t scale,
                   uintptr_t zero) {
    WeightKind k;
    if (kind == "u8") k = WeightKind::u8;
    else if (kind == "u4") k = WeightKind::u4;
    else if (kind == "bf16") k = WeightKind::bf16;
    else if (kind == "f16") k = WeightKind::f16;
    else if (kind == "f32") k = WeightKind::f32;
    else throw nb::value_error(("no kernel multiplies by weights of kind '" + kind + "'").c_str());
    return {k, rows, cols, group, (const uint8_t*)data, (const void*)scale, (const uint8_t*)zero};
}

Rows make_rows(const std::string& kind, int64_t cols, uintptr_t data, uintptr_t scale, uintptr_t sums) {
    InputKind k;
    if (kind == "s8") k = InputKind::s8;
    else if (kind == "bf16") k = InputKind::bf16;
    else if (kind == "f32") k = InputKind::f32;
    else throw nb::value_error(("no kernel takes activations of kind '" + kind + "'").c_str());
    return {k, cols, (void*)data, (float*)scale, (int32_t*)sums};
}

Activation activation(const std::string& name) {
    if (name == "none") return Activation::none;
    if (name == "silu") return Activation::silu;
    if (name == "gelu_tanh") return Activation::gelu;
    throw nb::value_error(("no kernel computes the activation '" + name + "'").c_str());
}

// A kernel takes its operands' word for what they are; here is where they are held to it.
void check_operands(const Rows& x, const Matrix& w) {
    const bool integers = w.kind == WeightKind::u8 || w.kind == WeightKind::u4;
    if (x.kind != InputKind::f32 && !integers && !(x.kind == InputKind::bf16 && w.kind == WeightKind::bf16))
        throw nb::value_error("no kernel multiplies activations of kind s8 by weights in floating point, or bf16 by f16 or f32");
    const bool groups = w.kind != WeightKind::u4 || (w.group > 0 && w.group % kQuantGroup == 0 && w.cols % w.group == 0);
    if (w.rows % kPanel || w.cols % kQuantGroup || !groups)
        throw nb::value_error("rows and columns of packed weights go by 32, and a group of columns has whole 32s of them");
    if (x.cols != w.cols)
        throw nb::value_error(("activations of " + std::to_string(x.cols) + " columns cannot be multiplied by weights of " +
                               std::to_string(w.cols)).c_str());
}

// w: of all experts one after the other, `rows` each.
void check_experts(const Routes& routes, const Matrix& w, int64_t rows) {
    if (w.rows != routes.experts * rows)
        throw nb::value_error(("a matrix of " + std::to_string(w.rows) + " rows is not that of " +
                               std::to_string(routes.experts) + " experts with " + std::to_string(rows) + " each").c_str());
}

KVKind kv_kind(const std::string& kind) {
    if (kind == "f32") return KVKind::f32;
    if (kind == "bf16") return KVKind::bf16;
    if (kind == "s8") return KVKind::s8;
    throw nb::value_error(("no kernel keeps keys and values as '" + kind + "'").c_str());
}

using Words = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void bind_program(nb::module_& m) {
    nb::class_<Matrix>(m, "Matrix");
    nb::class_<Rows>(m, "Rows");
    nb::class_<KVCache>(m, "KVCache");
    nb::class_<Routes>(m, "Routes")
        .def("__init__", [](Routes* self, int32_t experts, int32_t per_token, bool renormalise, int64_t max_tokens) {
            if (per_token < 1 || per_token > experts) throw nb::value_error("a token goes to 1 … all of the experts");
            new (self) Routes(experts, per_token, renormalise, max_tokens);
        }, nb::kw_only(), "experts"_a, "per_token"_a, "renormalise"_a, "max_tokens"_a);
    m.def("matrix", make_matrix, "kind"_a, "rows"_a, "cols"_a, "data"_a, "group"_a = 0, "scale"_a = 0, "zero"_a = 0);
    m.def("rows", make_rows, "kind"_a, "cols"_a, "data"_a, "scale"_a = 0, "sums"_a = 0);
    m.def("kv_block_bytes", [](const std::string& kind, int block_size, int kv_heads, int head_dim) {
        return round_up(block_bytes(kv_kind(kind), block_size, kv_heads, head_dim), 64);
    }, "kind"_a, "block_size"_a, "kv_heads"_a, "head_dim"_a, "Of one block of one layer.");
    m.def("kv_cache", [](const std::string& kind, uintptr_t base, int64_t stride, int block_size, int kv_heads, int head_dim) {
        if (head_dim > kMaxHeadDim) throw nb::value_error("heads may have at most 256 dimensions");
        return KVCache{kv_kind(kind), (uint8_t*)base, stride, block_size, kv_heads, head_dim};
    }, "kind"_a, "base"_a, "block_stride"_a, "block_size"_a, "kv_heads"_a, "head_dim"_a);

    nb::class_<Program>(m, "Program")
        .def("__init__", [](Program* self, std::shared_ptr<Pool> pool, const std::string& set, int32_t max_tokens,
                            int32_t rows, int32_t columns, int32_t num_blocks, int32_t block_size, int32_t vocab_size,
                            int32_t variants, std::shared_ptr<Team> team) {
            new (self) Program(std::move(pool), named(set),
                               {max_tokens, rows, columns, num_blocks, block_size, vocab_size, variants}, std::move(team));
        }, "pool"_a, "instruction_set"_a, nb::kw_only(), "max_tokens"_a, "rows"_a, "columns"_a, "num_blocks"_a,
           "block_size"_a, "vocab_size"_a, "variants"_a = 1, "team"_a.none() = nb::none())
        .def("buffer", [](Program& p, size_t bytes, bool huge) { return (uintptr_t)p.buffer(bytes, huge); }, "bytes"_a,
             "huge"_a = false)
        .def("embedding", [](Program& p, const Matrix& table, bool by_row, int64_t first, int64_t count, int64_t size,
                             uintptr_t out, int64_t cols, float scale, const Matrix* positions) {
            p.embedding({table, by_row, first, count, size, (float*)out, cols, scale, positions ? *positions : Matrix{}});
        }, nb::kw_only(), "table"_a, "by_row"_a, "first"_a, "count"_a, "size"_a, "out"_a, "cols"_a, "scale"_a = 1.0f,
           "positions"_a.none() = nb::none())
        .def("angles", [](Program& p, uintptr_t inverse, int64_t pairs, uintptr_t cos, uintptr_t sin, float factor,
                          int64_t logn_from, uintptr_t growth) {
            p.angles({(const float*)inverse, pairs, factor, logn_from, (float*)cos, (float*)sin, (float*)growth});
        }, nb::kw_only(), "inverse"_a, "pairs"_a, "cos"_a, "sin"_a, "factor"_a = 1.0f, "logn_from"_a = 0, "growth"_a = 0)
        .def("norm", [](Program& p, const std::vector<uintptr_t>& deltas, uintptr_t residual, uintptr_t total,
                        uintptr_t weight, int64_t size, float eps, const std::vector<Rows>& out, bool gather, bool fresh,
                        uintptr_t bias, uintptr_t post, float post_eps) {
            NormArgs a{};
            if (deltas.size() > kMaxRanks || out.empty() || out.size() > 2)
                throw nb::value_error("a norm adds at most 64 terms and has 1 or 2 outputs");
            for (size_t i = 0; i < deltas.size(); i++) a.deltas[i] = (const float*)deltas[i];
            a.num_deltas = (int)deltas.size(), a.residual = (const float*)residual, a.total = (float*)total;
            a.weight = (const float*)weight;
            a.size = size, a.eps = eps, a.gather = gather, a.fresh = fresh, a.num_outputs = (int)out.size();
            a.bias = (const float*)bias, a.post = (const float*)post, a.post_eps = post_eps;
            for (size_t i = 0; i < out.size(); i++) a.x[i] = out[i];
            p.norm(a);
        }, nb::kw_only(), "deltas"_a, "residual"_a, "total"_a, "weight"_a, "size"_a, "eps"_a, "out"_a, "gather"_a = false, "fresh"_a = false,
           "bias"_a = 0, "post"_a = 0, "post_eps"_a = 0.0f)
        .def("convert", [](Program& p, uintptr_t in, int64_t stride, int64_t size, const Rows& out, const std::string& act) {
            p.convert({(const float*)in, stride, size, out, activation(act)});
        }, nb::kw_only(), "source"_a, "stride"_a, "size"_a, "out"_a, "activation"_a = "none")
        .def("gemm", [](Program& p, const Rows& x, const Matrix& w, uintptr_t bias, uintptr_t y, int64_t stride, bool of_logits) {
            check_operands(x, w);
            p.gemm({x, w, (const float*)bias, (float*)y, stride}, of_logits);
        }, nb::kw_only(), "x"_a, "w"_a, "bias"_a, "y"_a, "stride"_a, "of_logits"_a = false)
        .def("gated", [](Program& p, const Rows& x, const Matrix& w, uintptr_t bias, const Rows& y, const std::string& act) {
            check_operands(x, w);
            p.gated({x, w, (const float*)bias, y, activation(act)});
        }, nb::kw_only(), "x"_a, "w"_a, "bias"_a, "y"_a, "activation"_a = "silu")
        .def("softcap", [](Program& p, uintptr_t y, int64_t stride, int64_t cols, float cap) {
            p.softcap({(float*)y, stride, cols, cap});
        }, nb::kw_only(), "y"_a, "stride"_a, "cols"_a, "cap"_a)
        .def("choose", [](Program& p, std::shared_ptr<Routes> routes, uintptr_t outputs, int64_t stride, bool with_shared) {
            p.choose(std::move(routes), (const float*)outputs, stride, with_shared);
        }, nb::kw_only(), "routes"_a, "outputs"_a, "stride"_a, "with_shared"_a)
        .def("gather", [](Program& p, Routes& routes, const Rows& x, const Rows& out) {
            if (x.kind != out.kind || x.cols != out.cols) throw nb::value_error("rows are gathered in the form that they have");
            p.gather({&routes, x, out});
        }, nb::kw_only(), "routes"_a, "x"_a, "out"_a)
        .def("experts_gated", [](Program& p, Routes& routes, const Rows& x, const Matrix& w, const Rows& y,
                                 const std::string& act) {
            check_operands(x, w);
            check_experts(routes, w, 2 * y.cols);
            p.experts_gated({&routes, x, w}, y, activation(act));
        }, nb::kw_only(), "routes"_a, "x"_a, "w"_a, "y"_a, "activation"_a)
        .def("experts_down", [](Program& p, Routes& routes, const Rows& x, const Matrix& w, uintptr_t y, int64_t stride) {
            check_operands(x, w);
            check_experts(routes, w, stride);
            p.experts_down({&routes, x, w}, (float*)y, stride);
        }, nb::kw_only(), "routes"_a, "x"_a, "w"_a, "y"_a, "stride"_a)
        .def("combine", [](Program& p, const Routes& routes, uintptr_t given, uintptr_t shared, uintptr_t out, int64_t cols) {
            p.combine({&routes, (const float*)given, (const float*)shared, (float*)out, cols});
        }, nb::kw_only(), "routes"_a, "given"_a, "shared"_a, "out"_a, "cols"_a)
        .def("rope", [](Program& p, const KVCache& cache, int heads, uintptr_t qkv, int64_t stride, uintptr_t q_norm,
                        uintptr_t k_norm, float eps, uintptr_t cos, uintptr_t sin, uintptr_t q, uintptr_t growth) {
            p.rope({nullptr, cache, heads, (const float*)qkv, stride, (const float*)q_norm, (const float*)k_norm, eps,
                    (const float*)cos, (const float*)sin, (const float*)growth, (float*)q});
        }, nb::kw_only(), "cache"_a, "heads"_a, "qkv"_a, "stride"_a, "q_norm"_a, "k_norm"_a, "eps"_a, "cos"_a, "sin"_a, "q"_a,
           "growth"_a = 0)
        .def("attention", [](Program& p, const KVCache& cache, int heads, int window, uintptr_t q, uintptr_t out,
                             float scale, float softcap) {
            p.attention({nullptr, nullptr, cache, (const float*)q, (float*)out, nullptr, scale, softcap}, heads, window);
        }, nb::kw_only(), "cache"_a, "heads"_a, "window"_a, "q"_a, "out"_a, "scale"_a, "softcap"_a)
        .def("meet_ranks", &Program::meet_ranks)
        .def("pause", &Program::pause)
        .def("begin", [](Program& p, const Words& words) { p.begin(words.data(), words.size()); },
             "Takes a step's plan, encoded; ValueError where it is not one for this program.")
        .def("run", &Program::run, nb::call_guard<nb::gil_scoped_release>(),
             "Computes until a pause (True) or the end (False).")
        .def("start", &Program::start, "As run, but returns at once.")
        .def("finish", &Program::finish, nb::call_guard<nb::gil_scoped_release>(), "Waits for what start began; as run.")
        .def_prop_ro("ended", &Program::ended)
        .def_prop_ro("num_tokens", &Program::num_tokens)
        .def_prop_ro("paused_rows", &Program::paused_rows)
        .def_prop_ro("num_logits", &Program::num_logits)
        .def_prop_ro("num_hidden", &Program::num_hidden)
        .def("profile", &Program::profile)
        .def_prop_ro("seconds", &Program::seconds);
}

}  // namespace

NB_MODULE(kernels, m) {
    nb::class_<Pool>(m, "Pool")
        .def("__init__", [](Pool* self, const std::vector<int>& cpus, int threads) {
            if (threads < 1) throw nb::value_error("a pool needs at least one thread");
            new (self) Pool(cpus, threads);
        }, "cpus"_a, "threads"_a)
        .def_prop_ro("size", &Pool::size);
    m.def("instruction_sets", instruction_sets, "Those that this processor can run, best first.");
    m.def("read_bandwidth", [](Pool& pool, const std::string& set, uintptr_t data, int64_t bytes, int rounds) {
        const Kernels& k = named(set);
        const int64_t share = bytes / pool.size() / 4096 * 4096;
        nb::gil_scoped_release released;
        return rate(pool, rounds, [&](int thread) { return k.read((const uint8_t*)data + thread * share, share); });
    }, "pool"_a, "instruction_set"_a, "data"_a, "bytes"_a, "rounds"_a = 5, "Bytes per second.");
    m.def("peak", [](Pool& pool, const std::string& set, const std::string& kind, int64_t steps, int rounds) {
        const Kernels& k = named(set);
        const auto f = kind == "s8" ? k.peak_s8 : kind == "u4" ? k.peak_u4 : kind == "bf16" ? k.peak_bf16 : k.peak_f32;
        nb::gil_scoped_release released;
        return rate(pool, rounds, [&](int) { return f(steps); });
    }, "pool"_a, "instruction_set"_a, "kind"_a, "steps"_a = 5000000, "rounds"_a = 5, "Operations per second, two to a multiply-add.");
    bind_program(m);
    bind_packing(m);
    bind_team(m);
    bind_sampling(m);
}

}  // namespace llmserve
