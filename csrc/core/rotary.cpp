#include "rotary.hpp"

namespace kltui {
namespace {

void rotate_row(float* __restrict__ x, const float* __restrict__ cosine, const float* __restrict__ sine,
                int64_t half) {
    for (int64_t j = 0; j < half; ++j) {
        const float first = x[j], second = x[j + half];
        x[j] = first * cosine[j] + -second * sine[j];
        x[j + half] = second * cosine[j + half] + first * sine[j + half];
    }
}

}  // namespace

void rotate(const RotaryRows& x, const RotaryAngles& angles, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < x.batch * x.length; ++i) {
        const int64_t b = i / x.length, t = i % x.length;
        const int64_t at = b * angles.batch_stride + t * angles.stride;
        float* row = x.data + b * x.batch_stride + t * x.stride;
        for (int64_t h = 0; h < x.heads; ++h)
            rotate_row(row + h * x.head_stride, angles.cosine + at, angles.sine + at, angles.half);
    }
}

}  // namespace kltui
