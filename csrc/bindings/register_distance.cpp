#include <memory>
#include <vector>

#include "../core/isa.hpp"
#include "bindings.hpp"

namespace kltui {
namespace {

Float float_named(const std::string& name) {
    if (name == "F32") return Float::f32;
    if (name == "F16") return Float::f16;
    if (name == "BF16") return Float::bf16;
    require(name == "F64", "dtypes must be F32, F16, BF16 or F64");
    return Float::f64;
}

int64_t bytes_per_element(Float dtype) {
    return dtype == Float::f64 ? 8 : (dtype == Float::f32 ? 4 : 2);
}

Array<double> banded_sqdist(const py::list& buffers, const py::list& dtypes, int64_t band, int threads) {
    const auto checkpoints = static_cast<int64_t>(buffers.size());
    require(checkpoints > 0 && band > 0 && dtypes.size() == buffers.size(),
            "buffers, dtypes and band must not be empty");
    std::vector<Array<uint8_t>> held;
    std::vector<const void*> data;
    std::vector<Float> dtype;
    int64_t elements = -1;
    for (int64_t k = 0; k < checkpoints; ++k) {
        held.push_back(py::cast<Array<uint8_t>>(buffers[k]));
        dtype.push_back(float_named(py::cast<std::string>(dtypes[k])));
        data.push_back(held.back().data());
        const int64_t here = held.back().size() / bytes_per_element(dtype.back());
        require(held.back().size() == here * bytes_per_element(dtype.back()) &&
                    (elements < 0 || elements == here),
                "buffers must hold the same number of elements");
        elements = here;
    }
    Array<double> out({checkpoints, band});
    double* result = out.mutable_data();
    py::gil_scoped_release release;
    const std::unique_ptr<double[]> workspace(
        new double[sqdist_workspace(elements, checkpoints, band, threads)]);
    active_kernels().banded_sqdist({data.data(), dtype.data(), checkpoints, elements}, band, result,
                                   workspace.get(), threads);
    return out;
}

}  // namespace

void register_distance(py::module_& m) {
    m.def("banded_sqdist", &banded_sqdist, py::arg("buffers"), py::arg("dtypes"), py::arg("band"),
          py::arg("threads"));
}

}  // namespace kltui
