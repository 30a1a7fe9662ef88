// The fused head in bf16 products of the processor's tiles (AMX) with fp32 sums; compiled for AVX-512 beside
// AMX. Both operands are bf16, depth even.
//
// A tile of logits is 16 vocabulary entries by 16 rows of hidden states: weights enter the product as they
// lie, and a row's logits stand above each other in one lane, so sums need no exchange between lanes. A block
// is 2 x 2 tiles. While the tile unit multiplies one block, the vector units fold the one before: each piece
// of it waits only for its own stores. A stretch of the vocabulary is packed at a time and stays in the
// second cache while all rows pass over it. Groups of the vocabulary are fixed by its size alone and combined
// in order: any number of threads gives the same bits, and a row's do not depend on the rows beside it.
#include <omp.h>

#include "doubles.hpp"
#include "head_parts.hpp"
#include "prototypes.hpp"

namespace kltui {
namespace KLTUI_ISA {
namespace {

constexpr int64_t kTile = 16;                      // entries and rows of a tile of logits; pairs deep
constexpr int64_t kTileFloats = kTile * kTile;     // of any tile: 1 kB
constexpr int64_t kBlockFloats = 4 * kTileFloats;  // of a block's logits
constexpr int64_t kPiece = 8;                      // entries that are folded at once, of one tile
constexpr int64_t kPieces = kBlockFloats / (kPiece * kTile);
static_assert(kHeadBlock == 2 * kTile && kLanes == kTile, "blocks are two by two tiles");

// What every tile register holds: 16 rows of 64 bytes.
struct alignas(64) TileShapes {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
const TileShapes kShapes;

// Compilers do not know that a tile's load reads memory: what was written before it stays before it.
KLTUI_INLINE void finish_writes() {
    __asm__ volatile("" ::: "memory");
}

// By row of hidden states, within one group of the vocabulary.
struct RowSums {
    float* reference;
    double* sum;  // of exp(logit - reference)
    float* target_logit;
    const int32_t* target;
};

// A block of logits that is still to be folded in: four tiles, entries outside; bias of its entries.
struct Block {
    const float* products;
    const float* bias;
    int64_t entry, width;  // the first entry, and how many are left of the vocabulary from there on
    int64_t row;
};

KLTUI_INLINE void store_floats(float* p, FloatV v) {
    __builtin_memcpy(p, &v, sizeof v);
}

// Moves the sums of rows whose logits lie far above their references, and gives the references.
__attribute__((noinline)) FloatV raise_references(const RowSums& sums, int64_t row, FloatV top) {
    const FloatV before = LoadF32::full(sums.reference + row);
    const FloatV raised = top > before + kSlack ? top : before;
    const FloatV lowered = exp_of(before - raised);
    double* sum = sums.sum + row;
    store(sum, load(sum) * widen_half(lower_half(lowered)));
    store(sum + kDoubles, load(sum + kDoubles) * widen_half(upper_half(lowered)));
    store_floats(sums.reference + row, raised);
    return raised;
}

// Keeps the logits of those rows of the 16 from `row` on whose targets lie in the piece.
template <class Transform>
__attribute__((noinline)) void keep_targets(const float* products, const float* bias, int64_t first,
                                            const Transform& transform, const RowSums& sums, int64_t row) {
    for (int64_t lane = 0; lane < kTile; ++lane) {
        const int64_t entry = sums.target[row + lane] - first;
        if (entry < 0 || entry >= kPiece) continue;
        sums.target_logit[row + lane] =
            transform_one(transform, products[entry * kTile + lane] + bias[entry]);
    }
}

// Piece 0 to 7 of a block: half of a tile.
template <class Transform>
KLTUI_INLINE void fold_piece(const Block& block, int64_t piece, const Transform& transform,
                             const RowSums& sums) {
    const int64_t tile = piece / 2, down = tile / 2 * kTile + piece % 2 * kPiece;
    const int64_t width = block.width - down, row = block.row + tile % 2 * kTile;
    if (width <= 0) return;
    const float* products = block.products + piece * kPiece * kTile;
    const float* bias = block.bias + down;
    FloatV x[kPiece];
#pragma GCC unroll 8
    for (int i = 0; i < kPiece; ++i)
        x[i] = transform(LoadF32::full(products + i * kTile) + bias[i]);
    if (width < kPiece) {
#pragma GCC unroll 8
        for (int i = 0; i < kPiece; ++i)
            x[i] = i < width ? x[i] : splat(-kInfinity);
    }
    FloatV top = splat(kLowest);  // never NaN
#pragma GCC unroll 8
    for (int i = 0; i < kPiece; ++i)
        top = larger(x[i], top);
    FloatV reference = LoadF32::full(sums.reference + row);
    if (_mm512_cmp_ps_mask((__m512)top, (__m512)(reference + kSlack), _CMP_GT_OQ) != 0)
        reference = raise_references(sums, row, top);
#pragma GCC unroll 8
    for (int i = 0; i < kPiece; ++i)
        x[i] = exp_of(x[i] - reference);
    // in pairs of pairs: equal terms, which are all rounded the same way, add up exactly
    const FloatV all = ((x[0] + x[1]) + (x[2] + x[3])) + ((x[4] + x[5]) + (x[6] + x[7]));
    double* sum = sums.sum + row;
    store(sum, load(sum) + widen_half(lower_half(all)));
    store(sum + kDoubles, load(sum + kDoubles) + widen_half(upper_half(all)));
    IntV place;
    __builtin_memcpy(&place, sums.target + row, sizeof place);
    place -= (int32_t)(block.entry + down);
    if (_mm512_cmplt_epu32_mask((__m512i)place, _mm512_set1_epi32(kPiece)) != 0)
        keep_targets(products, bias, block.entry + down, transform, sums, row);
}

// Weights that are packed later, asked for into the second cache, so many lines each step.
struct Ahead {
    const char *at, *end;
    int64_t lines;

