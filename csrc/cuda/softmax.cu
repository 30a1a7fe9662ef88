// Log-softmax of one entry per row on the GPU: a block per row, 16-byte loads, an online maximum and sum per
// thread, shuffles to combine them, one write per row. Bound by memory.
#include <cfloat>

#include "elements.hpp"
#include "kernels.hpp"

namespace kltui::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kInFlight = 4;  // 16-byte loads before their first use

struct Transform {
    float scale, softcap;
    __device__ float operator()(float x) const {
        x *= scale;
        return softcap > 0.0f ? softcap * tanhf(x / softcap) : x;
    }
};

// sum of exp(x - reference); a fresh one has the lowest reference, so that -inf never meets -inf. Nothing but
// -inf leaves the sum 0.
struct Running {
    float reference = -FLT_MAX;
    float sum = 0.0f;

    __device__ void add(float x) {
        if (x > reference) {
            sum *= __expf(reference - x);
            reference = x;
        }
        sum += __expf(x - reference);
    }

    __device__ void merge(float other_reference, float other_sum) {
        const float top = fmaxf(reference, other_reference);
        sum = sum * __expf(reference - top) + other_sum * __expf(other_reference - top);
        reference = top;
    }
};

template <class T>
__device__ void add_vector(Running& running, const uint4& bits, const Transform& transform) {
    constexpr int kCount = 16 / sizeof(T);
    const T* x = reinterpret_cast<const T*>(&bits);
    float value[kCount], top = -FLT_MAX;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
        value[i] = transform(widened(x[i]));
        top = fmaxf(top, value[i]);
    }
    if (top > running.reference) {
        running.sum *= __expf(running.reference - top);
        running.reference = top;
    }
    // Added among themselves first: equal terms are all rounded the same way, so a long sum in fp32 drifts.
    float added = 0.0f;
#pragma unroll
    for (int i = 0; i < kCount; ++i)
        added += __expf(value[i] - running.reference);
    running.sum += added;
}

// This thread's share of a row: single entries up to the first 16-byte border and after the last, vectors
// between.
template <class T>
__device__ Running scan_row(const T* row, int64_t columns, const Transform& transform) {
    constexpr int64_t kCount = 16 / sizeof(T);
    Running running;
    const int64_t misaligned = static_cast<int64_t>(reinterpret_cast<uintptr_t>(row) % 16 / sizeof(T));
    const int64_t lead = min(columns, misaligned == 0 ? int64_t{0} : kCount - misaligned);
    const int64_t vectors = (columns - lead) / kCount;
    const uint4* body = reinterpret_cast<const uint4*>(row + lead);
    int64_t v = threadIdx.x;
    for (; v + (kInFlight - 1) * kThreads < vectors; v += kInFlight * kThreads) {
        uint4 bits[kInFlight];
#pragma unroll
        for (int u = 0; u < kInFlight; ++u)
            bits[u] = __ldcs(body + v + u * kThreads);
#pragma unroll
        for (int u = 0; u < kInFlight; ++u)
            add_vector<T>(running, bits[u], transform);
    }
    for (; v < vectors; v += kThreads)
        add_vector<T>(running, __ldcs(body + v), transform);
    if (threadIdx.x < lead) running.add(transform(widened(row[threadIdx.x])));
    const int64_t last = lead + vectors * kCount + threadIdx.x;
    if (last < columns) running.add(transform(widened(row[last])));
    return running;
}

// The whole block's sum; valid in thread 0.
__device__ Running combine_block(Running running) {
    __shared__ float references[kThreads / 32], sums[kThreads / 32];
    for (int offset = 16; offset > 0; offset /= 2)
        running.merge(__shfl_down_sync(~0u, running.reference, offset),
                      __shfl_down_sync(~0u, running.sum, offset));
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (lane == 0) {
        references[warp] = running.reference;
        sums[warp] = running.sum;
    }
    __syncthreads();
    if (threadIdx.x == 0)
        for (int w = 1; w < kThreads / 32; ++w)
            running.merge(references[w], sums[w]);
    __syncthreads();
    return running;
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    gather_kernel(const T* logits, int64_t rows, int64_t columns, int64_t stride, const int64_t* target,
                  Transform transform, float* out) {
    for (int64_t r = blockIdx.x; r < rows; r += gridDim.x) {
        const T* row = logits + r * stride;
        const Running all = combine_block(scan_row(row, columns, transform));
        if (threadIdx.x != 0) continue;
        // a target outside the vocabulary cannot be refused without waiting for the device: it gives NaN
        const int64_t column = target[r];
        const bool defined = all.sum > 0.0f && column >= 0 && column < columns;
        out[r] = defined ? transform(widened(row[column])) - all.reference - logf(all.sum) : nanf("");
    }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    update_kernel(const T* tile, int64_t rows, int64_t columns, int64_t stride, int64_t first,
                  const int64_t* target, Transform transform, float* reference, double* sum,
                  float* target_logit) {
    for (int64_t r = blockIdx.x; r < rows; r += gridDim.x) {
        const T* row = tile + r * stride;
        const Running all = combine_block(scan_row(row, columns, transform));
        if (threadIdx.x != 0) continue;
        const float before = reference[r], top = fmaxf(before, all.reference);
        sum[r] = sum[r] * exp(static_cast<double>(before) - top) +
                 static_cast<double>(all.sum) * exp(static_cast<double>(all.reference) - top);
        reference[r] = top;
        const int64_t column = target[r] - first;
        if (column >= 0 && column < columns) target_logit[r] = transform(widened(row[column]));
    }
}

}  // namespace

int log_softmax_gather(const Rows& logits, const int64_t* target, float scale, float softcap, float* out,
                       void* stream) {
    return with_elements(logits, [&](auto* data) {
        return launch(gather_kernel<Element<decltype(data)>>, blocks_for(logits.rows), kThreads, stream, data,
                      logits.rows, logits.columns, logits.row_stride, target, Transform{scale, softcap}, out);
    });
}

int online_update(const Rows& tile, int64_t first, const int64_t* target, float scale, float softcap,
                  float* reference, double* sum, float* target_logit, void* stream) {
    return with_elements(tile, [&](auto* data) {
        return launch(update_kernel<Element<decltype(data)>>, blocks_for(tile.rows), kThreads, stream, data,
                      tile.rows, tile.columns, tile.row_stride, first, target, Transform{scale, softcap},
                      reference, sum, target_logit);
    });
}

}  // namespace kltui::cuda
