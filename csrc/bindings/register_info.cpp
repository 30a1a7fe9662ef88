#include <omp.h>
#include <pybind11/stl.h>

#include "../core/isa.hpp"
#include "bindings.hpp"

namespace kltui {

void register_info(py::module_& m) {
    m.def("isa", [] { return std::string(active_kernels().name); });
    m.def("supported_isas", &supported_isas);
    m.def("has_bf16_products", &cpu_has_bf16_products);
    m.def("max_threads", [] { return omp_get_max_threads(); });
}

}  // namespace kltui
