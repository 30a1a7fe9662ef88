// What every instruction set offers: plain structs in, plain buffers out, no Python and no allocation by
// callers' hand.
//
// Each file of csrc/kernels is compiled once per instruction set into its own namespace; `Kernels` is the
// table of one of them, and `active_kernels()` (isa.hpp) the one chosen when the library is loaded.
#pragma once

#include <cstdint>

namespace kltui {

enum class Float : int { f32 = 0, f16 = 1, bf16 = 2, f64 = 3 };

// A matrix of rows that are contiguous; `row_stride` counts elements.
struct Rows {
    const void* data;
    Float dtype;
    int64_t rows;
    int64_t columns;
    int64_t row_stride;
};

// What a model does to its logits: softcap * tanh(scale * x / softcap); softcap 0 means none.
struct LogitTransform {
    float scale;
    float softcap;
};

// One tensor of K checkpoints as raw bytes, in the order of their steps.
struct TensorSeries {
    const void* const* data;
    const Float* dtype;
    int64_t checkpoints;
    int64_t elements;
};

// An output projection: `weight` is V x D with contiguous rows, `bias` V or null.
struct HeadWeights {
    Rows weight;
    const float* bias;
    LogitTransform transform;
};

// Where the two-row KL leaves its results, one value per row.
struct KlRows {
    double* forward;
    double* reverse;
    uint8_t* same_top;
};

// Causal attention of one batch: T positions, `depth` of query and key, `width` of a value; strides between
// positions count elements.
struct AttentionShape {
    int64_t length, depth, width;
    int64_t query_stride, key_stride, value_stride, out_stride;
    float scale;
};

// One head of one text: where its first position lies.
struct AttentionHead {
    const void *query, *key, *value;
    void* out;
};

// Of many values: how many lie below a bottom, and how many neither below it nor above a top, NaN among them.
struct Split {
    int64_t below, inside;
};

struct Kernels {
    const char* name;
    // out[r] = log softmax(transform(logits[r]))[target[r]]
    void (*log_softmax_gather)(const Rows& logits, const int64_t* target, LogitTransform how, float* out,
                               int threads);
    // Folds a tile of logits, vocabulary entries [first, first + columns), into running rows: sum of
    // exp(transform(x) - reference), and the target's logit where the tile holds it. A fresh row starts at
    // reference -FLT_MAX and sum 0.
    void (*online_update)(const Rows& tile, int64_t first, const int64_t* target, LogitTransform how,
                          float* reference, double* sum, float* target_logit, int threads);
    // out = max(x, floor) - row mean - column mean + grand mean, means over texts weighted where `weight` is
    // given. `workspace` holds double_centre_workspace(rows, columns) doubles; `out` may be `x`.
    void (*double_centre)(const double* x, int64_t rows, int64_t columns, const double* weight, double floor,
                          double* out, double* workspace, int threads);
    // `inside` has room for all `count` values, though only as much of it is touched as is needed; those
    // inside come first in it, in their order.
    Split (*split_values)(const double* x, int64_t count, double bottom, double top, double* inside,
                          int threads);
    // out[k * band + d - 1] = |tensor k+d - tensor k|^2, 0 where k + d is beyond the last. `workspace` holds
    // sqdist_workspace(...) doubles.
    void (*banded_sqdist)(const TensorSeries& tensors, int64_t band, double* out, double* workspace,
                          int threads);
    // out[r] = log softmax(transform(hidden[r] weight^T + bias))[target[r]], fp32 products and sums.
    // `workspace` holds head_workspace(...) floats, aligned for double.
    void (*head_logprobs)(const Rows& hidden, const HeadWeights& head, const int64_t* target, float* out,
                          float* workspace, int threads);
    // The same from bf16 products with fp32 sums; both operands bf16 with an even depth and stride, fewer
    // than 2^31 entries. Null where the instruction set has none; callers also ask cpu_has_bf16_products().
    void (*head_logprobs_bf16)(const Rows& hidden, const HeadWeights& head, const int64_t* target, float* out,
                               float* workspace, int threads);
    // Per row: KL(p || q) and KL(q || p) of the softmax of two rows of logits in nats, and whether their
    // maxima stand at the same index. p and q have the same shape and dtype.
    void (*kl_rows)(const Rows& p, const Rows& q, const KlRows& out, int threads);
    // out = softmax(scale * q k^T, causal) v of every head, all float32 or all bf16, sums in fp32.
    // `workspace` holds threads * attention_workspace(shape) floats.
    void (*causal_attention)(const AttentionHead* heads, int64_t count, const AttentionShape& shape,
                             Float dtype, float* workspace, int threads);
};

constexpr int64_t kAttentionQueries = 6, kAttentionPanel = 64, kAttentionLine = 16;
constexpr int64_t attention_padded(int64_t n) {
    return (n + kAttentionPanel - 1) / kAttentionPanel * kAttentionPanel;
}
// Floats that one thread needs: keys, values, a block of queries and its scores.
constexpr int64_t attention_workspace(const AttentionShape& s) {
    const int64_t pitch = attention_padded(s.length) + kAttentionLine;
    return s.depth * pitch + s.length * attention_padded(s.width) + kAttentionQueries * (s.depth + pitch);
}

// The sums of banded_sqdist are cut into segments by the tensor's size alone, never by the number of threads.
constexpr int64_t kSqdistStretch = 512;               // elements
constexpr int64_t kSqdistSlot = kSqdistStretch + 24;  // so that stretches do not share the same cache sets
constexpr int64_t kSqdistRows = 4;  // checkpoints that are compared with earlier ones at once
// Doubles that one thread needs: the ring, checkpoints x band vectors of sums, and one for what is thrown
// away.
constexpr int64_t sqdist_scratch(int64_t checkpoints, int64_t band) {
    return (band + kSqdistRows) * kSqdistSlot + (checkpoints * band + 1) * 8;
}
constexpr int64_t sqdist_segments(int64_t elements) {
    const int64_t stretches = (elements + kSqdistStretch - 1) / kSqdistStretch;
    return stretches < 128 ? stretches : 128;
}
constexpr int64_t sqdist_workspace(int64_t elements, int64_t checkpoints, int64_t band, int64_t threads) {
    return sqdist_segments(elements) * checkpoints * band + threads * sqdist_scratch(checkpoints, band) + 8;
}

constexpr int64_t kCentreColumns = 1024;  // a block's sums, 8 kB, stay in the first cache
constexpr int64_t double_centre_workspace(int64_t rows, int64_t columns) {
    return columns + rows * ((columns + kCentreColumns - 1) / kCentreColumns + 1);
}

// The fused head: largest register tile of any instruction set, groups of panels, rows held packed at a time
// (8 MB).
constexpr int64_t kHeadPanel = 32;
constexpr int64_t kHeadRows = 12;
constexpr int64_t kHeadGroups = 64;
constexpr int64_t head_chunk_rows(int64_t depth) {
    const int64_t rows = (int64_t{1} << 21) / (depth > 0 ? depth : 1) / kHeadRows * kHeadRows;
    return rows < 96 ? 96 : (rows > 4092 ? 4092 : rows);
}

// Where tiles multiply: blocks of 32 entries and rows, steps of 32 along the depth. The second cache holds as
// many rows as 1 MB packed, and beside them a stretch of entries (128 kB) and the next one as it lies.
constexpr int64_t kHeadBlock = 32;
constexpr int64_t head_steps(int64_t depth) {
    return (depth + 31) / 32;
}
constexpr int64_t head_whole_blocks(int64_t kilobytes, int64_t depth) {
    const int64_t blocks = depth > 0 ? kilobytes / (2 * head_steps(depth)) : kilobytes;
    return (blocks > 0 ? blocks : 1) * kHeadBlock;
}
constexpr int64_t head_stretch(int64_t depth) {
    return head_whole_blocks(128, depth);
}
constexpr int64_t head_tiles_rows(int64_t depth) {
    return head_whole_blocks(depth > 0 ? 1024 : 64, depth);
}
// Floats that one thread needs: a stretch with its bias, and two blocks of logits.
constexpr int64_t head_stretch_floats(int64_t depth) {
    return head_stretch(depth) * (head_steps(depth) * 16 + 1) + 2 * kHeadBlock * kHeadBlock;
}
constexpr int64_t head_tiles_workspace(int64_t rows, int64_t depth, int64_t threads) {
    const int64_t whole = (rows + kHeadBlock - 1) / kHeadBlock * kHeadBlock;
    const int64_t n = whole < head_tiles_rows(depth) ? whole : head_tiles_rows(depth);
    return 16 + n * (3 * kHeadGroups + 2 + head_steps(depth) * 16) + threads * head_stretch_floats(depth);
}

// Floats for either way.
constexpr int64_t head_workspace(int64_t rows, int64_t depth, int64_t threads) {
    const int64_t n = rows < head_chunk_rows(depth) ? rows : head_chunk_rows(depth);
    const int64_t tiles = head_tiles_workspace(rows, depth, threads);
    const int64_t plain =
        n * (3 * kHeadGroups + 1) + (n + kHeadRows) * depth + threads * (n * 2 * 16 + depth * kHeadPanel);
    return tiles > plain ? tiles : plain;
}

}  // namespace kltui
