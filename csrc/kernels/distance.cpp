// Squared distances between neighbouring checkpoints of one tensor, over raw bytes, each byte read once.
//
// Values are widened into a ring of band + 4 stretches that stays in cache. Of tensors up to 32 bits the
// differences and squares are fp32, and so are sums of 32 squares; those are added in fp64. The relative
// error stays below 34 * 2^-24 = 2e-6 and is some 1e-7 in practice. A tensor of 64 bits is fp64 throughout.
// The tensor is cut into segments whose number depends on its size alone, and their sums are added in order.
#include <omp.h>

#include <type_traits>

#include "doubles.hpp"
#include "prototypes.hpp"

namespace kltui {
namespace KLTUI_ISA {
namespace {

constexpr int kRows = kSqdistRows;  // checkpoints that are compared with earlier ones at once
constexpr bool kWide = kLanes == 16;
constexpr int kGroup = kWide ? 5 : 2;  // earlier ones at once: 4 x 5 sums fit 32 registers, 4 x 2 fit 16
constexpr int64_t kLine = 64;
constexpr int64_t kSquares = 32;  // that are added in the precision of the squares
// Squares of fp32 are trusted while their mean is above: far from where they lose digits.
constexpr double kSmallestMean = 0x1p-90;

// The two precisions: how many fit a vector, and what a vector of sums adds to fp64.
struct Singles {
    typedef float Value;
    typedef FloatV Vector;
    static constexpr int kCount = kLanes;
    static KLTUI_INLINE_MEMBER DoubleV folded(FloatV v) { return fold_halves(v); }
};
struct Doubles {
    typedef double Value;
    typedef DoubleV Vector;
    static constexpr int kCount = kDoubles;
    static KLTUI_INLINE_MEMBER DoubleV folded(DoubleV v) { return v; }
};

// Keeps a value in its register: the compiler would load it again for every use, and two loads a cycle are
// few.
template <class Vector>
KLTUI_INLINE void keep(Vector& v) {
#if defined(__GNUC__) && defined(__x86_64__)
    asm("" : "+v"(v));
#else
    (void)v;
#endif
}

template <class P>
KLTUI_INLINE typename P::Vector load_as(const typename P::Value* p) {
    typename P::Vector v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}

KLTUI_INLINE void store_widened(FloatV v, float* out) {
    __builtin_memcpy(out, &v, sizeof v);
}

KLTUI_INLINE void store_widened(FloatV v, double* out) {
    store(out, widen_half(lower_half(v)));
    store(out + kDoubles, widen_half(upper_half(v)));
}

template <class Load, class Value>
KLTUI_INLINE void widen_with(const void* bytes, int64_t first, int64_t count, Value* out) {
    const auto* x = static_cast<const typename Load::Element*>(bytes) + first;
    int64_t j = 0;
    for (; j + kLanes <= count; j += kLanes)
        store_widened(Load::full(x + j), out + j);
    for (; j < count; ++j)
        out[j] = load_one<Load>(x + j);
}

template <class Value>
void widen(const void* bytes, Float dtype, int64_t first, int64_t count, Value* out) {
    if (dtype == Float::f32)
        widen_with<LoadF32>(bytes, first, count, out);
    else if (dtype == Float::bf16)
        widen_with<LoadBf16>(bytes, first, count, out);
    else if (dtype == Float::f16)
        widen_with<LoadF16>(bytes, first, count, out);
    else if constexpr (sizeof(Value) == sizeof(double))
        __builtin_memcpy(out, static_cast<const double*>(bytes) + first, count * sizeof(double));
    for (int64_t j = count; j < kSqdistStretch; ++j)
        out[j] = 0;  // the same in every checkpoint: no distance
}

int64_t bytes_of(Float dtype) {
    return dtype == Float::f64 ? 8 : (dtype == Float::f32 ? 4 : 2);
}

// What of the next stretches a loop over the present one asks memory for, a line of two checkpoints for every
// line it is through: two dozen streams are too many for the processor to foresee, and a burst of requests
// would wait for itself. The lines go to the second cache, the ring fills the first. Loops that ask again for
// what was asked for are not in vain: a processor drops requests when it has too many.
struct Ahead {
    static constexpr int kCount = 2;
    const char* row[kCount];

