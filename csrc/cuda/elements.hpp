// Entries of a matrix in any of the three float types, and how many blocks its rows are given to.
#pragma once

#include <type_traits>

#include "device.hpp"
#include "kernels.hpp"

namespace kltui::cuda {

__device__ inline float widened(float x) {
    return x;
}
__device__ inline float widened(__half x) {
    return __half2float(x);
}
__device__ inline float widened(__nv_bfloat16 x) {
    return __bfloat162float(x);
}

template <class Pointer>
using Element = std::remove_const_t<std::remove_pointer_t<Pointer>>;

// `act` on the entries' address, which has their type.
template <class Act>
int with_elements(const Rows& rows, const Act& act) {
    if (rows.dtype == Float::f32) return act(static_cast<const float*>(rows.data));
    if (rows.dtype == Float::f16) return act(static_cast<const __half*>(rows.data));
    return act(static_cast<const __nv_bfloat16*>(rows.data));
}

// A block per row, and each block goes on to further rows where there are more.
inline unsigned blocks_for(int64_t rows) {
    return static_cast<unsigned>(rows < 65535 ? rows : 65535);
}

}  // namespace kltui::cuda
