// Python's view of packing.hpp. Addresses are ints, as everywhere.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "packing.hpp"

namespace nb = nanobind;
using namespace nb::literals;
using namespace llmserve;

namespace {

SourceKind source_kind(const std::string& name) {
    if (name == "f32") return SourceKind::f32;
    if (name == "bf16") return SourceKind::bf16;
    if (name == "f16") return SourceKind::f16;
    throw nb::value_error(("rows of kind '" + name + "' cannot be packed").c_str());
}

}  // namespace

void bind_packing(nb::module_& m) {
    m.def("largest_magnitude", [](const std::string& source, uintptr_t data, int64_t count, int threads) {
        const SourceKind kind = source_kind(source);
        nb::gil_scoped_release release;
        return largest_magnitude(kind, (const void*)data, count, threads);
    }, nb::kw_only(), "source"_a, "data"_a, "count"_a, "threads"_a);
    m.def("pack_rows", [](const std::string& source, uintptr_t data, int64_t rows, int64_t cols, int64_t group, int64_t first,
                          int64_t last, std::vector<float> clips, uintptr_t weight, uintptr_t scale, int threads) {
        const SourceKind kind = source_kind(source);
        const bool groups = group >= 0 && group % 32 == 0 && (!group || (cols + 31) / 32 * 32 % group == 0);
        if (!groups || first < 0 || last > cols || first >= last || (group && (first || last != cols)))
            throw nb::value_error("columns and groups of rows to be packed do not go together");
        const PackJob job{kind, (const void*)data, rows, cols, group, first, last, std::move(clips), (uint8_t*)weight,
                          (void*)scale};
        nb::gil_scoped_release release;
        pack_rows(job, threads);
    }, nb::kw_only(), "source"_a, "data"_a, "rows"_a, "cols"_a, "group"_a, "first"_a, "last"_a, "clips"_a, "weight"_a,
       "scale"_a, "threads"_a);
}
