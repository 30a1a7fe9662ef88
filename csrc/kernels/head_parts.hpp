// What the fused heads share, whatever multiplies: packing by transposes, and the sums of groups of the
// vocabulary put together.
#pragma once

#include "elementary.hpp"
#include "transpose.hpp"

namespace kltui {
namespace KLTUI_ISA {
namespace {

constexpr float kSlack = 16.0f;  // how far a logit may lie above its row's reference

KLTUI_INLINE int64_t ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

// Packs rows [first, first + count) of `source` as [unit][kWidth], zero beyond the rows and the depth.
template <class Load, int kWidth>
KLTUI_INLINE void pack(const Rows& source, int64_t first, int64_t count, float* out) {
    const auto* data = static_cast<const typename Load::Element*>(source.data);
    for (int64_t start = 0; start < source.columns; start += kLanes) {
        const int64_t units = source.columns - start < kLanes ? source.columns - start : kLanes;
        for (int64_t part = 0; part < kWidth; part += kLanes) {
            FloatV v[kLanes];
            for (int i = 0; i < kLanes; ++i) {
                const auto* p = data + (first + part + i) * source.row_stride + start;
                const bool there = part + i < count && part + i < kWidth;
                v[i] = !there ? FloatV{}
                              : (units == kLanes ? Load::full(p) : load_partial<Load>(p, units, 0.0f));
            }
            transpose(v);
            const int64_t width = kWidth - part < kLanes ? kWidth - part : kLanes;
            for (int64_t u = 0; u < units; ++u)
                __builtin_memcpy(out + (start + u) * kWidth + part, &v[u], width * sizeof(float));
        }
    }
}

// log p = target - log sum over groups of exp(reference) * sum, the groups in order.
float combine_groups(const float* reference, const double* sum, int64_t groups, int64_t rows, int64_t row,
                     float target_logit) {
    float top = kLowest;
    for (int64_t g = 0; g < groups; ++g)
        if (reference[g * rows + row] > top) top = reference[g * rows + row];
    double total = 0;
    for (int64_t g = 0; g < groups; ++g) {
        const float here = reference[g * rows + row];
        total += here == top ? sum[g * rows + row] : sum[g * rows + row] * __builtin_exp((double)here - top);
    }
    if (top == kLowest) return __builtin_nanf("");
    return (float)((double)target_logit - (double)top - __builtin_log(total));
}

}  // namespace
}  // namespace KLTUI_ISA
}  // namespace kltui
