// The sampler as Python calls it: one call for all rows of a step, parameters as flat arrays, on the threads of a pool.
//
// Which instruction set computes is the caller's choice by name; one that this processor lacks is an error. Knows
// nothing of requests or seeds, and of torch only the address of its floats.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "row_sampler.hpp"

namespace nb = nanobind;

namespace llmserve {

namespace {

// Best first.
std::vector<const SamplingTable*> runnable_tables() {
    std::vector<const SamplingTable*> tables;
#if defined(__x86_64__)
    // Every instruction an object may hold, that is, every -m flag it was compiled with.
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                        __builtin_cpu_supports("avx512vnni");
#if defined(LLMSERVE_AVX512_BF16)
    if (avx512 && __builtin_cpu_supports("avx512bf16")) tables.push_back(&sampling_avx512_bf16);
#endif
    if (avx512) tables.push_back(&sampling_avx512);
    if (avx2) tables.push_back(&sampling_avx2);
#endif
    tables.push_back(&sampling_portable);
    return tables;
}

std::vector<std::string> sampling_sets() {
    std::vector<std::string> names;
    for (const SamplingTable* table : runnable_tables()) names.push_back(table->name);
    return names;
}

const SamplingTable& table_named(const std::string& name) {
    std::string known;
    for (const SamplingTable* table : runnable_tables()) {
        if (name == table->name) return *table;
        known += (known.empty() ? "" : ", ") + std::string(table->name);
    }
    throw nb::value_error(("no sampler for the instruction set '" + name + "' here; there are: " + known).c_str());
}

template <class T> using Flat = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// One row's edits as they come from Python, which has to keep them as they are during the call.
struct GivenEdits {
    size_t row;
    std::optional<nb::bytes> allowed;  // whole words of 32 bits
    Flat<int32_t> banned, biased;
    Flat<float> biases;
    Flat<int32_t> seen, counts;
    double repetition, frequency, presence;

    explicit GivenEdits(nb::handle given) {
        std::tie(row, allowed, banned, biased, biases, seen, counts, repetition, frequency, presence) =
            nb::cast<std::tuple<size_t, std::optional<nb::bytes>, Flat<int32_t>, Flat<int32_t>, Flat<float>,
                                Flat<int32_t>, Flat<int32_t>, double, double, double>>(given);
    }

    RowEdits edits(int32_t vocab) const {
        if (allowed && allowed->size() < ((size_t)vocab + 31) / 32 * 4)
            throw nb::value_error("allowed needs a bit for every token");
        if (biased.size() != biases.size() || seen.size() != counts.size())
            throw nb::value_error("every biased token needs a bias, and every token seen a count");
        if (!(repetition > 0)) throw nb::value_error("a sampling parameter is out of range");
        return {allowed ? (const uint32_t*)allowed->data() : nullptr, banned.data(), biased.data(), biases.data(),
                seen.data(), counts.data(), (int32_t)banned.size(), (int32_t)biased.size(), (int32_t)seen.size(),
                (float)repetition, (float)frequency, (float)presence};
    }
};

// The logits are row_stride floats apart, at an address that stays good during the call. num_top: -1 for no log
// probabilities. edits: those of the rows that have any, see GivenEdits. given: a token that is not to be chosen, or -1.
// For each row a token below 0 (see sampling_table.hpp), or (token, None), or (token, (log probability, ((id, log
// probability), …), rank)).
nb::list sample(RowSampler& sampler, uintptr_t logits, size_t rows, size_t row_stride, int32_t vocab,
                const Flat<double>& temperature, const Flat<int32_t>& top_k, const Flat<double>& top_p,
                const Flat<double>& min_p, const Flat<double>& u, const Flat<int32_t>& num_top, const nb::list& edits,
                const Flat<int32_t>& given) {
    if (vocab < 1) throw nb::value_error("vocab must be at least 1");
    for (size_t n : {temperature.size(), top_k.size(), top_p.size(), min_p.size(), u.size(), num_top.size(),
                     given.size()})
        if (n != rows) throw nb::value_error("every parameter needs one value a row");
    std::vector<SampleArgs> args(rows);
    std::vector<SampleResult> results(rows);
    std::vector<size_t> first_top(rows);
    size_t tops = 0;
    for (size_t i = 0; i < rows; i++) {
        const int32_t wanted = num_top.data()[i];
        if (!(temperature.data()[i] >= 0) || top_k.data()[i] < 0 ||
            !(top_p.data()[i] > 0 && top_p.data()[i] <= 1) || !(min_p.data()[i] >= 0 && min_p.data()[i] <= 1) ||
            !(u.data()[i] >= 0 && u.data()[i] < 1) || wanted < -1 || given.data()[i] < -1 || given.data()[i] >= vocab)
            throw nb::value_error("a sampling parameter is out of range");
        args[i] = {(const float*)logits + i * row_stride, vocab, temperature.data()[i], top_k.data()[i],
                   top_p.data()[i], min_p.data()[i], u.data()[i], nullptr, given.data()[i], wanted, nullptr, nullptr};
        first_top[i] = tops;
        if (wanted > 0) tops += (size_t)(wanted < vocab ? wanted : vocab);
    }
    std::vector<GivenEdits> given_edits;
    std::vector<RowEdits> row_edits;
    given_edits.reserve(edits.size()), row_edits.reserve(edits.size());
    for (nb::handle each : edits) {
        const GivenEdits& kept = given_edits.emplace_back(each);
        if (kept.row >= rows) throw nb::value_error("edits are for rows that are there");
        row_edits.push_back(kept.edits(vocab));
        args[kept.row].edits = &row_edits.back();
    }
    std::vector<int32_t> top_ids(tops);
    std::vector<float> top_logprobs(tops);
    for (size_t i = 0; i < rows; i++)
        args[i].top_ids = top_ids.data() + first_top[i], args[i].top_logprobs = top_logprobs.data() + first_top[i];
    {
        nb::gil_scoped_release released;
        sampler.sample(args.data(), results.data(), rows, vocab);
    }
    nb::list out;
    for (size_t i = 0; i < rows; i++) {
        const SampleResult& r = results[i];
        if (r.token < 0) {
            out.append(r.token);
        } else if (args[i].num_top < 0) {
            out.append(nb::make_tuple(r.token, nb::none()));
        } else {
            nb::list top;
            for (int32_t k = 0; k < r.num_top; k++)
                top.append(nb::make_tuple(args[i].top_ids[k], args[i].top_logprobs[k]));
            out.append(nb::make_tuple(r.token, nb::make_tuple(r.logprob, nb::tuple(top), r.rank)));
        }
    }
    return out;
}

}  // namespace

void bind_sampling(nb::module_& m) {
    m.def("sampling_sets", sampling_sets, "Instruction sets that this processor can run a sampler of, best first.");
    nb::class_<RowSampler>(m, "RowSampler")
        .def("__init__", [](RowSampler* self, const std::string& set, std::shared_ptr<Pool> pool) {
            new (self) RowSampler(table_named(set), std::move(pool));
        }, nb::arg("set"), nb::arg("pool").none())
        .def("sample", sample, nb::arg("logits"), nb::arg("rows"), nb::arg("row_stride"), nb::arg("vocab"),
             nb::arg("temperature"), nb::arg("top_k"), nb::arg("top_p"), nb::arg("min_p"), nb::arg("u"),
             nb::arg("num_top"), nb::arg("edits"), nb::arg("given"));
    m.attr("NOT_NUMBERS") = kNotNumbers;
    m.attr("NO_TOKEN") = kNoToken;
}

}  // namespace llmserve
