// The values around a quantile, taken out in one pass over all.
//
// Nearly all vectors lie wholly outside and are only counted. Pieces are looked at side by side and put
// together in order.
#include <cstring>

#include "doubles.hpp"
#include "prototypes.hpp"

namespace kltui {
namespace KLTUI_ISA {
namespace {

constexpr int64_t kPiece = 1 << 16;
typedef decltype(DoubleV{} < DoubleV{}) MaskV;

KLTUI_INLINE bool all_of(MaskV mask) {
#if defined(__AVX512F__)
    return _mm512_movepi64_mask((__m512i)mask) == 0xff;
#elif defined(__AVX2__)
    return _mm256_movemask_pd((__m256d)mask) == 0xf;
#else
    bool all = true;
    for (int i = 0; i < kDoubles; ++i)
        all &= mask[i] != 0;
    return all;
#endif
}

// Keeps one value by chance: it is written, and the place moves on behind it only if it is inside.
KLTUI_INLINE void take(double v, double bottom, double top, double* inside, Split& found) {
    const bool is_below = v<bottom, is_above = v> top;
    inside[found.inside] = v;
    found.inside += !(is_below | is_above);
    found.below += is_below;
}

Split split_piece(const double* x, int64_t count, double bottom, double top, double* inside) {
    Split found{0, 0};
    MaskV below = {};
    int64_t j = 0;
    for (; j + kDoubles <= count; j += kDoubles) {
        prefetch_once<sizeof(DoubleV)>(x + j);
        const DoubleV v = load(x + j);
        const MaskV low = v < bottom;
        if (__builtin_expect(all_of(low | (v > top)), 1))
            below -= low;
        else
            for (int i = 0; i < kDoubles; ++i)
                take(x[j + i], bottom, top, inside, found);
    }
    for (; j < count; ++j)
        take(x[j], bottom, top, inside, found);
    for (int i = 0; i < kDoubles; ++i)
        found.below += below[i];
    return found;
}

}  // namespace

Split split_values(const double* x, int64_t count, double bottom, double top, double* inside, int threads) {
    const int64_t pieces = (count + kPiece - 1) / kPiece;
    Split all{0, 0};
#pragma omp parallel for num_threads(threads) schedule(static, 1) ordered
    for (int64_t p = 0; p < pieces; ++p) {
        const int64_t first = p * kPiece, here = count - first < kPiece ? count - first : kPiece;
        const Split found = split_piece(x + first, here, bottom, top, inside + first);
#pragma omp ordered
        {
            // What is inside moves to the left only, over places of pieces that are done.
            std::memmove(inside + all.inside, inside + first, found.inside * sizeof *inside);
            all.inside += found.inside;
            all.below += found.below;
        }
    }
    return all;
}

}  // namespace KLTUI_ISA
}  // namespace kltui