    KLTUI_INLINE_MEMBER void at(int64_t byte) const {
#pragma GCC unroll 2
        for (int i = 0; i < kCount; ++i)
            __builtin_prefetch(row[i] + byte, 0, 2);
    }
};

// Vectors that a cache line holds, and values: before each line, more is asked for.
template <class P>
constexpr int64_t kSteps = kLine / (P::kCount * (int64_t)sizeof(typename P::Value));
template <class P>
constexpr int64_t kLineOf = kSteps<P> * P::kCount;

// The next stretches of four checkpoints, shared out among the loops in turn.
struct Next {
    const char* row[kRows];
    int turn = 0;

    Ahead take() {
        Ahead ahead;
        for (int i = 0; i < Ahead::kCount; ++i, turn = (turn + 1) % kRows)
            ahead.row[i] = row[turn];
        return ahead;
    }
};

// The values of some checkpoints: widened before, or widened and kept now, on their first way through.
template <class P>
struct Kept {
    const typename P::Value* stretch[kRows];
    KLTUI_INLINE_MEMBER typename P::Vector at(int r, int64_t j) const { return load_as<P>(stretch[r] + j); }
};
template <class Load>
struct Arriving {
    const typename Load::Element* bytes[kRows];
    float* stretch[kRows];
    KLTUI_INLINE_MEMBER FloatV at(int r, int64_t j) const {
        const FloatV v = Load::full(bytes[r] + j);
        store_widened(v, stretch[r] + j);
        return v;
    }
};

// sum[c, r] += |x[r] - before[c]|^2 over one stretch for kR x kC pairs at once; each sum is a whole vector.
// Four rows by five (or two) take a load for two (or one) pairs: the arithmetic, not the cache, sets the
// pace.
template <class P, int kR, int kC, class X>
KLTUI_INLINE void add_block(int64_t first, const X& x, const typename P::Value* const* before,
                            double* const* sum, const Ahead& ahead) {
    typename P::Vector total[kC][kR] = {};
    for (int64_t line = first; line < first + kSquares * P::kCount; line += kLineOf<P>) {
        ahead.at(line * (int64_t)sizeof(typename P::Value));
#pragma GCC unroll 4
        for (int64_t j = line; j < line + kLineOf<P>; j += P::kCount) {
            typename P::Vector here[kR];
            for (int r = 0; r < kR; ++r) {
                here[r] = x.at(r, j);
                keep(here[r]);
            }
#pragma GCC unroll 5
            for (int c = 0; c < kC; ++c) {
                const typename P::Vector there = load_as<P>(before[c] + j);
#pragma GCC unroll 4
                for (int r = 0; r < kR; ++r) {
                    const typename P::Vector difference =
                        there - here[r];  // this way round it is loaded once
                    total[c][r] += difference * difference;
                }
            }
        }
    }
#pragma GCC unroll 5
    for (int c = 0; c < kC; ++c)
#pragma GCC unroll 4
        for (int r = 0; r < kR; ++r)
            store(sum[c * kR + r], load(sum[c * kR + r]) + P::folded(total[c][r]));
}

template <class P, int kR, int kC = kGroup, class X>
void add_group(int64_t count, const X& x, const typename P::Value* const* before, double* const* sum,
               const Ahead& ahead) {
    if constexpr (kC > 1)
        if (count < kC) return add_group<P, kR, kC - 1>(count, x, before, sum, ahead);
    for (int64_t first = 0; first < kSqdistStretch; first += kSquares * P::kCount)
        add_block<P, kR, kC>(first, x, before, sum, ahead);
}

constexpr int corner_sums(bool own, int from, int to) {
    int sums = own ? kRows * (kRows - 1) / 2 : 0;
    for (int c = from; c < to; ++c)
        sums += c < kRows ? c + 1 : kRows;
    return sums;
}

// One vector of every pair of the corners.
template <class P, bool kOwn, int kFrom, int kTo>
KLTUI_INLINE void add_vectors(int64_t j, const typename P::Value* const* x,
                              const typename P::Value* const* before, typename P::Vector* total) {
    typename P::Vector here[kRows];
    for (int r = 0; r < kRows; ++r)
        if (kOwn || r < kTo) {
            here[r] = load_as<P>(x[r] + j);
            keep(here[r]);
        }
    int i = 0;
    if constexpr (kOwn)
#pragma GCC unroll 4
        for (int r = 1; r < kRows; ++r)
#pragma GCC unroll 4
            for (int c = 0; c < r; ++c, ++i)
                total[i] += (here[r] - here[c]) * (here[r] - here[c]);
#pragma GCC unroll 5
    for (int c = kFrom; c < kTo; ++c) {
        const typename P::Vector there = load_as<P>(before[c - kFrom] + j);
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r)
            if (r <= c) {
                total[i] += (there - here[r]) * (there - here[r]);
                ++i;
            }
    }
}

// Where `kOwn`, the four rows among themselves; then the earlier checkpoints kFrom .. kTo - 1 of the band,
// counted from its corner: the first against row 0, the next against rows 0 and 1, ..., from the fourth on
// against all.
template <class P, bool kOwn, int kFrom, int kTo>
void add_corners(const typename P::Value* const* x, const typename P::Value* const* before,
                 double* const* sum, const Ahead& ahead) {
    constexpr int kSums = corner_sums(kOwn, kFrom, kTo);
    for (int64_t first = 0; first < kSqdistStretch; first += kSquares * P::kCount) {
        typename P::Vector total[kSums] = {};
        for (int64_t line = first; line < first + kSquares * P::kCount; line += kLineOf<P>) {
            ahead.at(line * (int64_t)sizeof *x[0]);
#pragma GCC unroll 4
            for (int64_t j = line; j < line + kLineOf<P>; j += P::kCount)
                add_vectors<P, kOwn, kFrom, kTo>(j, x, before, total);
        }
#pragma GCC unroll 20
        for (int i = 0; i < kSums; ++i)
            store(sum[i], load(sum[i]) + P::folded(total[i]));
    }
}

// The ring of widened stretches and the sums of one segment.
template <class P>
struct Band {
    typedef typename P::Value Value;
    int64_t width;
    Value* ring;
    double *sum, *nowhere;

