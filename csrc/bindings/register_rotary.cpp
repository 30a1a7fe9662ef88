#include "../core/rotary.hpp"
#include "bindings.hpp"

namespace kltui {
namespace {

int64_t step_of(const py::array& a, int axis) {
    require(a.strides(axis) % a.itemsize() == 0, "arrays must be aligned");
    return a.strides(axis) / a.itemsize();
}

void rotate_heads(py::array& x, const py::array& cosine, const py::array& sine, int threads) {
    for (const py::array& a : {x, cosine, sine})
        require(a.dtype().is(py::dtype::of<float>()) && a.strides(a.ndim() - 1) == 4,
                "arrays must be float32, their rows contiguous");
    require(x.ndim() == 4 && cosine.ndim() == 3 && sine.ndim() == 3, "wrong number of axes");
    const int64_t batch = x.shape(0), length = x.shape(2), columns = cosine.shape(2);
    for (const py::array& a : {cosine, sine})
        require((a.shape(0) == 1 || a.shape(0) == batch) && a.shape(1) == length && a.shape(2) == columns &&
                    a.shape(0) == cosine.shape(0) && step_of(a, 0) == step_of(cosine, 0) &&
                    step_of(a, 1) == step_of(cosine, 1),
                "cosine and sine must have a row for every position");
    require(columns % 2 == 0 && columns <= x.shape(3), "cosine must have an even number of columns");
    const RotaryRows rows{static_cast<float*>(x.mutable_data()),
                          batch,
                          x.shape(1),
                          length,
                          step_of(x, 0),
                          step_of(x, 1),
                          step_of(x, 2)};
    const RotaryAngles angles{static_cast<const float*>(cosine.data()),
                              static_cast<const float*>(sine.data()), columns / 2,
                              cosine.shape(0) == 1 ? 0 : step_of(cosine, 0), step_of(cosine, 1)};
    py::gil_scoped_release release;
    rotate(rows, angles, threads);
}

}  // namespace

void register_rotary(py::module_& m) {
    m.def("rotate", &rotate_heads, py::arg("x").noconvert(), py::arg("cosine").noconvert(),
          py::arg("sine").noconvert(), py::arg("threads"));
}

}  // namespace kltui