    KLTUI_INLINE_MEMBER void ask() {
        for (int64_t i = 0; i < lines && at < end; ++i, at += 64)
            __builtin_prefetch(at, 0, 2);
    }
};

// 32 vocabulary entries, where they lie or packed; bytes from one to the next, from a step along the depth to
// the next, and from 16 of them to the others.
struct Entries {
    const char* at;
    int64_t stride, step, tile;
};

// The products of 32 entries and 32 rows over the whole depth into `out`, the block before folded meanwhile.
// Each step adds 32 products, themselves summed apart, to a logit: at any depth the sums are short.
template <class Transform>
__attribute__((noinline)) void multiply_block(const Entries& weights, const float* hidden, int64_t steps,
                                              float* out, const Block& before, const Transform& transform,
                                              const RowSums& sums, Ahead& ahead) {
    const char *above = weights.at, *below = weights.at + weights.tile;
    const float* hidden_beside = hidden + steps * kTileFloats;
    constexpr int64_t kLines = kBlockFloats / kTile;  // of `out`, where stores would wait for them
    int64_t folded = before.products == nullptr ? kPieces : 0, line = 0;
    finish_writes();
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t s = 0; s < steps; ++s) {
        const int64_t at = s * kTileFloats;
        _tile_loadd(4, above + s * weights.step, weights.stride);
        _tile_loadd(6, hidden + at, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, hidden_beside + at, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, below + s * weights.step, weights.stride);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
        ahead.ask();
        for (const int64_t end = (s + 1) * kLines / steps; line < end; ++line)
            __builtin_prefetch(out + line * kTile, 1, 3);
        for (; folded < kPieces && folded * steps < (s + 1) * kPieces; ++folded)
            fold_piece(before, folded, transform, sums);
    }
    _tile_stored(0, out, 64);
    _tile_stored(1, out + kTileFloats, 64);
    _tile_stored(2, out + 2 * kTileFloats, 64);
    _tile_stored(3, out + 3 * kTileFloats, 64);
    finish_writes();
}

// 16 vocabulary entries from `first` on as [step][entry][pair], zero beyond the vocabulary and the depth.
void pack_entries(const Rows& weight, int64_t first, int64_t steps, float* out) {
    constexpr int64_t kDeep = 2 * kTile;
    const auto* from = static_cast<const uint16_t*>(weight.data) + first * weight.row_stride;
    const int64_t there = weight.rows - first < kTile ? weight.rows - first : kTile;
    for (int64_t s = 0; s < steps; ++s) {
        const int64_t left = weight.columns - s * kDeep;
        for (int64_t i = 0; i < kTile; ++i, out += kTile) {
            const uint16_t* entry = from + i * weight.row_stride + s * kDeep;
            if (i < there && left >= kDeep) {
                __builtin_memcpy(out, entry, kDeep * sizeof *entry);
                continue;
            }
            store_floats(out, FloatV{});
            if (i < there) __builtin_memcpy(out, entry, left * sizeof *entry);
        }
    }
}

// 16 rows of hidden states from `first` on as [step][pair][row], zero beyond the rows and the depth.
void pack_rows(const Rows& hidden, int64_t first, int64_t steps, float* out) {
    const Rows pairs{hidden.data, Float::f32, hidden.rows, hidden.columns / 2, hidden.row_stride / 2};
    const int64_t left = hidden.rows - first;
    pack<LoadF32, kTile>(pairs, first, left < kTile ? left : kTile, out);
    for (int64_t pair = pairs.columns; pair < steps * kTile; ++pair)
        store_floats(out + pair * kTile, FloatV{});
}

// Buffers of one thread.
struct Scratch {
    float *weights, *bias, *products;  // a stretch of packed entries, their bias, two blocks of logits

