// Sums over a warp and over a block in a fixed order: the same bits every time.
#pragma once

#include "device.hpp"

namespace kltui::cuda {

__device__ inline double sum_of_warp(double value) {
    for (int offset = 16; offset > 0; offset /= 2)
        value += __shfl_down_sync(~0u, value, offset);
    return value;
}

// The sum over a block of kThreads; every thread gets it. `partial` is the caller's, in shared memory.
template <int kThreads>
__device__ double sum_of_block(double value, double (&partial)[kThreads / 32]) {
    value = sum_of_warp(value);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
    __syncthreads();
    double sum = 0.0;
    for (int w = 0; w < kThreads / 32; ++w)
        sum += partial[w];
    __syncthreads();
    return sum;
}

}  // namespace kltui::cuda
