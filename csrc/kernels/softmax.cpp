// Log-softmax of one entry per row, each logit read once.
//
// A row keeps a reference c and the sum of exp(x - c). c is the maximum of the first entries and is raised
// only when a block exceeds it by more than kSlack; that block is then summed again. Sums are taken per lane
// over short runs in fp32, and of these in fp64: equal terms, many in rows of coarse logits, are all rounded
// the same way, so the error of a long sum would grow with its length.
#include "elementary.hpp"
#include "prototypes.hpp"

namespace kltui {
namespace KLTUI_ISA {
namespace {

constexpr int64_t kBlock = 8192;       // entries; a multiple of every lane count times 4
constexpr int64_t kRun = 64 * kLanes;  // entries, 16 a lane of four sums
constexpr int64_t kProbe = 512;        // entries whose maximum is the first reference
constexpr float kSlack = 16.0f;
constexpr double kQuickLimit = 1e11;  // about kBlock * exp(kSlack)

struct Running {
    float reference;
    double sum;
};

struct BlockResult {
    float maximum;
    double sum;
};

KLTUI_INLINE int64_t run_end(int64_t start, int64_t most) {
    return start + kRun < most ? start + kRun : most;
}

template <class Load, class Transform>
KLTUI_INLINE FloatV tail_of(const typename Load::Element* x, int64_t count, const Transform& transform,
                            float fill = -kInfinity) {
    FloatV v = transform(load_partial<Load>(x, count, 0.0f));
    for (int i = 0; i < kLanes; ++i)
        if (i >= count) v[i] = fill;
    return v;
}

template <class Load, class Transform>
KLTUI_INLINE float block_maximum(const typename Load::Element* x, int64_t count, const Transform& transform) {
    FloatV best = splat(-kInfinity);
    int64_t j = 0;
    for (; j + kLanes <= count; j += kLanes)
        best = larger(transform(Load::full(x + j)), best);
    if (j < count) best = larger(tail_of<Load>(x + j, count - j, transform), best);
    return largest_lane(best);
}

template <class Load, class Transform>
KLTUI_INLINE BlockResult block_sum(const typename Load::Element* x, int64_t count, const Transform& transform,
                                   float reference) {
    FloatV best[4], rest = {};
    for (int u = 0; u < 4; ++u)
        best[u] = splat(-kInfinity);
    DoubleV total = {};
    const int64_t whole_fours = count - count % (4 * kLanes);
    int64_t j = 0;
    while (j < whole_fours) {
        FloatV sum[4] = {};
        for (const int64_t end = run_end(j, whole_fours); j < end; j += 4 * kLanes) {
#pragma GCC unroll 4
            for (int u = 0; u < 4; ++u) {
                const FloatV v = transform(Load::full(x + j + u * kLanes));
                best[u] = larger(v, best[u]);
                sum[u] += exp_of(v - reference);
            }
        }
        total += fold_halves((sum[0] + sum[1]) + (sum[2] + sum[3]));
    }
    for (; j < count; j += kLanes) {
        const bool whole = j + kLanes <= count;
        const FloatV v = whole ? transform(Load::full(x + j)) : tail_of<Load>(x + j, count - j, transform);
        best[0] = larger(v, best[0]);
        rest += exp_of(v - reference);
    }
    const FloatV top = larger(larger(best[0], best[1]), larger(best[2], best[3]));
    return {largest_lane(top), sum_lanes(total + fold_halves(rest))};
}

// Adds a block's sum without asking for its maximum; false, and nothing added, where a value is not finite or
// so far above the reference that the block must be looked at.
template <class Load, class Transform>
KLTUI_INLINE bool add_quickly(const typename Load::Element* x, int64_t count, const Transform& transform,
                              const ShiftedExp& shifted, Running& running) {
    if (!ShiftedExp::covers(running.reference)) return false;
    DoubleV lanes = {};
    const int64_t whole_fours = count - count % (4 * kLanes);
    int64_t j = 0;
    while (j < whole_fours) {
        FloatV sum[4] = {};
        for (const int64_t end = run_end(j, whole_fours); j < end; j += 4 * kLanes) {
            prefetch_once<4 * kLanes * sizeof(typename Load::Element)>(x + j);
            FloatV v[4];
            Load::two(x + j, v[0], v[1]);
            Load::two(x + j + 2 * kLanes, v[2], v[3]);
#pragma GCC unroll 4
            for (int u = 0; u < 4; ++u)
                shifted.add(transform(v[u]), sum[u]);
        }
        lanes += fold_halves((sum[0] + sum[1]) + (sum[2] + sum[3]));
    }
    FloatV rest = {};
    for (; j + kLanes <= count; j += kLanes)
        shifted.add(transform(Load::full(x + j)), rest);
    const float nothing = running.reference - 200.0f;  // adds exp(-200), which is 0
    if (j < count) shifted.add(tail_of<Load>(x + j, count - j, transform, nothing), rest);
    const double total = shifted.sum_of(lanes + fold_halves(rest));
    if (!(total <= kQuickLimit)) return false;
    running.sum += total;
    return true;
}

// Moves the running sum to a higher reference.
KLTUI_INLINE void raise_reference(Running& running, float reference) {
    running.sum *= __builtin_exp((double)running.reference - (double)reference);
    running.reference = reference;
}

template <class Load, class Transform>
KLTUI_INLINE void fold_row(const typename Load::Element* row, int64_t columns, const Transform& transform,
                           Running& running) {
    ShiftedExp shifted;
    for (int64_t start = 0; start < columns; start += kBlock) {
        const int64_t count = columns - start < kBlock ? columns - start : kBlock;
        if (running.reference == kLowest) {
            const float first = block_maximum<Load>(row + start, count < kProbe ? count : kProbe, transform);
            if (first > kLowest) raise_reference(running, first);
        }
        shifted.move_to(running.reference);
        if (add_quickly<Load>(row + start, count, transform, shifted, running)) continue;
        BlockResult block = block_sum<Load>(row + start, count, transform, running.reference);
        if (block.maximum > running.reference + kSlack) {
            raise_reference(running, block.maximum);
            block = block_sum<Load>(row + start, count, transform, running.reference);
        }
        running.sum += block.sum;
    }
}

template <class Load, class Transform>
void gather_rows(const Rows& logits, const int64_t* target, LogitTransform how, float* out, int threads) {
    const Transform transform(how);
    const auto* data = static_cast<const typename Load::Element*>(logits.data);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t r = 0; r < logits.rows; ++r) {
        const auto* row = data + r * logits.row_stride;
        Running running{kLowest, 0.0};
        fold_row<Load>(row, logits.columns, transform, running);
        const double top = transform_one(transform, load_one<Load>(row + target[r]));
        const double value = top - (double)running.reference - __builtin_log(running.sum);
        out[r] = running.reference > kLowest ? (float)value : __builtin_nanf("");
    }
}

template <class Load, class Transform>
void update_rows(const Rows& tile, int64_t first, const int64_t* target, LogitTransform how, float* reference,
                 double* sum, float* target_logit, int threads) {
    const Transform transform(how);
    const auto* data = static_cast<const typename Load::Element*>(tile.data);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t r = 0; r < tile.rows; ++r) {
        const auto* row = data + r * tile.row_stride;
        Running running{reference[r], sum[r]};
        fold_row<Load>(row, tile.columns, transform, running);
        reference[r] = running.reference;
        sum[r] = running.sum;
        const int64_t column = target[r] - first;
        if (column >= 0 && column < tile.columns)
            target_logit[r] = transform_one(transform, load_one<Load>(row + column));
    }
}

template <class Transform>
void gather_dtype(const Rows& logits, const int64_t* target, LogitTransform how, float* out, int threads) {
    if (logits.dtype == Float::f32) return gather_rows<LoadF32, Transform>(logits, target, how, out, threads);
    if (logits.dtype == Float::bf16)
        return gather_rows<LoadBf16, Transform>(logits, target, how, out, threads);
    return gather_rows<LoadF16, Transform>(logits, target, how, out, threads);
}

template <class Load>
void update_transform(const Rows& tile, int64_t first, const int64_t* target, LogitTransform how,
                      float* reference, double* sum, float* target_logit, int threads) {
    if (how.softcap > 0.0f)
        update_rows<Load, Capped>(tile, first, target, how, reference, sum, target_logit, threads);
    else
        update_rows<Load, Scaled>(tile, first, target, how, reference, sum, target_logit, threads);
}

}  // namespace

void log_softmax_gather(const Rows& logits, const int64_t* target, LogitTransform how, float* out,
                        int threads) {
    if (how.softcap > 0.0f) return gather_dtype<Capped>(logits, target, how, out, threads);
    if (how.scale != 1.0f) return gather_dtype<Scaled>(logits, target, how, out, threads);
    return gather_dtype<Plain>(logits, target, how, out, threads);
}

void online_update(const Rows& tile, int64_t first, const int64_t* target, LogitTransform how,
                   float* reference, double* sum, float* target_logit, int threads) {
    if (tile.dtype == Float::f32)
        update_transform<LoadF32>(tile, first, target, how, reference, sum, target_logit, threads);
    else if (tile.dtype == Float::bf16)
        update_transform<LoadBf16>(tile, first, target, how, reference, sum, target_logit, threads);
    else
        update_transform<LoadF16>(tile, first, target, how, reference, sum, target_logit, threads);
}

}  // namespace KLTUI_ISA
}  // namespace kltui
