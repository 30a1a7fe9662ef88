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

// The first `count` < kDoubles entries, then `fill`.
KLTUI_INLINE DoubleV load_partial(const double* p, int64_t count, double fill) {
    DoubleV v = splat(fill);
    for (int i = 0; i < kDoubles; ++i)
        if (i < count) v[i] = p[i];
    return v;
}

}  // namespace KLTUI_ISA
}  // namespace kltui
