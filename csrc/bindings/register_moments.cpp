#include <memory>

#include "../core/isa.hpp"
#include "bindings.hpp"

namespace kltui {
namespace {

py::tuple difference_moments(const Array<double>& x, int threads) {
    require(x.ndim() == 2, "x must be two-dimensional");
    const int64_t rows = x.shape(0), columns = x.shape(1);
    Array<double> count({rows, rows}), second({rows, rows}), fourth({rows, rows});
    double *counts = count.mutable_data(), *seconds = second.mutable_data(), *fourths = fourth.mutable_data();
    {
        py::gil_scoped_release release;
        const std::unique_ptr<double[]> centred(new double[rows * (columns + 1)]);
        active_kernels().difference_moments(x.data(), rows, columns, centred.get(), counts, seconds, fourths,
                                            threads);
    }
    return py::make_tuple(count, second, fourth);
}

}  // namespace

void register_moments(py::module_& m) {
    m.def("difference_moments", &difference_moments, py::arg("x").noconvert(), py::arg("threads"));
}

}  // namespace kltui
