// Square transposes in registers, for packing.
#pragma once

#include "lanes.hpp"

namespace kltui {
namespace KLTUI_ISA {

// Exchanges the off-diagonal blocks of size kStep of every pair of rows kStep apart.
template <int kStep>
KLTUI_INLINE void exchange(FloatV (&v)[kLanes]) {
    IntV upper, lower;
    for (int lane = 0; lane < kLanes; ++lane) {
        upper[lane] = (lane & kStep) == 0 ? lane : kLanes + (lane ^ kStep);
        lower[lane] = (lane & kStep) == 0 ? (lane ^ kStep) : kLanes + lane;
    }
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) {
        if ((i & kStep) != 0) continue;
        const FloatV a = v[i], b = v[i | kStep];
#if defined(__clang__)
        for (int lane = 0; lane < kLanes; ++lane) {
            v[i][lane] = upper[lane] < kLanes ? a[upper[lane] % kLanes] : b[upper[lane] % kLanes];
            v[i | kStep][lane] = lower[lane] < kLanes ? a[lower[lane] % kLanes] : b[lower[lane] % kLanes];
        }
#else
        v[i] = __builtin_shuffle(a, b, upper);
        v[i | kStep] = __builtin_shuffle(a, b, lower);
#endif
    }
}

// v[i][j] becomes v[j][i].
KLTUI_INLINE void transpose(FloatV (&v)[kLanes]) {
    exchange<1>(v);
    exchange<2>(v);
    if (kLanes > 4) exchange<(kLanes > 4 ? 4 : 1)>(v);
    if (kLanes > 8) exchange<(kLanes > 8 ? 8 : 1)>(v);
}

}  // namespace KLTUI_ISA
}  // namespace kltui
