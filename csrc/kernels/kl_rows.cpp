// Exact KL divergence between the next-token distributions of two rows of logits, both ways, and whether
// their tops agree.
//
// Two passes: maxima, then sums over the row that is in cache by now. With u = p - max p and v = q - max q,
// KL(p || q) = sum e^u (u - v) / sum e^u - log sum e^u + log sum e^v. Sums per lane over a short run in
// fp32 (equal terms are all rounded the same way), of runs in fp64. A run that holds an entry too far below
// the top for fp32's e^u is taken again with care.
#include "elementary.hpp"
#include "prototypes.hpp"

namespace kltui {
namespace KLTUI_ISA {
namespace {

constexpr int64_t kBlock = 2048;
constexpr int64_t kRun = 8 * kLanes;
constexpr float kFarthest = -87.0f;  // exp_of goes no lower
constexpr float kNever = -745.0f;

struct Top {
    float value;
    int64_t index;
};

template <class Load>
KLTUI_INLINE FloatV load_up_to(const typename Load::Element* x, int64_t left) {
    return left >= kLanes ? Load::full(x) : load_partial<Load>(x, left, -kInfinity);
}

// The largest entry and the first place where it stands; index -1 for a row without any above -inf.
template <class Load>
Top find_top(const typename Load::Element* x, int64_t columns) {
    Top top{-kInfinity, -1};
    for (int64_t start = 0; start < columns; start += kBlock) {
        const int64_t end = start + kBlock < columns ? start + kBlock : columns;
        FloatV best = splat(-kInfinity);
        for (int64_t j = start; j < end; j += kLanes)
            best = larger(load_up_to<Load>(x + j, end - j), best);
        const float here = largest_lane(best);
        if (here > top.value) top = {here, start};
    }
    if (top.index < 0) return top;
    while (load_one<Load>(x + top.index) != top.value)
        ++top.index;
    return top;
}

struct Sums {
    DoubleV p, q, forward, reverse;
};

// e^x * difference for any x <= 0 and a difference of any size. Below -745, where e^x is 0 even in fp64, it
// is 0: a token without probability adds nothing, however far the other row holds it.
KLTUI_INLINE FloatV far_term(FloatV x, FloatV difference) {
    const FloatV half = exp_of(x * 0.5f);  // e^x itself would not go below e^-87
    const FloatV term = half * (half * difference);
    return x <= kNever ? FloatV{} : term;
}

// Adds a run; whether it could: not where an entry lies further below the top than exp_of reaches (kFar can).
template <class Load, bool kFar>
KLTUI_INLINE bool add_run(const typename Load::Element* p, const typename Load::Element* q, int64_t count,
                          float top_p, float top_q, Sums& sums) {
    FloatV sum_p = {}, sum_q = {}, forward = {}, reverse = {}, lowest = {};
    for (int64_t j = 0; j < count; j += kLanes) {
        const FloatV u = load_up_to<Load>(p + j, count - j) - top_p;
        const FloatV v = load_up_to<Load>(q + j, count - j) - top_q;
        const FloatV weight_u = exp_of(u), weight_v = exp_of(v);
        sum_p += weight_u;
        sum_q += weight_v;
        const FloatV term_u = weight_u * (u - v), term_v = weight_v * (v - u);
        if (kFar) {  // one by one: logits of -FLT_MAX make terms of which fp32 holds no two
            sums.forward += fold_halves(u > kFarthest ? term_u : far_term(u, u - v));
            sums.reverse += fold_halves(v > kFarthest ? term_v : far_term(v, v - u));
        } else {
            forward += term_u;
            reverse += term_v;
            lowest = smaller(smaller(u, v), lowest);
        }
    }
    if (!kFar && largest_lane(-lowest) >= -kFarthest) return false;
    sums.p += fold_halves(sum_p);
    sums.q += fold_halves(sum_q);
    sums.forward += fold_halves(forward);
    sums.reverse += fold_halves(reverse);
    return true;
}

template <class Load>
void kl_of_rows(const Rows& p, const Rows& q, const KlRows& out, int threads) {
    const auto* data_p = static_cast<const typename Load::Element*>(p.data);
    const auto* data_q = static_cast<const typename Load::Element*>(q.data);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t r = 0; r < p.rows; ++r) {
        const auto* row_p = data_p + r * p.row_stride;
        const auto* row_q = data_q + r * q.row_stride;
        const Top top_p = find_top<Load>(row_p, p.columns), top_q = find_top<Load>(row_q, p.columns);
        Sums sums{};
        for (int64_t start = 0; start < p.columns; start += kRun) {
            const int64_t left = p.columns - start, count = left < kRun ? left : kRun;
            const auto *run_p = row_p + start, *run_q = row_q + start;
            if (!add_run<Load, false>(run_p, run_q, count, top_p.value, top_q.value, sums))
                add_run<Load, true>(run_p, run_q, count, top_p.value, top_q.value, sums);
        }
        const double sum_p = sum_lanes(sums.p), sum_q = sum_lanes(sums.q);
        const double shift = __builtin_log(sum_p) - __builtin_log(sum_q);
        const bool defined = top_p.index >= 0 && top_q.index >= 0;
        out.forward[r] = defined ? sum_lanes(sums.forward) / sum_p - shift : __builtin_nan("");
        out.reverse[r] = defined ? sum_lanes(sums.reverse) / sum_q + shift : __builtin_nan("");
        out.same_top[r] = defined && shift == shift && top_p.index == top_q.index;
    }
}

}  // namespace

void kl_rows(const Rows& p, const Rows& q, const KlRows& out, int threads) {
    if (p.dtype == Float::f32) return kl_of_rows<LoadF32>(p, q, out, threads);
    if (p.dtype == Float::bf16) return kl_of_rows<LoadBf16>(p, q, out, threads);
    kl_of_rows<LoadF16>(p, q, out, threads);
}

}  // namespace KLTUI_ISA
}  // namespace kltui
