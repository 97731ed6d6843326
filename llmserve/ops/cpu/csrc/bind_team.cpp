// Python's view of team.hpp. Addresses are ints, as everything that passes memory to the program takes them.
#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#include "team.hpp"

namespace nb = nanobind;
using namespace nb::literals;
using llmserve::Team;

void bind_team(nb::module_& m) {
    nb::class_<Team>(m, "Team")
        .def_static("create", &Team::create, "size"_a, "bytes_per_rank"_a, "spin_us"_a = Team::kSpinMicroseconds)
        .def_static("attach", &Team::attach, "handle"_a, "rank"_a, "spin_us"_a = Team::kSpinMicroseconds)
        .def_prop_ro("handle", &Team::handle)
        .def_prop_ro("rank", &Team::rank)
        .def_prop_ro("size", &Team::size)
        .def_prop_ro("bytes_per_rank", &Team::bytes_per_rank)
        .def("meet", &Team::meet)
        .def("area", [](const Team& team, int rank) { return (uintptr_t)team.area(rank); }, "rank"_a)
        .def("barrier", &Team::barrier, nb::call_guard<nb::gil_scoped_release>())
        .def("abort", &Team::abort)
        .def("stats", [](const Team& team) {
            const Team::Stats s = team.stats();
            nb::dict d;
            d["barriers"] = s.barriers;
            d["waits"] = s.waits;
            d["sleeps"] = s.sleeps;
            d["seconds"] = s.seconds;
            return d;
        });
}
