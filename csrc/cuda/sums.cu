// Per-text sums and double centring on the GPU, in fp64 and in a fixed order: no atomics, the same bits every
// time.
#include "kernels.hpp"
#include "reduce.hpp"

namespace kltui::cuda {
namespace {

constexpr int kThreads = 256;

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
    sum = sum_of_block<kThreads>(sum, partial);
    if (threadIdx.x == 0) mean[blockIdx.x] = sum / static_cast<double>(columns);
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
    const double grand = sum_of_block<kThreads>(sum, partial) / static_cast<double>(rows);
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
    return launch(text_kernel, blocks, kThreads, stream, logp, text_index, count, texts, sums);
}

int double_centre(const double* x, int64_t rows, int64_t columns, double* out, double* means, void* stream) {
    double* column_mean = means + rows;
    const auto all_rows = static_cast<unsigned>(rows);
    const auto column_blocks = static_cast<unsigned>((columns + kThreads - 1) / kThreads);
    const dim3 grid(column_blocks, static_cast<unsigned>(rows < 1024 ? rows : 1024));
    if (int error = launch(row_mean_kernel, all_rows, kThreads, stream, x, columns, means)) return error;
    if (int error =
            launch(column_mean_kernel, column_blocks, kThreads, stream, x, rows, columns, column_mean))
        return error;
    if (int error = launch(shift_kernel, 1, kThreads, stream, means, rows)) return error;
    return launch(subtract_kernel, grid, kThreads, stream, x, rows, columns, means, column_mean, out);
}

}  // namespace kltui::cuda
