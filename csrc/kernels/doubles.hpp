// Loads, stores and tails of fp64 vectors.
#pragma once

#include "lanes.hpp"

namespace kltui {
namespace KLTUI_ISA {

constexpr int kDoubles = kLanes / 2;

KLTUI_INLINE DoubleV load(const double* p) {
    DoubleV v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}

KLTUI_INLINE void store(double* p, DoubleV v) {
    __builtin_memcpy(p, &v, sizeof v);
}

// `p` or the next place on a 64-byte boundary.
KLTUI_INLINE double* align_to_line(double* p) {
    return reinterpret_cast<double*>((reinterpret_cast<uintptr_t>(p) + 63) & ~uintptr_t{63});
}

// Stores past the cache what will not be read soon; `p` on a boundary of the vector's size.
KLTUI_INLINE void store_past_cache(double* p, DoubleV v) {
#if defined(__AVX512F__)
    _mm512_stream_pd(p, (__m512d)v);
#elif defined(__AVX__)
    _mm256_stream_pd(p, (__m256d)v);
#else
    store(p, v);
#endif
}

// What was stored past the cache is seen by other threads from here on.
KLTUI_INLINE void finish_stores() {
#if defined(__AVX__)
    _mm_sfence();
#endif
}

// The first `count` < kDoubles entries, then `fill`.
KLTUI_INLINE DoubleV load_partial(const double* p, int64_t count, double fill) {
    DoubleV v = splat(fill);
    for (int i = 0; i < kDoubles; ++i)
        if (i < count) v[i] = p[i];
    return v;
}

}  // namespace KLTUI_ISA
}  // namespace kltui
