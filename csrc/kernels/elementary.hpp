// exp and tanh of whole vectors. NaN stays NaN; polynomials are minimax fits made for this file.
#pragma once

#include "lanes.hpp"

namespace kltui {
namespace KLTUI_ISA {

// exp(x) for x <= 88; relative error below 2.5e-7 for x > -20 and 6e-7 beyond. Below -87 it stays at exp(-87)
// = 1.6e-38, so that -inf adds nothing that a sum of at least 1e-30 could notice.
KLTUI_INLINE FloatV exp_of(FloatV x) {
    x = -87.0f > x ? splat(-87.0f) : x;  // in this order one maximum instruction, which keeps NaN
    // adding 1.5 * 2^23 rounds to an integer; the 127 puts the exponent's bias into the low bits that are
    // shifted up
    const FloatV shifted = x * 1.44269504f + (12582912.0f + 127.0f);
    const FloatV n = shifted - (12582912.0f + 127.0f);
#if defined(__FMA__)
    const FloatV r = x - n * 0.693147182f;
#else  // without a fused product ln 2 is taken off in two parts, the first exact
    const FloatV r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
#endif
    FloatV p = r * 0.00831252057f + 0.0418901555f;
    p = p * r + 0.166671142f;
    p = p * r + 0.499992311f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return p * bits_to_float((UintV)shifted << 23);
}

// tanh(x), relative error below 4e-7: an odd polynomial for |x| < 0.625, else 1 - 2 / (exp(2|x|) + 1).
KLTUI_INLINE FloatV tanh_of(FloatV x) {
    const FloatV magnitude = x < 0.0f ? -x : x;
    const FloatV z = x * x;
    FloatV p = z * -0.00571704516f + 0.020650588f;
    p = p * z - 0.0537434965f;
    p = p * z + 0.133314908f;
    p = p * z - 0.333332837f;
    const FloatV small = x + x * z * p;
    const FloatV doubled = magnitude > 20.0f ? splat(40.0f) : magnitude + magnitude;
    const FloatV large = 1.0f - 2.0f / (exp_of(doubled) + 1.0f);
    return magnitude < 0.625f ? small : (x < 0.0f ? -large : large);
}

// scale * x, then softcap * tanh(. / softcap): the two things that model families do to their logits.
struct Plain {
    explicit Plain(LogitTransform) {}
    KLTUI_INLINE_MEMBER FloatV operator()(FloatV x) const { return x; }
};

struct Scaled {
    float scale;
    explicit Scaled(LogitTransform t) : scale(t.scale) {}
    KLTUI_INLINE_MEMBER FloatV operator()(FloatV x) const { return x * scale; }
};

struct Capped {
    float scale, softcap, inverse;
    explicit Capped(LogitTransform t) : scale(t.scale), softcap(t.softcap), inverse(1.0f / t.softcap) {}
    KLTUI_INLINE_MEMBER FloatV operator()(FloatV x) const { return tanh_of(x * scale * inverse) * softcap; }
};

template <class Transform>
KLTUI_INLINE float transform_one(const Transform& transform, float x) {
    return transform(splat(x))[0];
}

}  // namespace KLTUI_ISA
}  // namespace kltui