    Value* stretch(int64_t k) const { return ring + (k % (width + kRows)) * kSqdistSlot; }
    double* of(int64_t k, int64_t before) const {
        return before < 0 ? nowhere : sum + (before * width + (k - before - 1)) * kDoubles;
    }
};

// kC earlier checkpoints from `first` on, and where what they differ by from k .. k + kR - 1 is added.
template <int kR, class P>
struct Columns {
    const typename P::Value* before[kGroup];
    double* sum[kR * kGroup];

    Columns(const Band<P>& band, int64_t k, int64_t first, int64_t count) {
        for (int64_t c = 0; c < count; ++c) {
            before[c] = band.stretch(first + c);
            for (int r = 0; r < kR; ++r)
                sum[c * kR + r] = band.of(k + r, first + c);
        }
    }
};

// Checkpoints k .. k + kR - 1 against every one of first .. last - 1.
template <int kR, class P>
void add_rows(const Band<P>& band, int64_t k, int64_t first, int64_t last, Next& next) {
    Kept<P> x;
    for (int r = 0; r < kR; ++r)
        x.stretch[r] = band.stretch(k + r);
    while (first < last) {
        const int64_t count = last - first < kGroup ? last - first : kGroup;
        const Columns<kR, P> columns(band, k, first, count);
        add_group<P, kR>(count, x, columns.before, columns.sum, next.take());
        first += count;
    }
}

// Four arriving checkpoints from k on against the kGroup from `first` on.
template <class Load>
void add_arriving(const TensorSeries& tensors, const Band<Singles>& band, int64_t k, int64_t element,
                  int64_t first, Next& next) {
    Arriving<Load> x;
    for (int r = 0; r < kRows; ++r) {
        x.bytes[r] = static_cast<const typename Load::Element*>(tensors.data[k + r]) + element;
        x.stretch[r] = band.stretch(k + r);
    }
    const Columns<kRows, Singles> columns(band, k, first, kGroup);
    add_group<Singles, kRows>(kGroup, x, columns.before, columns.sum, next.take());
}

// The rows of four checkpoints from k on among themselves and the columns from .. to - 1, counted from the
// band's corner: 0 is the checkpoint k - width.
template <int kFrom, int kTo, bool kOwn, class P>
void add_corners_of(const Band<P>& band, int64_t k, Next& next) {
    const typename P::Value *x[kRows], *before[kTo - kFrom + 1];
    double* sum[corner_sums(kOwn, kFrom, kTo)];
    int64_t i = 0;
    for (int r = 0; r < kRows; ++r) {
        x[r] = band.stretch(k + r);
        if (kOwn)
            for (int c = 0; c < r; ++c)
                sum[i++] = band.of(k + r, k + c);
    }
    for (int c = kFrom; c < kTo; ++c) {
        const int64_t column = k - band.width + c;
        before[c - kFrom] = column < 0 ? x[0] : band.stretch(column);
        for (int r = 0; r < kRows && r <= c; ++r)
            sum[i++] = band.of(k + r, column);
    }
    add_corners<P, kOwn, kFrom, kTo>(x, before, sum, next.take());
}

int64_t at_least(int64_t a, int64_t b) {
    return a > b ? a : b;
}

// Four checkpoints from k on; the band is at least three wide. Columns that are left over beside whole groups
// go with the rows among themselves.
template <class P>
struct Four {
    int64_t k, first, beside;  // the first column of all four rows, and how many are left over
    bool corner;               // whether there are columns of some rows only

