// Exact KL divergence between the next-token distributions of two rows of logits, both ways, and whether
// their tops agree; the CPU's kl_rows says the equation. A block per row: maxima first, then sums in fp64, in
// which no term is too small.
#include <cfloat>

#include "elements.hpp"
#include "kernels.hpp"
#include "reduce.hpp"

namespace kltui::cuda {
namespace {

constexpr int kThreads = 256;

// The largest entry and the first place where it stands; -1 for a row without any above -inf.
struct Top {
    float value;
    int64_t index;

    __device__ void add(float x, int64_t place) {
        const bool better =
            x > value || (x == value && index >= 0 && place < index) || (index < 0 && x >= -FLT_MAX);
        if (place >= 0 && better) {
            value = x;
            index = place;
        }
    }
};

template <class T>
__device__ Top find_top(const T* row, int64_t columns) {
    __shared__ float values[kThreads / 32];
    __shared__ int64_t places[kThreads / 32];
    Top top{-FLT_MAX, -1};
    for (int64_t j = threadIdx.x; j < columns; j += kThreads)
        top.add(widened(row[j]), j);
    for (int offset = 16; offset > 0; offset /= 2) {
        const float value = __shfl_down_sync(~0u, top.value, offset);
        top.add(value, __shfl_down_sync(~0u, top.index, offset));
    }
    if (threadIdx.x % 32 == 0) {
        values[threadIdx.x / 32] = top.value;
        places[threadIdx.x / 32] = top.index;
    }
    __syncthreads();
    top = {values[0], places[0]};
    for (int w = 1; w < kThreads / 32; ++w)
        top.add(values[w], places[w]);
    __syncthreads();
    return top;
}

// weight * difference; a token without probability adds nothing, however far the other row holds it.
__device__ inline double term(double weight, double difference) {
    return weight == 0.0 ? 0.0 : weight * difference;
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    kl_kernel(const T* p, const T* q, int64_t rows, int64_t columns, int64_t stride_p, int64_t stride_q,
              double* forward, double* reverse, uint8_t* same_top) {
    __shared__ double partial[kThreads / 32];
    for (int64_t r = blockIdx.x; r < rows; r += gridDim.x) {
        const T *row_p = p + r * stride_p, *row_q = q + r * stride_q;
        const Top top_p = find_top(row_p, columns), top_q = find_top(row_q, columns);
        double sum_p = 0.0, sum_q = 0.0, ahead = 0.0, back = 0.0;
        for (int64_t j = threadIdx.x; j < columns; j += kThreads) {
            const double u = static_cast<double>(widened(row_p[j])) - top_p.value;
            const double v = static_cast<double>(widened(row_q[j])) - top_q.value;
            const double weight_p = exp(u), weight_q = exp(v);
            sum_p += weight_p;
            sum_q += weight_q;
            ahead += term(weight_p, u - v);
            back += term(weight_q, v - u);
        }
        sum_p = sum_of_block<kThreads>(sum_p, partial);
        sum_q = sum_of_block<kThreads>(sum_q, partial);
        ahead = sum_of_block<kThreads>(ahead, partial);
        back = sum_of_block<kThreads>(back, partial);
        if (threadIdx.x != 0) continue;
        const double shift = log(sum_p) - log(sum_q);
        const bool defined = top_p.index >= 0 && top_q.index >= 0;
        forward[r] = defined ? ahead / sum_p - shift : nan("");
        reverse[r] = defined ? back / sum_q + shift : nan("");
        same_top[r] = defined && shift == shift && top_p.index == top_q.index;
    }
}

}  // namespace

int kl_rows(const Rows& p, const Rows& q, double* forward, double* reverse, uint8_t* same_top, void* stream) {
    return with_elements(p, [&](auto* data) {
        return launch(kl_kernel<Element<decltype(data)>>, blocks_for(p.rows), kThreads, stream, data,
                      static_cast<decltype(data)>(q.data), p.rows, p.columns, p.row_stride, q.row_stride,
                      forward, reverse, same_top);
    });
}

}  // namespace kltui::cuda
