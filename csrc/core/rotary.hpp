// Rotary position embedding of one tensor of heads, in place.
#pragma once

#include <cstdint>

namespace kltui {

// batch x heads x length rows of floats; strides count elements, the last axis is contiguous.
struct RotaryRows {
    float* data;
    int64_t batch, heads, length;
    int64_t batch_stride, head_stride, stride;
};

// Angles as cosines and sines: rows of 2 * half, one a position; `batch_stride` is 0 where all texts share
// them.
struct RotaryAngles {
    const float *cosine, *sine;
    int64_t half;
    int64_t batch_stride, stride;
};

// x = x * cosine + (-x2, x1) * sine over the first 2 * half entries x = (x1, x2) of every row. Each product
// and sum is rounded by itself, so that the bits are those of the same expression by whole tensors.
void rotate(const RotaryRows& x, const RotaryAngles& angles, int threads);

}  // namespace kltui
