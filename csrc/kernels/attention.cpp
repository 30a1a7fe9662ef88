// Causal attention of one batch: softmax(scale q k^T) v, every position seeing itself and what is before it.
//
// One thread takes one head of one text: keys are packed transposed, values widened, and blocks of kQueries
// rows pass over them in register tiles; their scores stay in the first cache. What a row gets depends on its
// own prefix alone: padding, batch and number of threads do not change a bit. (A value that is not finite,
// times a weight of 0, is NaN in its block of queries.)
#include <omp.h>

#include "elementary.hpp"
#include "prototypes.hpp"
#include "transpose.hpp"

namespace kltui {
namespace KLTUI_ISA {
namespace {

constexpr int kQueries = 6;
constexpr int kWide = kLanes == 16 ? 4 : 2;  // vectors across: 6 x 4 sums fit 32 registers, 6 x 2 fit 16
constexpr int64_t kPanel = kWide * kLanes;
static_assert(kQueries == kAttentionQueries && kPanel <= kAttentionPanel, "workspace is sized by these");

KLTUI_INLINE int64_t rounded_up(int64_t n) {
    return (n + kPanel - 1) / kPanel * kPanel;
}

// Between rows of keys or scores: a line more, so that rows of 256 do not fall on the same places of a cache.
KLTUI_INLINE int64_t text_pitch(const AttentionShape& s) {
    return rounded_up(s.length) + kAttentionLine;
}

KLTUI_INLINE void store_floats(float* p, FloatV v) {
    __builtin_memcpy(p, &v, sizeof v);
}

// Scratch of one thread.
struct Scratch {
    float *keys, *values, *queries, *scores;  // depth x T, T x width, kQueries x depth, kQueries x T; padded