    Four(const Band<P>& band, int64_t at) : k(at) {
        const int64_t start = k - band.width;
        corner = start + 2 >= 0;  // it does not lie before the first checkpoint
        first = corner ? start + 3 : 0;
        const int64_t over = (k - first) % kGroup;
        beside = start >= 0 && over < 3 ? over : 0;
    }

    bool has_group() const { return k - first - beside >= kGroup; }

    void add(const Band<P>& band, int64_t done, Next& next) const {
        add_rows<kRows>(band, k, first + beside + done, k, next);
        if constexpr (kWide) {
            if (!corner) return add_corners_of<0, 0, true>(band, k, next);
            if (beside == 2) return add_corners_of<0, 5, true>(band, k, next);
            if (beside == 1) return add_corners_of<0, 4, true>(band, k, next);
            return add_corners_of<0, 3, true>(band, k, next);
        }
        if (beside)
            add_corners_of<3, 4, true>(band, k, next);
        else
            add_corners_of<0, 0, true>(band, k, next);
        if (corner) add_corners_of<0, 3, false>(band, k, next);
    }
};

template <class P>
void add_four(const TensorSeries& tensors, const Band<P>& band, int64_t k, int64_t element, int64_t count,
              Next& next) {
    const Four<P> four(band, k);
    const Float dtype = tensors.dtype[k];
    bool alike = std::is_same<P, Singles>::value && count == kSqdistStretch && four.has_group();
    for (int r = 1; r < kRows; ++r)
        alike = alike && tensors.dtype[k + r] == dtype;
    if constexpr (std::is_same<P, Singles>::value)
        if (alike) {
            const int64_t first = four.first + four.beside;
            if (dtype == Float::f32)
                add_arriving<LoadF32>(tensors, band, k, element, first, next);
            else if (dtype == Float::bf16)
                add_arriving<LoadBf16>(tensors, band, k, element, first, next);
            else
                add_arriving<LoadF16>(tensors, band, k, element, first, next);
            return four.add(band, kGroup, next);
        }
    for (int r = 0; r < kRows; ++r)
        widen(tensors.data[k + r], tensors.dtype[k + r], element, count, band.stretch(k + r));
    four.add(band, 0, next);
}

template <class P>
void add_stretch(const TensorSeries& tensors, const Band<P>& band, int64_t first, int64_t count) {
    for (int64_t k = 0; k < tensors.checkpoints; k += kRows) {
        const int64_t left = tensors.checkpoints - k, rows = left < kRows ? left : kRows;
        Next next;
        for (int64_t r = 0; r < kRows; ++r) {
            const int64_t row = k + (r < rows ? r : 0);
            // A stretch that begins within a line has loaded the next one's first line already.
            next.row[r] = static_cast<const char*>(tensors.data[row]) +
                          (first + kSqdistStretch) * bytes_of(tensors.dtype[row]) + kLine;
        }
        if (rows == kRows && band.width >= 3) {
            add_four(tensors, band, k, first, count, next);
            continue;
        }
        for (int64_t r = 0; r < rows; ++r) {
            widen(tensors.data[k + r], tensors.dtype[k + r], first, count, band.stretch(k + r));
            add_rows<1>(band, k + r, at_least(0, k + r - band.width), k + r, next);
        }
    }
}

template <class P>
void add_segments(const TensorSeries& tensors, int64_t band, double* partial, double* scratch, int threads) {
    const int64_t per_checkpoint = tensors.checkpoints * band;
    const int64_t segments = sqdist_segments(tensors.elements);
    const int64_t stretches = (tensors.elements + kSqdistStretch - 1) / kSqdistStretch;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t s = 0; s < segments; ++s) {
        double* sum = scratch + omp_get_thread_num() * sqdist_scratch(tensors.checkpoints, band);
        double* ring = sum + (per_checkpoint + 1) * kDoubles;
        const Band<P> here = {band, reinterpret_cast<typename P::Value*>(ring), sum,
                              sum + per_checkpoint * kDoubles};
        for (int64_t i = 0; i < per_checkpoint * kDoubles; ++i)
            sum[i] = 0.0;
        for (int64_t t = s * stretches / segments; t < (s + 1) * stretches / segments; ++t) {
            const int64_t first = t * kSqdistStretch, left = tensors.elements - first;
            add_stretch(tensors, here, first, left < kSqdistStretch ? left : kSqdistStretch);
        }
        for (int64_t i = 0; i < per_checkpoint; ++i)
            partial[s * per_checkpoint + i] = sum_lanes(load(sum + i * kDoubles));
    }
}

template <class P>
void sum_segments(const TensorSeries& tensors, int64_t band, double* out, double* workspace, int threads) {
    const int64_t per_checkpoint = tensors.checkpoints * band;
    const int64_t segments = sqdist_segments(tensors.elements);
    double* partial = workspace;  // segments x K x band
    // per thread a ring and K x band vectors, on a cache line's start: a vector across two lines costs two
    // loads
    double* scratch = align_to_line(workspace + segments * per_checkpoint);
    add_segments<P>(tensors, band, partial, scratch, threads);
    for (int64_t i = 0; i < per_checkpoint; ++i) {
        out[i] = 0.0;
        for (int64_t s = 0; s < segments; ++s)
            out[i] += partial[s * per_checkpoint + i];
    }
}

bool fits_singles(const TensorSeries& tensors) {
    for (int64_t k = 0; k < tensors.checkpoints; ++k)
        if (tensors.dtype[k] == Float::f64) return false;
    return true;
}

// Whether squares may have overflowed, vanished or lost digits below the smallest normal number.
bool is_doubtful(const double* sum, int64_t checkpoints, int64_t band, int64_t elements) {
    const double least = kSmallestMean * (double)elements;
    for (int64_t k = 0; k < checkpoints; ++k)
        for (int64_t d = 1; d <= band && k + d < checkpoints; ++d) {
            const double s = sum[k * band + d - 1];
            if (!(s >= least && s - s == 0)) return true;
        }
    return false;
}

}  // namespace

void banded_sqdist(const TensorSeries& tensors, int64_t band, double* out, double* workspace, int threads) {
    if (fits_singles(tensors)) {
        sum_segments<Singles>(tensors, band, out, workspace, threads);
        if (!is_doubtful(out, tensors.checkpoints, band, tensors.elements)) return;
    }
    sum_segments<Doubles>(tensors, band, out, workspace, threads);
}

}  // namespace KLTUI_ISA
}  // namespace kltui
