// Vectors of one instruction set, by the compiler's vector extension: KLTUI_LANES floats, arithmetic by
// operators.
//
// Files that include this are compiled once per instruction set. They use no templates or inline functions of
// the standard library: the linker would keep one copy for all, perhaps the one that only some processors can
// run.
#pragma once

#include "../core/kernels.hpp"

#if defined(__F16C__)
#    include <immintrin.h>
#endif

#define KLTUI_INLINE static inline __attribute__((always_inline))
#define KLTUI_INLINE_MEMBER inline __attribute__((always_inline))

namespace kltui {
namespace KLTUI_ISA {

constexpr int kLanes = KLTUI_LANES;

typedef float FloatV __attribute__((vector_size(4 * KLTUI_LANES)));
typedef int32_t IntV __attribute__((vector_size(4 * KLTUI_LANES)));
typedef uint32_t UintV __attribute__((vector_size(4 * KLTUI_LANES)));
typedef uint16_t ShortV __attribute__((vector_size(2 * KLTUI_LANES)));
typedef double DoubleV __attribute__((vector_size(4 * KLTUI_LANES)));
typedef float HalfFloatV __attribute__((vector_size(2 * KLTUI_LANES)));

constexpr float kLowest = -3.40282347e38f;
constexpr float kInfinity = __builtin_inff();

KLTUI_INLINE FloatV splat(float x) {
    return x - FloatV{};
}
KLTUI_INLINE DoubleV splat(double x) {
    return x - DoubleV{};
}

// The larger of each lane; the second where either is NaN. One instruction, which for AVX2 the compiler does
// not always see.
#if defined(__AVX2__) && !defined(__AVX512F__)
KLTUI_INLINE FloatV larger(FloatV a, FloatV b) {
    return (FloatV)_mm256_max_ps((__m256)a, (__m256)b);
}
#else
KLTUI_INLINE FloatV larger(FloatV a, FloatV b) {
    return a > b ? a : b;
}
#endif

// The smaller of each lane; the second where either is NaN.
#if defined(__AVX2__) && !defined(__AVX512F__)
KLTUI_INLINE FloatV smaller(FloatV a, FloatV b) {
    return (FloatV)_mm256_min_ps((__m256)a, (__m256)b);
}
#else
KLTUI_INLINE FloatV smaller(FloatV a, FloatV b) {
    return a < b ? a : b;
}
#endif

KLTUI_INLINE FloatV bits_to_float(UintV u) {
    return (FloatV)u;
}

KLTUI_INLINE FloatV widen_bf16(ShortV h) {
    return (FloatV)(__builtin_convertvector(h, UintV) << 16);
}

#if defined(__AVX512F__)
KLTUI_INLINE FloatV widen_f16(ShortV h) {
    return (FloatV)_mm512_maskz_cvtph_ps(0xffff, (__m256i)h);
}
#elif defined(__F16C__)
KLTUI_INLINE FloatV widen_f16(ShortV h) {
    return (FloatV)_mm256_cvtph_ps((__m128i)h);
}
#else
// Shift the exponent and mantissa into place, mend the bias by a product (exact for subnormals), restore inf
// and NaN.
KLTUI_INLINE FloatV widen_f16(ShortV h) {
    const UintV u = __builtin_convertvector(h, UintV);
    const UintV magnitude = u & 0x7fffu;
    const UintV finite = (UintV)((FloatV)(magnitude << 13) * 0x1p112f);
    const UintV special = (magnitude << 13) | 0x7f800000u;
    const UintV value = (IntV)magnitude >= 0x7c00 ? special : finite;
    return (FloatV)(value | ((u & 0x8000u) << 16));
}
#endif

// One row element type each: how to load a full vector and the last, partial one (missing lanes are `fill`).
struct LoadF32 {
    typedef float Element;
    static KLTUI_INLINE_MEMBER FloatV full(const float* p) {
        FloatV v;
        __builtin_memcpy(&v, p, sizeof v);
        return v;
    }
    static KLTUI_INLINE_MEMBER void two(const float* p, FloatV& a, FloatV& b) {
        a = full(p);
        b = full(p + kLanes);
    }
};

template <bool kBrain>
struct LoadShort {
    typedef uint16_t Element;
    static KLTUI_INLINE_MEMBER FloatV full(const uint16_t* p) {
        ShortV h;
        __builtin_memcpy(&h, p, sizeof h);
        return kBrain ? widen_bf16(h) : widen_f16(h);
    }
    // Two vectors' worth, in whatever order is cheapest: for sums.
    static KLTUI_INLINE_MEMBER void two(const uint16_t* p, FloatV& a, FloatV& b) {
        if (!kBrain) {
            a = full(p);
            b = full(p + kLanes);
            return;
        }
        UintV pairs;
        __builtin_memcpy(&pairs, p, sizeof pairs);
        a = (FloatV)(pairs << 16);
        b = (FloatV)(pairs & 0xffff0000u);
    }
};
typedef LoadShort<true> LoadBf16;
typedef LoadShort<false> LoadF16;

template <class Load>
KLTUI_INLINE float load_one(const typename Load::Element* p) {
    typename Load::Element padded[kLanes] = {};
    __builtin_memcpy(padded, p, sizeof *p);  // p may be unaligned: raw file bytes
    return Load::full(padded)[0];
}

// The first `count` < kLanes elements, then `fill`; `p` may be unaligned: pairs of bf16 are read as floats.
template <class Load>
KLTUI_INLINE FloatV load_partial(const typename Load::Element* p, int64_t count, float fill) {
    typename Load::Element padded[kLanes] = {};
    for (int64_t i = 0; i < count; ++i)
        __builtin_memcpy(padded + i, p + i, sizeof *p);
    FloatV v = Load::full(padded);
    for (int i = 0; i < kLanes; ++i)
        if (i >= count) v[i] = fill;
    return v;
}

// Asks for `kBytes` that a single pass will come to: the processor's own foresight ends at each page, and
// what is read once need not stay in the caches.
template <int64_t kBytes>
KLTUI_INLINE void prefetch_once(const void* p) {
    constexpr int64_t kAhead = 2048, kLine = 64;
    for (int64_t byte = kAhead; byte < kAhead + kBytes; byte += kLine)
        __builtin_prefetch(static_cast<const char*>(p) + byte, 0, 0);
}

KLTUI_INLINE float largest_lane(FloatV v) {
    float best = v[0];
    for (int i = 1; i < kLanes; ++i)
        best = v[i] > best ? v[i] : best;
    return best;
}

// Half a vector of floats as doubles; the compiler's own conversion goes through quarters.
KLTUI_INLINE DoubleV widen_half(HalfFloatV v) {
#if defined(__AVX512F__)
    return (DoubleV)_mm512_maskz_cvtps_pd(0xff, (__m256)v);
#elif defined(__AVX__)
    return (DoubleV)_mm256_cvtps_pd((__m128)v);
#else
    return __builtin_convertvector(v, DoubleV);
#endif
}

// The compiler takes a detour through memory for these.
#if defined(__AVX512DQ__)
KLTUI_INLINE HalfFloatV lower_half(FloatV v) {
    return (HalfFloatV)_mm512_maskz_extractf32x8_ps(0xff, (__m512)v, 0);
}
KLTUI_INLINE HalfFloatV upper_half(FloatV v) {
    return (HalfFloatV)_mm512_maskz_extractf32x8_ps(0xff, (__m512)v, 1);
}
#else
KLTUI_INLINE HalfFloatV lower_half(FloatV v) {
    HalfFloatV half;
    __builtin_memcpy(&half, &v, sizeof half);
    return half;
}
KLTUI_INLINE HalfFloatV upper_half(FloatV v) {
    HalfFloatV half[2];
    __builtin_memcpy(half, &v, sizeof v);
    return half[1];
}
#endif

// The lanes of the lower and of the upper half, added.
KLTUI_INLINE DoubleV fold_halves(FloatV v) {
    return widen_half(lower_half(v)) + widen_half(upper_half(v));
}

// Sums by halves: short chains, and the same order everywhere.
KLTUI_INLINE double sum_lanes(DoubleV v) {
    double part[kLanes / 2];
    __builtin_memcpy(part, &v, sizeof v);
    for (int width = kLanes / 4; width > 0; width /= 2)
        for (int i = 0; i < width; ++i)
            part[i] += part[i + width];
    return part[0];
}

KLTUI_INLINE double sum_lanes(FloatV v) {
    return sum_lanes(fold_halves(v));
}

}  // namespace KLTUI_ISA
}  // namespace kltui