    Scratch(float* p, const AttentionShape& s)
        : keys(p),
          values(keys + s.depth * text_pitch(s)),
          queries(values + s.length * rounded_up(s.width)),
          scores(queries + s.depth * kQueries) {}
};

// Keys as depth x T: squares are turned in registers.
template <class Load>
void pack_keys(const typename Load::Element* k, int64_t stride, const AttentionShape& s, float* out) {
    const int64_t pitch = text_pitch(s), length = rounded_up(s.length);
    for (int64_t t = 0; t < length; t += kLanes)
        for (int64_t d = 0; d < s.depth; d += kLanes) {
            const int64_t units = s.depth - d < kLanes ? s.depth - d : kLanes;
            FloatV v[kLanes];
            for (int64_t i = 0; i < kLanes; ++i) {
                const auto* p = k + (t + i) * stride + d;
                if (t + i >= s.length)
                    v[i] = FloatV{};
                else
                    v[i] = units == kLanes ? Load::full(p) : load_partial<Load>(p, units, 0.0f);
            }
            transpose(v);
            for (int64_t u = 0; u < units; ++u)
                store_floats(out + (d + u) * pitch + t, v[u]);
        }
}

template <class Load>
void pack_values(const typename Load::Element* v, int64_t stride, const AttentionShape& s, float* out) {
    const int64_t pitch = rounded_up(s.width);
    for (int64_t t = 0; t < s.length; ++t) {
        const auto* p = v + t * stride;
        for (int64_t d = 0; d < pitch; d += kLanes) {
            const int64_t left = s.width - d;
            FloatV row = {};
            if (left >= kLanes)
                row = Load::full(p + d);
            else if (left > 0)
                row = load_partial<Load>(p + d, left, 0.0f);
            store_floats(out + t * pitch + d, row);
        }
    }
}

// The queries of a block; rows beyond the last are zero.
template <class Load>
void pack_queries(const typename Load::Element* q, int64_t stride, int64_t count, const AttentionShape& s,
                  float* out) {
    for (int64_t r = 0; r < kQueries; ++r, q += stride) {
        float* row = out + r * s.depth;
        int64_t d = 0;
        for (; d + kLanes <= s.depth; d += kLanes)
            store_floats(row + d, r < count ? Load::full(q + d) : FloatV{});
        for (; d < s.depth; ++d)
            row[d] = r < count ? load_one<Load>(q + d) : 0.0f;
    }
}

// acc[r][w] += left[r][u] * right[u][w] over `units`; the sides have rows of `stride` and `pitch`.
KLTUI_INLINE void multiply(const float* left, int64_t stride, const float* right, int64_t pitch,
                           int64_t units, FloatV (&acc)[kQueries][kWide]) {
    for (int64_t u = 0; u < units; ++u, ++left, right += pitch) {
        FloatV across[kWide];
#pragma GCC unroll 4
        for (int w = 0; w < kWide; ++w)
            across[w] = LoadF32::full(right + w * kLanes);
#pragma GCC unroll 6
        for (int r = 0; r < kQueries; ++r) {
            const FloatV down = splat(left[r * stride]);
#pragma GCC unroll 4
            for (int w = 0; w < kWide; ++w)
                acc[r][w] += down * across[w];
        }
    }
}

// Scores of a block against the first `keys` keys, rounded up to whole panels.
void score_block(const Scratch& scratch, int64_t keys, const AttentionShape& s) {
    const int64_t pitch = text_pitch(s);
    for (int64_t t = 0; t < keys; t += kPanel) {
        FloatV acc[kQueries][kWide] = {};
        multiply(scratch.queries, s.depth, scratch.keys + t, pitch, s.depth, acc);
        for (int r = 0; r < kQueries; ++r)
            for (int w = 0; w < kWide; ++w)
                store_floats(scratch.scores + r * pitch + t + w * kLanes, acc[r][w] * s.scale);
    }
}

// exp(score - largest) of the first `count` scores, zero up to `end`; one over their sum comes back.
float soften(float* row, int64_t count, int64_t end) {
    for (int64_t j = count; j < end; ++j)
        row[j] = -kInfinity;
    FloatV best = splat(-kInfinity);
    for (int64_t j = 0; j < count; j += kLanes)
        best = larger(best, LoadF32::full(row + j));
    const float top = largest_lane(best);
    FloatV sum = {};
    for (int64_t j = 0; j < count; j += kLanes) {
        const FloatV e = exp_of(LoadF32::full(row + j) - top);
        store_floats(row + j, e);
        sum += e;
    }
    for (int64_t j = count; j < end; ++j)
        row[j] = 0.0f;
    return (float)(1.0 / sum_lanes(sum));
}

KLTUI_INLINE void write_row(float* out, FloatV v, int64_t count) {
    if (count >= kLanes) return store_floats(out, v);
    for (int64_t i = 0; i < count; ++i)
        out[i] = v[i];
}

// Rounded to nearest, ties to even; NaN stays NaN.
KLTUI_INLINE void write_row(uint16_t* out, FloatV v, int64_t count) {
    const UintV bits = (UintV)v;
    const UintV rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const UintV kept = v == v ? rounded : (bits >> 16) | 0x40u;
    const ShortV half = __builtin_convertvector(kept, ShortV);
    __builtin_memcpy(out, &half, (count < kLanes ? count : kLanes) * sizeof(uint16_t));
}

// The block's rows of the result, `stride` apart.
template <class Element>
void mix_block(const Scratch& scratch, int64_t keys, const float (&share)[kQueries], int64_t count,
               const AttentionShape& s, Element* out, int64_t stride) {
    const int64_t pitch = rounded_up(s.width), score_pitch = text_pitch(s);
    for (int64_t d = 0; d < s.width; d += kPanel) {
        FloatV acc[kQueries][kWide] = {};
        multiply(scratch.scores, score_pitch, scratch.values + d, pitch, keys, acc);
        for (int64_t r = 0; r < count; ++r)
            for (int64_t w = 0; w < kWide && d + w * kLanes < s.width; ++w)
                write_row(out + r * stride + d + w * kLanes, acc[r][w] * share[r], s.width - d - w * kLanes);
    }
}

template <class Load>
void attend_head(const AttentionHead& head, const AttentionShape& s, float* workspace) {
    typedef typename Load::Element Element;
    const Scratch scratch(workspace, s);
    pack_keys<Load>(static_cast<const Element*>(head.key), s.key_stride, s, scratch.keys);
    pack_values<Load>(static_cast<const Element*>(head.value), s.value_stride, s, scratch.values);
    const auto* q = static_cast<const Element*>(head.query);
    auto* out = static_cast<Element*>(head.out);
    for (int64_t first = 0; first < s.length; first += kQueries) {
        const int64_t count = s.length - first < kQueries ? s.length - first : kQueries;
        const int64_t keys = first + count;
        pack_queries<Load>(q + first * s.query_stride, s.query_stride, count, s, scratch.queries);
        score_block(scratch, keys, s);
        float share[kQueries] = {};
        for (int64_t r = 0; r < count; ++r)
            share[r] = soften(scratch.scores + r * text_pitch(s), first + r + 1, rounded_up(keys));
        mix_block(scratch, keys, share, count, s, out + first * s.out_stride, s.out_stride);
    }
}

}  // namespace

void causal_attention(const AttentionHead* heads, int64_t count, const AttentionShape& shape, Float dtype,
                      float* workspace, int threads) {
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t h = 0; h < count; ++h) {
        float* mine = workspace + omp_get_thread_num() * attention_workspace(shape);
        if (dtype == Float::bf16)
            attend_head<LoadBf16>(heads[h], shape, mine);
        else
            attend_head<LoadF32>(heads[h], shape, mine);
    }
}

}  // namespace KLTUI_ISA
}  // namespace kltui
