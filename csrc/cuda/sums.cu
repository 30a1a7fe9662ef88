// Per-text sums and double centring on the GPU, in fp64 and in a fixed order: no atomics, the same bits every
// time.
#include "kernels.hpp"

namespace kltui::cuda {
namespace {

constexpr int kThreads = 256;

__device__ double sum_of_warp(double value) {
    for (int offset = 16; offset > 0; offset /= 2)
        value += __shfl_down_sync(~0u, value, offset);
    return value;
}

// Where `value` would stand in an ascending array: the first entry not below it.
__device__ int64_t lower_bound(const int64_t* sorted, int64_t count, int64_t value) {
    int64_t low = 0, high = count;
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        if (sorted[middle] < value)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

__global__ void text_kernel(const float* logp, const int64_t* text_index, int64_t count, int64_t texts,
                            double* sums) {
    const int64_t text = (blockIdx.x * int64_t{kThreads} + threadIdx.x) / 32;
    if (text >= texts) return;
    const int64_t end = lower_bound(text_index, count, text + 1);
    double sum = 0.0;
    for (int64_t i = lower_bound(text_index, count, text) + threadIdx.x % 32; i < end; i += 32)
        sum += static_cast<double>(logp[i]);
    sum = sum_of_warp(sum);
    if (threadIdx.x % 32 == 0) sums[text] = sum;
}

__global__ void row_mean_kernel(const double* x, int64_t columns, double* mean) {
    __shared__ double partial[kThreads / 32];
    const double* row = x + blockIdx.x * columns;
    double sum = 0.0;
    for (int64_t j = threadIdx.x; j < columns; j += kThreads)
        sum += row[j];
    sum = sum_of_warp(sum);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x != 0) return;
    for (int w = 1; w < kThreads / 32; ++w)
        sum += partial[w];
    mean[blockIdx.x] = sum / static_cast<double>(columns);
}

// Column means less the grand mean need the row means first; here only the plain column means.
__global__ void column_mean_kernel(const double* x, int64_t rows, int64_t columns, double* mean) {
    const int64_t j = blockIdx.x * int64_t{kThreads} + threadIdx.x;
    if (j >= columns) return;
    double sum = 0.0;
    for (int64_t i = 0; i < rows; ++i)
        sum += x[i * columns + j];
    mean[j] = sum / static_cast<double>(rows);
}

// Takes the grand mean, the mean of the row means, off the row means: one block.
__global__ void shift_kernel(double* row_mean, int64_t rows) {
    __shared__ double partial[kThreads / 32];
    double sum = 0.0;
    for (int64_t i = threadIdx.x; i < rows; i += kThreads)
        sum += row_mean[i];
    sum = sum_of_warp(sum);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
    __syncthreads();
    double total = 0.0;
    for (int w = 0; w < kThreads / 32; ++w)
        total += partial[w];
    const double grand = total / static_cast<double>(rows);
    for (int64_t i = threadIdx.x; i < rows; i += kThreads)
        row_mean[i] -= grand;
}

__global__ void subtract_kernel(const double* x, int64_t rows, int64_t columns, const double* row_shift,
                                const double* column_mean, double* out) {
    const int64_t j = blockIdx.x * int64_t{kThreads} + threadIdx.x;
    if (j >= columns) return;
    for (int64_t i = blockIdx.y; i < rows; i += gridDim.y)
        out[i * columns + j] = (x[i * columns + j] - column_mean[j]) - row_shift[i];
}

}  // namespace

int sum_by_text(const float* logp, const int64_t* text_index, int64_t count, int64_t texts, double* sums,
                void* stream) {
    const auto blocks = static_cast<unsigned>((texts * 32 + kThreads - 1) / kThreads);
    text_kernel<<<blocks, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(logp, text_index, count, texts,
                                                                            sums);
    return static_cast<int>(cudaGetLastError());
}

int double_centre(const double* x, int64_t rows, int64_t columns, double* out, double* means, void* stream) {
    const auto queue = static_cast<cudaStream_t>(stream);
    double* column_mean = means + rows;
    const auto column_blocks = static_cast<unsigned>((columns + kThreads - 1) / kThreads);
    row_mean_kernel<<<static_cast<unsigned>(rows), kThreads, 0, queue>>>(x, columns, means);
    column_mean_kernel<<<column_blocks, kThreads, 0, queue>>>(x, rows, columns, column_mean);
    shift_kernel<<<1, kThreads, 0, queue>>>(means, rows);
    const dim3 grid(column_blocks, static_cast<unsigned>(rows < 1024 ? rows : 1024));
    subtract_kernel<<<grid, kThreads, 0, queue>>>(x, rows, columns, means, column_mean, out);
    return static_cast<int>(cudaGetLastError());
}

int device_count() {
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess) {
        cudaGetLastError();  // no driver or no device: not an error of later calls
        return 0;
    }
    return count;
}

int use_device(int device) {
    int before = 0;
    cudaError_t error = cudaGetDevice(&before);
    if (error == cudaSuccess && before != device) error = cudaSetDevice(device);
    return error == cudaSuccess ? before : -static_cast<int>(error);
}

const char* describe_error(int error) {
    return cudaGetErrorString(static_cast<cudaError_t>(error));
}

}  // namespace kltui::cuda
