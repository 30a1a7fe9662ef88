// The output projection fused with its log-softmax: hidden states in, log-probabilities out, logits in
// registers.
//
// The vocabulary is cut into panels of kPanel entries. A panel is packed (depth x kPanel) into a buffer that
// stays in cache while all rows pass over it in blocks of kRows: one register tile of kRows x kPanel
// products. The tile's epilogue adds the bias, transforms, and folds the logits into each row's running
// reference and sum. Groups of panels are fixed by the vocabulary alone and combined in order: any number of
// threads gives the same bits. No copy of the weight is kept and no logit is stored.
//
// `Products` says what a packed 32-bit unit is: a float, or two bf16 neighbours along the depth.
#pragma once

#include <omp.h>

#include "head_parts.hpp"
#include "prototypes.hpp"

namespace kltui {
namespace KLTUI_ISA {
namespace {

constexpr int kPanel = 2 * kLanes;
constexpr int kRows = kLanes == 16 ? 12 : (kLanes == 8 ? 6 : 4);
constexpr int64_t kStretch = 512;
constexpr int64_t kPanelsApart = 16;  // whose sums are added before they join the earlier ones
static_assert(kPanel <= kHeadPanel && kRows <= kHeadRows, "workspace is sized by these");

KLTUI_INLINE bool any_above(FloatV v, float limit) {
#if defined(__AVX512F__)
    return _mm512_cmp_ps_mask((__m512)v, _mm512_set1_ps(limit), _CMP_GT_OQ) != 0;
#elif defined(__AVX__)
    return _mm256_movemask_ps(_mm256_cmp_ps((__m256)v, _mm256_set1_ps(limit), _CMP_GT_OQ)) != 0;
#else
    bool any = false;
    for (int i = 0; i < kLanes; ++i)
        any |= v[i] > limit;
    return any;
#endif
}

// One panel (or one block of hidden rows) of either dtype; bf16 pairs travel as floats, their bits untouched.
template <class Products, int kWidth>
void pack_any(const Rows& source, int64_t first, int64_t count, float* out) {
    if (Products::kDepth == 2) {
        const Rows pairs{source.data, Float::f32, source.rows, source.columns / 2, source.row_stride / 2};
        return pack<LoadF32, kWidth>(pairs, first, count, out);
    }
    if (source.dtype == Float::f32) return pack<LoadF32, kWidth>(source, first, count, out);
    if (source.dtype == Float::bf16) return pack<LoadBf16, kWidth>(source, first, count, out);
    pack<LoadF16, kWidth>(source, first, count, out);
}

template <class Products>
KLTUI_INLINE void multiply_stretch(const float* a, const float* b, int64_t units, FloatV (&acc)[kRows][2]) {
    FloatV sum[kRows][2] = {};
    for (int64_t u = 0; u < units; ++u, a += kRows, b += kPanel) {
        const FloatV left = LoadF32::full(b), right = LoadF32::full(b + kLanes);
#pragma GCC unroll 12
        for (int r = 0; r < kRows; ++r) {
            Products::add(sum[r][0], a[r], left);
            Products::add(sum[r][1], a[r], right);
        }
    }
    __builtin_memcpy(acc, sum, sizeof sum);
}

// One register tile of products over the whole depth, summed in stretches: rounding grows with their length
// only. A function of its own: beside what is done with the tile, its sums would not all stay in registers.
template <class Products>
__attribute__((noinline)) void multiply(const float* a, const float* b, int64_t units,
                                        FloatV (&total)[kRows][2]) {
    multiply_stretch<Products>(a, b, units < kStretch ? units : kStretch, total);
    for (int64_t start = kStretch; start < units; start += kStretch) {
        FloatV acc[kRows][2];
        const int64_t count = units - start < kStretch ? units - start : kStretch;
        multiply_stretch<Products>(a + start * kRows, b + start * kPanel, count, acc);
        for (int r = 0; r < kRows; ++r) {
            total[r][0] += acc[r][0];
            total[r][1] += acc[r][1];
        }
    }
}

// What the epilogue knows of a panel.
struct Panel {
    FloatV bias[2];
    IntV outside[2];  // lanes beyond the vocabulary
    int64_t first;
    int64_t width;
};

Panel describe_panel(const HeadWeights& head, int64_t first) {
    const int64_t left = head.weight.rows - first;
    Panel panel{{}, {}, first, left < kPanel ? left : kPanel};
    for (int i = 0; i < kPanel; ++i) {
        const bool there = i < panel.width;
        panel.bias[i / kLanes][i % kLanes] = there && head.bias != nullptr ? head.bias[first + i] : 0.0f;
        panel.outside[i / kLanes][i % kLanes] = there ? 0 : -1;
    }
    return panel;
}

// Running sums of one group by row: exp(logit - reference) per lane, relative to `reference`. Those of the
// latest panels are kept apart: equal terms are all rounded the same way, so long sums in fp32 drift.
struct Group {
    float* reference;
    float* lane_sum;     // of the latest panels
    float* lane_before;  // of those before them
    float* target_logit;
    const int64_t* target;
    int64_t rows;
};

// Moves a row's sums to a higher reference, and returns it. Seldom, and kept out of the loop around products.
__attribute__((noinline)) float raise_reference(const Group& group, int64_t row, float raised) {
    const FloatV lowered = exp_of(splat(group.reference[row] - raised));
    const FloatV sum = LoadF32::full(group.lane_sum + row * kLanes) * lowered;
    const FloatV before = LoadF32::full(group.lane_before + row * kLanes) * lowered;
    __builtin_memcpy(group.lane_sum + row * kLanes, &sum, sizeof sum);
    __builtin_memcpy(group.lane_before + row * kLanes, &before, sizeof before);
    group.reference[row] = raised;
    return raised;
}

template <class Transform>
KLTUI_INLINE void fold_logits(const FloatV (&acc)[kRows][2], const Panel& panel, const Transform& transform,
                              int64_t first_row, const Group& group) {
    for (int r = 0; r < kRows; ++r) {
        const int64_t row = first_row + r;
        if (row >= group.rows) break;
        FloatV x[2];
        for (int half = 0; half < 2; ++half) {
            x[half] = transform(acc[r][half] + panel.bias[half]);
            x[half] = panel.outside[half] ? splat(-kInfinity) : x[half];
        }
        const FloatV top = larger(x[0], x[1]);
        float reference = group.reference[row];
        if (any_above(top, reference == kLowest ? kLowest : reference + kSlack))
            reference = raise_reference(group, row, largest_lane(top));
        FloatV sum = LoadF32::full(group.lane_sum + row * kLanes);
        sum += exp_of(x[0] - reference) + exp_of(x[1] - reference);
        __builtin_memcpy(group.lane_sum + row * kLanes, &sum, sizeof sum);
        const int64_t column = group.target[row] - panel.first;
        if (column >= 0 && column < panel.width) {
            float logits[kPanel];
            __builtin_memcpy(logits, x, sizeof logits);
            group.target_logit[row] = logits[column];
        }
    }
}

// What was added so far joins what was added before.
void set_apart(const Group& group) {
    for (int64_t i = 0; i < group.rows * kLanes; ++i) {
        group.lane_before[i] += group.lane_sum[i];
        group.lane_sum[i] = 0.0f;
    }
}

template <class Products, class Transform>
void run_group(const Rows& hidden, const HeadWeights& head, const Transform& transform, int64_t first_panel,
               int64_t last_panel, const float* packed_hidden, float* packed_panel, const Group& group) {
    const int64_t units = hidden.columns / Products::kDepth;
    for (int64_t row = 0; row < group.rows; ++row)
        group.reference[row] = kLowest;
    for (int64_t i = 0; i < group.rows * kLanes; ++i)
        group.lane_sum[i] = group.lane_before[i] = 0.0f;
    for (int64_t p = first_panel; p < last_panel; ++p) {
        if (p > first_panel && (p - first_panel) % kPanelsApart == 0) set_apart(group);
        const Panel panel = describe_panel(head, p * kPanel);
        pack_any<Products, kPanel>(head.weight, panel.first, panel.width, packed_panel);
        for (int64_t first_row = 0; first_row < group.rows; first_row += kRows) {
            FloatV acc[kRows][2];
            multiply<Products>(packed_hidden + first_row * units, packed_panel, units, acc);
            fold_logits(acc, panel, transform, first_row, group);
        }
    }
}

// Hidden rows few enough that their packed copy and the group states stay small.
template <class Products, class Transform>
void run_chunk(const Rows& hidden, const HeadWeights& head, const int64_t* target, float* out,
               float* workspace, int threads) {
    const int64_t n = hidden.rows, units = hidden.columns / Products::kDepth;
    const int64_t padded = ceil_div(n, kRows) * kRows, panels = ceil_div(head.weight.rows, kPanel);
    const int64_t groups = panels < kHeadGroups ? panels : kHeadGroups;
    double* sum = reinterpret_cast<double*>(workspace);  // groups x n
    float* reference = workspace + 2 * groups * n;       // groups x n
    float* target_logit = reference + groups * n;        // n
    float* packed_hidden = target_logit + n;             // blocks x units x kRows
    float* per_thread = packed_hidden + padded * units;
    const int64_t thread_floats = 2 * n * kLanes + units * kPanel;
    const Transform transform(head.transform);
#pragma omp parallel num_threads(threads)
    {
        float* lane_sum = per_thread + omp_get_thread_num() * thread_floats;
        float* lane_before = lane_sum + n * kLanes;
        float* packed_panel = lane_before + n * kLanes;
#pragma omp for schedule(static)
        for (int64_t row = 0; row < padded; row += kRows)
            pack_any<Products, kRows>(hidden, row, n - row < kRows ? n - row : kRows,
                                      packed_hidden + row * units);
#pragma omp for schedule(dynamic)
        for (int64_t g = 0; g < groups; ++g) {
            const Group group{reference + g * n, lane_sum, lane_before, target_logit, target, n};
            run_group<Products>(hidden, head, transform, g * panels / groups, (g + 1) * panels / groups,
                                packed_hidden, packed_panel, group);
            for (int64_t row = 0; row < n; ++row)
                sum[g * n + row] = sum_lanes(LoadF32::full(lane_sum + row * kLanes)) +
                                   sum_lanes(LoadF32::full(lane_before + row * kLanes));
        }
#pragma omp for schedule(static)
        for (int64_t row = 0; row < n; ++row)
            out[row] = combine_groups(reference, sum, groups, n, row, target_logit[row]);
    }
}

template <class Products, class Transform>
void run_head(const Rows& hidden, const HeadWeights& head, const int64_t* target, float* out,
              float* workspace, int threads) {
    const int64_t chunk = head_chunk_rows(hidden.columns);
    const int64_t item = hidden.dtype == Float::f32 ? 4 : 2;
    for (int64_t first = 0; first < hidden.rows; first += chunk) {
        const int64_t count = hidden.rows - first < chunk ? hidden.rows - first : chunk;
        const auto* data = static_cast<const char*>(hidden.data) + first * hidden.row_stride * item;
        const Rows rows{data, hidden.dtype, count, hidden.columns, hidden.row_stride};
        run_chunk<Products, Transform>(rows, head, target + first, out + first, workspace, threads);
    }
}

template <class Products>
void head_with(const Rows& hidden, const HeadWeights& head, const int64_t* target, float* out,
               float* workspace, int threads) {
    if (head.transform.softcap > 0.0f)
        run_head<Products, Capped>(hidden, head, target, out, workspace, threads);
    else
        run_head<Products, Scaled>(hidden, head, target, out, workspace, threads);
}

}  // namespace
}  // namespace KLTUI_ISA
}  // namespace kltui
