// What the bindings share. Arguments are checked in kltui/kernels/native.py and nowhere else; here only what
// memory safety needs.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>

#include "../core/kernels.hpp"

namespace kltui {

namespace py = pybind11;

template <class T>
using Array = py::array_t<T, py::array::c_style>;

void register_attention(py::module_& m);
void register_centre(py::module_& m);
void register_distance(py::module_& m);
void register_head(py::module_& m);
void register_info(py::module_& m);
void register_kl(py::module_& m);
void register_raster(py::module_& m);
void register_rotary(py::module_& m);
void register_softmax(py::module_& m);

// Every entry of [0, limit): the kernels index by them.
inline void require_indices(const int64_t* index, int64_t count, int64_t limit, const char* message) {
    for (int64_t i = 0; i < count; ++i)
        if (index[i] < 0 || index[i] >= limit) throw std::invalid_argument(message);
}

inline void require(bool holds, const char* message) {
    if (!holds) throw std::invalid_argument(message);
}

// A two-dimensional array of float32, float16 or uint16 (bf16) with contiguous rows, without copying.
inline Rows rows_of(const py::array& a, const char* name) {
    require(a.ndim() == 2, (std::string(name) + " must be two-dimensional").c_str());
    const auto item = static_cast<int64_t>(a.itemsize());
    require(a.shape(1) <= 1 || a.strides(1) == item,
            (std::string(name) + " must have contiguous rows").c_str());
    require(a.strides(0) % item == 0, (std::string(name) + " rows must be aligned").c_str());
    const char kind = a.dtype().kind();
    Float dtype;
    if (kind == 'f' && item == 4)
        dtype = Float::f32;
    else if (kind == 'f' && item == 2)
        dtype = Float::f16;
    else if (kind == 'u' && item == 2)
        dtype = Float::bf16;
    else
        throw std::invalid_argument(std::string(name) + " must be float32, float16 or uint16 (bfloat16)");
    return {a.data(), dtype, a.shape(0), a.shape(1), a.strides(0) / item};
}

}  // namespace kltui
