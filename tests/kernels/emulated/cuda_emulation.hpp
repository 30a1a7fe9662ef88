// CUDA's words as plain C++20, so that the kernels run where there is no GPU: the threads of a block are
// fibres, and barriers and shuffles give way to the next fibre. For tests only.
//
// What a GPU leaves undefined is an error here: a barrier that part of a block never reaches, a shuffle among
// threads of which some have returned. The order in which fibres run can be shuffled (KLTUI_EMULATED_ORDER, a
// seed): where a barrier is missing, results then depend on it. KLTUI_EMULATED_WITHOUT=FILE:LINE leaves the
// block's barrier there out.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <source_location>

#define __device__
#define __global__
#define __shared__ static
#define __launch_bounds__(threads)

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};

using std::min;

// 16-bit floats: only ever widened.
struct __half {
    uint16_t bits;
};
struct __nv_bfloat16 {
    uint16_t bits;
};

inline float __bfloat162float(__nv_bfloat16 x) {
    return std::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16);
}

inline float __half2float(__half x) {
    const uint32_t sign = (x.bits & 0x8000u) << 16, exponent = (x.bits >> 10) & 31u,
                   fraction = x.bits & 1023u;
    if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | fraction << 13);
    if (exponent == 0) {
        const float small = std::ldexp(static_cast<float>(fraction), -24);
        return sign ? -small : small;
    }
    return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
}

inline float __expf(float x) {
    return std::exp(x);
}

template <class T>
T __ldcs(const T* at) {
    return *at;
}

namespace kltui::emulated {

// Set for the fibre that runs.
extern dim3 thread_index, block_index, grid_size;

// Ends this fibre's turn until all threads of its block (or warp) that have not returned are here too.
// `place` is that of the barrier in the kernel's source.
void wait_for_block(const std::source_location& place);
void wait_for_warp();

// This warp's exchange of eight bytes: puts `mine` where the other lanes see it, gives what `lane` has put
// there.
uint64_t exchange(uint64_t mine, unsigned lane);

// Runs the kernel, block by block; 0, or the number of an error that `cudaGetErrorString` describes.
int run(const std::function<void()>& kernel, dim3 grid, unsigned threads);

}  // namespace kltui::emulated

#define threadIdx ::kltui::emulated::thread_index
#define blockIdx ::kltui::emulated::block_index
#define gridDim ::kltui::emulated::grid_size

inline void __syncthreads(const std::source_location& place = std::source_location::current()) {
    kltui::emulated::wait_for_block(place);
}

template <class T>
T __shfl_down_sync(unsigned, T value, unsigned offset) {
    static_assert(sizeof(T) <= 8);
    const unsigned lane = threadIdx.x % 32;
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof(T));
    bits = kltui::emulated::exchange(bits, lane + offset < 32 ? lane + offset : lane);
    std::memcpy(&value, &bits, sizeof(T));
    return value;
}

// The runtime, as far as the sources ask for it: one device that is always there.
using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0;
struct cudaFuncAttributes {};
const char* cudaGetErrorString(cudaError_t error);
inline cudaError_t cudaGetLastError() {
    return cudaSuccess;
}
inline cudaError_t cudaGetDeviceCount(int* count) {
    *count = 1;
    return cudaSuccess;
}
inline cudaError_t cudaGetDevice(int* device) {
    *device = 0;
    return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int) {
    return cudaSuccess;
}
template <class Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, Kernel) {
    return cudaSuccess;
}

namespace kltui::cuda {

template <class... Parameters, class... Arguments>
int launch(void (*kernel)(Parameters...), dim3 grid, int threads, void*, Arguments... arguments) {
    return emulated::run([&] { kernel(arguments...); }, grid, static_cast<unsigned>(threads));
}

}  // namespace kltui::cuda