    Scratch(float* p, int64_t depth)
        : weights(p),
          bias(weights + head_stretch(depth) * head_steps(depth) * kTile),
          products(bias + head_stretch(depth)) {}
};

// Whether tiles can be loaded where the weights lie: in whole lines of the cache.
bool lies_in_lines(const Rows& weight) {
    const auto place = reinterpret_cast<uintptr_t>(weight.data);
    return place % 64 == 0 && weight.columns % 32 == 0 && weight.row_stride % 32 == 0;
}

// Makes the entries [first, first + count) and their bias ready, and gives the first 32 of them.
Entries ready_entries(const HeadWeights& head, int64_t first, int64_t count, int64_t steps,
                      const Scratch& scratch) {
    const Rows& weight = head.weight;
    for (int64_t i = 0; i < count; ++i)
        scratch.bias[i] = head.bias != nullptr && first + i < weight.rows ? head.bias[first + i] : 0.0f;
    if (lies_in_lines(weight) && first + count <= weight.rows) {
        const auto* at = static_cast<const uint16_t*>(weight.data) + first * weight.row_stride;
        return {reinterpret_cast<const char*>(at), weight.row_stride * 2, 64, weight.row_stride * 32};
    }
    for (int64_t i = 0; i < count; i += kTile)
        pack_entries(weight, first + i, steps, scratch.weights + i * steps * kTile);
    constexpr int64_t kBytes = kTileFloats * sizeof(float);
    return {reinterpret_cast<const char*>(scratch.weights), 64, kBytes, steps * kBytes};
}

// The entries [first, first + count) as they lie, to be asked for within so many steps.
Ahead ahead_of(const Rows& weight, int64_t first, int64_t count, int64_t steps) {
    const int64_t left = weight.rows - first, entries = left < count ? left : count;
    if (entries <= 0) return {nullptr, nullptr, 0};
    const int64_t bytes = entries * weight.row_stride * 2;
    const auto* at =
        reinterpret_cast<const char*>(static_cast<const uint16_t*>(weight.data) + first * weight.row_stride);
    return {at, at + bytes, ceil_div(ceil_div(bytes, 64), steps)};
}

// Folds the entries [first, end), both whole blocks, into the sums of `rows` rows, a whole number of blocks.
// Those from `next` on come after them, if these are not all.
template <class Transform>
void run_group(const float* packed_hidden, int64_t rows, const HeadWeights& head, const Transform& transform,
               int64_t first, int64_t end, int64_t next, const Scratch& scratch, const RowSums& sums) {
    const int64_t depth = head.weight.columns, steps = head_steps(depth), most = head_stretch(depth);
    for (int64_t row = 0; row < rows; ++row) {
        sums.reference[row] = kLowest;
        sums.sum[row] = 0;
    }
    for (; first < end; first += most) {
        const int64_t count = end - first < most ? end - first : most;
        Entries entries = ready_entries(head, first, count, steps, scratch);
        const char* begin = entries.at;
        const int64_t after = first + count < end ? first + count : next;
        Ahead ahead = ahead_of(head.weight, after, most, steps * (count / kHeadBlock) * (rows / kHeadBlock));
        Block before{};
        float *out = scratch.products, *other = out + kBlockFloats;
        for (int64_t row = 0; row < rows; row += kHeadBlock)
            for (int64_t i = 0; i < count; i += kHeadBlock) {
                entries.at = begin + i / kTile * entries.tile;
                multiply_block(entries, packed_hidden + row * steps * kTile, steps, out, before, transform,
                               sums, ahead);
                before = {out, scratch.bias + i, first + i, head.weight.rows - first - i, row};
                float* spare = other;
                other = out;
                out = spare;
            }
        for (int64_t piece = 0; piece < kPieces; ++piece)
            fold_piece(before, piece, transform, sums);
    }
}

// Hidden rows few enough that their packed copy and the group states stay small.
template <class Transform>
void run_chunk(const Rows& hidden, const HeadWeights& head, const int64_t* target, float* out,
               float* workspace, int threads) {
    const int64_t n = hidden.rows, depth = hidden.columns, steps = head_steps(depth);
    const int64_t rows = ceil_div(n, kHeadBlock) * kHeadBlock;
    const int64_t blocks = ceil_div(head.weight.rows, kHeadBlock);
    const int64_t groups = blocks < kHeadGroups ? blocks : kHeadGroups;
    double* sum = align_to_line(reinterpret_cast<double*>(workspace));  // groups x rows
    float* reference = reinterpret_cast<float*>(sum + groups * rows);   // groups x rows
    float* target_logit = reference + groups * rows;                    // rows
    int32_t* target_place = reinterpret_cast<int32_t*>(target_logit + rows);
    float* packed_hidden = target_logit + 2 * rows;
    float* per_thread = packed_hidden + rows * steps * kTile;
    for (int64_t row = 0; row < rows; ++row)
        target_place[row] = row < n ? (int32_t)target[row] : -1;
    const Transform transform(head.transform);
#pragma omp parallel num_threads(threads)
    {
        const Scratch scratch(per_thread + omp_get_thread_num() * head_stretch_floats(depth), depth);
        _tile_loadconfig(&kShapes);
#pragma omp for schedule(static)
        for (int64_t row = 0; row < rows; row += kTile)
            pack_rows(hidden, row, steps, packed_hidden + row * steps * kTile);
#pragma omp for schedule(dynamic)
        for (int64_t g = 0; g < groups; ++g) {
            const RowSums sums{reference + g * rows, sum + g * rows, target_logit, target_place};
            const int64_t next = (g + omp_get_num_threads()) * blocks / groups * kHeadBlock;  // most likely
            run_group(packed_hidden, rows, head, transform, g * blocks / groups * kHeadBlock,
                      (g + 1) * blocks / groups * kHeadBlock, next, scratch, sums);
        }
#pragma omp for schedule(static)
        for (int64_t row = 0; row < n; ++row)
            out[row] = combine_groups(reference, sum, groups, rows, row, target_logit[row]);
        _tile_release();
    }
}

}  // namespace

void head_logprobs_amx(const Rows& hidden, const HeadWeights& head, const int64_t* target, float* out,
                       float* workspace, int threads) {
    const int64_t chunk = head_tiles_rows(hidden.columns);
    for (int64_t first = 0; first < hidden.rows; first += chunk) {
        const int64_t count = hidden.rows - first < chunk ? hidden.rows - first : chunk;
        const auto* data = static_cast<const uint16_t*>(hidden.data) + first * hidden.row_stride;
        const Rows rows{data, hidden.dtype, count, hidden.columns, hidden.row_stride};
        if (head.transform.softcap > 0.0f)
            run_chunk<Capped>(rows, head, target + first, out + first, workspace, threads);
        else
            run_chunk<Scaled>(rows, head, target + first, out + first, workspace, threads);
    }
}

}  // namespace KLTUI_ISA
}  // namespace kltui
