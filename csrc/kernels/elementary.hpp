// exp and tanh of whole vectors. NaN stays NaN; polynomials are minimax fits made for this file.
#pragma once

#include "lanes.hpp"

namespace kltui {
namespace KLTUI_ISA {

// exp(x) for x <= 88; relative error below 2.5e-7 for x > -20 and 6e-7 beyond. Below -87 it stays at exp(-87)
// = 1.6e-38, so that -inf adds nothing that a sum of at least 1e-30 could notice.
KLTUI_INLINE FloatV exp_of(FloatV x) {
    x = larger(splat(-87.0f), x);  // in this order NaN stays
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

// Sums of exp(x - reference) for many x and one reference, without a maximum to hold x down.
//
// Where `covers(reference)`: relative error below 4e-7; NaN gives NaN, -inf NaN or nothing, +inf and what is
// far above the reference NaN or a huge number. So a caller looks at its sum, and takes exp_of with care
// where that is not finite or too large.
#if defined(__AVX512F__)
// x log2 e = n / 32 + r with |r| <= 1/64: 2^(n / 32) is a table's entry, scaled by the processor, and 2^r
// to 1.3e-7 of the form a ((r + 46/32)^2 + b). That the square's minimum lies on the grid of n saves a
// subtraction.
constexpr float kSquareOffset = 2.08126002f;  // b
alignas(64) static const float kPowers[32] = {
    // a 2^(46/32) 2^(((i - 14) mod 32) / 32), a = 0.24109942
    0.96439768f,  0.985515239f, 1.00709521f,  1.02914773f,  1.05168313f,  1.07471199f,  1.09824512f,
    1.12229355f,  1.14686858f,  1.17198173f,  1.19764479f,  1.2238698f,   1.25066906f,  1.27805514f,
    0.653020454f, 0.66731974f,  0.681932139f, 0.696864509f, 0.712123854f, 0.727717336f, 0.743652271f,
    0.759936135f, 0.77657657f,  0.793581382f, 0.810958552f, 0.828716232f, 0.846862754f, 0.865406634f,
    0.884356572f, 0.903721459f, 0.923510382f, 0.943732626f,
};

class ShiftedExp {
  public:
    static KLTUI_INLINE_MEMBER bool covers(float reference) { return reference < 6e4f && reference > -6e4f; }

    KLTUI_INLINE_MEMBER void move_to(float reference) {
        if (reference == reference_ || !covers(reference)) return;
        reference_ = reference;
        // log2 e in fp32 is 1.3e-8 off; what that makes of the reference is mended in the scale
        const double exponent = (double)reference * 1.44269502162933349609375;
        power_ = (float)__builtin_rint(exponent);
        const float scale = (float)__builtin_exp(((double)power_ - exponent) * 0.693147180559945309);
        for (int half = 0; half < 2; ++half)
            table_[half] = LoadF32::full(kPowers + half * kLanes) * scale;
        FloatV one = {};
        add(splat(reference), one);
        unit_ = 1.0 / (double)one[0];
    }

    // A sum of added values as a number: exp(0) counts exactly 1, so that a sure token has log-probability 0.
    KLTUI_INLINE_MEMBER double sum_of(DoubleV lanes) const { return sum_lanes(lanes) * unit_; }

    KLTUI_INLINE_MEMBER void add(FloatV x, FloatV& sum) const {
        const FloatV grid = x * 1.44269504f + kGrid;
        const FloatV below = grid - (kGrid + kShift);
        const FloatV r = x * 1.44269504f - below;
        const __m512 power = _mm512_permutex2var_ps((__m512)table_[0], (__m512i)grid, (__m512)table_[1]);
        sum +=
            (r * r + kSquareOffset) * (FloatV)_mm512_maskz_scalef_ps(0xffff, power, (__m512)(below - power_));
    }

  private:
    static constexpr float kGrid = 393216.0f;  // 1.5 * 2^18: fp32 there counts in steps of 1/32
    static constexpr float kShift = 46.0f / 32.0f;
    FloatV table_[2] = {};
    float power_ = 0.0f;
    double unit_ = 1.0;
    float reference_ = __builtin_nanf("");
};
#elif defined(__AVX2__)
// x log2 e = k / 8 + r with |r| <= 1/16: 2^(k / 8) is one of eight floats whose exponent is moved by an
// integer sum, and 2^r a cubic to 4e-8. What lies too far from the reference is held at its edge: far below
// it adds 1e-38, far above (or +inf) more than any caller accepts; NaN stays NaN.
alignas(32) static const float kPowers[8] = {1.0f,        1.09050775f, 1.18920708f, 1.29683959f,
                                             1.41421354f, 1.54221082f, 1.68179286f, 1.8340081f};

class ShiftedExp {
  public:
    static KLTUI_INLINE_MEMBER bool covers(float reference) { return reference < 6e4f && reference > -6e4f; }

    KLTUI_INLINE_MEMBER void move_to(float reference) {
        if (reference == reference_ || !covers(reference)) return;
        reference_ = reference;
        lowest_ = splat(reference - 87.0f);
        highest_ = splat(reference + 87.0f);
        const double exponent = (double)reference * 1.44269502162933349609375;  // log2 e as fp32 has it
        const double power = __builtin_rint(exponent);
        const float scale = (float)__builtin_exp((power - exponent) * 0.693147180559945309);
        // without signs, since sums and shifts of bits may run over
        const UintV eighth = {0, 1, 2, 3, 4, 5, 6, 7};
        const uint32_t exponent_bits = (uint32_t)(int32_t)power << 23;
        table_ = (FloatV)((UintV)(LoadF32::full(kPowers) * scale) - (eighth << 20) - exponent_bits);
        FloatV one = {};
        add(splat(reference), one);
        unit_ = 1.0 / (double)one[0];
    }

    // A sum of added values as a number: exp(0) counts exactly 1, so that a sure token has log-probability 0.
    KLTUI_INLINE_MEMBER double sum_of(DoubleV lanes) const { return sum_lanes(lanes) * unit_; }

    KLTUI_INLINE_MEMBER void add(FloatV x, FloatV& sum) const {
        x = smaller(highest_, larger(lowest_, x));
        const FloatV grid = x * 1.44269504f + kGrid;
        const FloatV r = x * 1.44269504f - (grid - kGrid);
        const FloatV power = (FloatV)_mm256_permutevar8x32_ps((__m256)table_, (__m256i)grid);
        FloatV p = r * 0.0555093177f + 0.240264073f;
        p = p * r + 0.693147182f;
        p = p * r + 1.0f;
        sum += p * (FloatV)((UintV)power + ((UintV)grid << 20));
    }

  private:
    static constexpr float kGrid = 1572864.0f;  // 1.5 * 2^20: fp32 there counts in steps of 1/8
    FloatV table_ = {}, lowest_ = {}, highest_ = {};
    double unit_ = 1.0;
    float reference_ = __builtin_nanf("");
};
#else
struct ShiftedExp {
    static KLTUI_INLINE_MEMBER bool covers(float) { return false; }
    KLTUI_INLINE_MEMBER void move_to(float) {}
    KLTUI_INLINE_MEMBER void add(FloatV, FloatV&) const {}
    KLTUI_INLINE_MEMBER double sum_of(DoubleV lanes) const { return sum_lanes(lanes); }
};
#endif

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
