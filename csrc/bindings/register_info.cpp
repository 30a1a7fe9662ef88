#include <omp.h>
#include <pybind11/stl.h>

#include "../core/isa.hpp"
#include "bindings.hpp"

namespace kltui {
namespace {

// The exclusive or of an array's 64-bit words: the least that reading it once can cost, for benchmarks.
uint64_t read_once(const py::array& a, int threads) {
    require((a.flags() & py::array::c_style) != 0 && a.nbytes() % 8 == 0 &&
                reinterpret_cast<uintptr_t>(a.data()) % alignof(uint64_t) == 0,
            "array must be contiguous, of whole aligned words");
    const auto* word = static_cast<const uint64_t*>(a.data());
    const auto count = static_cast<int64_t>(a.nbytes() / 8);
    uint64_t all = 0;
    py::gil_scoped_release release;
    constexpr int64_t kStep = 16, kAhead = 2048;  // words a step: two lines; bytes asked for beforehand
    const int64_t steps = count / kStep;
#pragma omp parallel for num_threads(threads) schedule(static) reduction(^ : all)
    for (int64_t s = 0; s < steps; ++s) {
        const uint64_t* here = word + s * kStep;
        for (int64_t line = 0; line < kStep; line += 8)
            __builtin_prefetch(reinterpret_cast<const char*>(here + line) + kAhead, 0, 0);
        for (int64_t i = 0; i < kStep; ++i)
            all ^= here[i];
    }
    for (int64_t i = steps * kStep; i < count; ++i)
        all ^= word[i];
    return all;
}

}  // namespace

void register_info(py::module_& m) {
    m.def("isa", [] { return std::string(active_kernels().name); });
    m.def("supported_isas", &supported_isas);
    m.def("has_bf16_products", &cpu_has_bf16_products);
    m.def("read_once", &read_once, py::arg("array"), py::arg("threads"));
    m.def("max_threads", [] { return omp_get_max_threads(); });
}

}  // namespace kltui
