#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <optional>

#include "../core/isa.hpp"
#include "bindings.hpp"

namespace kltui {
namespace {

void double_centre(const Array<double>& x, const std::optional<Array<double>>& weights, double floor,
                   Array<double>& out, int threads) {
    require(x.ndim() == 2 && out.ndim() == 2, "x and out must be two-dimensional");
    const int64_t rows = x.shape(0), columns = x.shape(1);
    require(out.shape(0) == rows && out.shape(1) == columns, "out must have the shape of x");
    require(!weights || (weights->ndim() == 1 && weights->shape(0) == columns),
            "weights must have one entry per text");
    const double* data = x.data();
    const double* weight = weights ? weights->data() : nullptr;
    double* result = out.mutable_data();
    py::gil_scoped_release release;
    const std::unique_ptr<double[]> workspace(new double[double_centre_workspace(rows, columns)]);
    active_kernels().double_centre(data, rows, columns, weight, floor, result, workspace.get(), threads);
}

py::tuple split(const Array<double>& x, double bottom, double top, int threads) {
    const double* data = x.data();
    const auto count = static_cast<int64_t>(x.size());
    const std::unique_ptr<double[]> inside(new double[static_cast<size_t>(count)]);
    Split found;
    {
        const py::gil_scoped_release release;
        found = active_kernels().split_values(data, count, bottom, top, inside.get(), threads);
    }
    Array<double> kept(static_cast<py::ssize_t>(found.inside));
    std::copy(inside.get(), inside.get() + found.inside, kept.mutable_data());
    return py::make_tuple(found.below, kept);
}

}  // namespace

void register_centre(py::module_& m) {
    m.def("double_centre", &double_centre, py::arg("x").noconvert(), py::arg("weights").noconvert(),
          py::arg("floor"), py::arg("out").noconvert(), py::arg("threads"));
    m.def("split_values", &split, py::arg("x").noconvert(), py::arg("bottom"), py::arg("top"),
          py::arg("threads"));
}

}  // namespace kltui
