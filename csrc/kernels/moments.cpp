// Second and fourth central moments of the differences of all pairs of rows.
//
// Rows are shifted to mean zero first, which changes no central moment and spares the differences their mean.
// Pairs are taken 2 x 2 within tiles of rows that stay in cache; a pair with a missing value is taken by
// itself in two passes.
#include "doubles.hpp"
#include "prototypes.hpp"

namespace kltui {
namespace KLTUI_ISA {
namespace {

constexpr int64_t kTile = 32;      // rows
constexpr int64_t kColumns = 512;  // columns at a time

struct Tile {
    double second[kTile][kTile];
    double fourth[kTile][kTile];
};

KLTUI_INLINE bool is_finite(double x) {
    return x - x == 0.0;
}

// Copies a row less its mean over finite entries; the others become NaN. True where all are finite.
bool centre_row(const double* x, int64_t columns, double* out) {
    double sum = 0;
    int64_t finite = 0;
    for (int64_t j = 0; j < columns; ++j)
        if (is_finite(x[j])) {
            sum += x[j];
            ++finite;
        }
    const double mean = finite > 0 ? sum / (double)finite : 0.0;
    for (int64_t j = 0; j < columns; ++j)
        out[j] = is_finite(x[j]) ? x[j] - mean : __builtin_nan("");
    return finite == columns;
}

KLTUI_INLINE void add_powers(DoubleV difference, DoubleV& second, DoubleV& fourth) {
    const DoubleV square = difference * difference;
    second += square;
    fourth += square * square;
}

// Adds the powers of rows a0, a1 less rows b0, b1 over `count` columns (missing lanes of the tail are 0 in
// all).
KLTUI_INLINE void add_pairs(const double* const a[2], const double* const b[2], int64_t count,
                            double* second[4], double* fourth[4]) {
    DoubleV s[4] = {}, f[4] = {};
    for (int64_t j = 0; j < count; j += kDoubles) {
        const bool whole = j + kDoubles <= count;
        DoubleV x[2], y[2];
        for (int r = 0; r < 2; ++r) {
            x[r] = whole ? load(a[r] + j) : load_partial(a[r] + j, count - j, 0.0);
            y[r] = whole ? load(b[r] + j) : load_partial(b[r] + j, count - j, 0.0);
        }
#pragma GCC unroll 4
        for (int p = 0; p < 4; ++p)
            add_powers(x[p / 2] - y[p % 2], s[p], f[p]);
    }
    for (int p = 0; p < 4; ++p) {
        *second[p] += sum_lanes(s[p]);
        *fourth[p] += sum_lanes(f[p]);
    }
}

int64_t within(int64_t row, int64_t rows) {
    return row < rows ? row : rows - 1;
}

// Sums over all columns of one tile of pairs; an odd last row is taken twice and its copy ignored.
void sum_tile(const double* x, int64_t rows, int64_t columns, int64_t i0, int64_t j0, Tile& tile) {
    double spare[2];
    for (int64_t start = 0; start < columns; start += kColumns) {
        const int64_t count = columns - start < kColumns ? columns - start : kColumns;
        for (int64_t i = i0; i < i0 + kTile && i < rows; i += 2)
            for (int64_t j = j0; j < j0 + kTile && j < rows; j += 2) {
                if (j + 1 < i) continue;
                const double* const a[2] = {x + i * columns + start,
                                            x + within(i + 1, rows) * columns + start};
                const double* const b[2] = {x + j * columns + start,
                                            x + within(j + 1, rows) * columns + start};
                double *second[4], *fourth[4];
                for (int p = 0; p < 4; ++p) {
                    const bool real = i + p / 2 < rows && j + p % 2 < rows;
                    second[p] = real ? &tile.second[i - i0 + p / 2][j - j0 + p % 2] : &spare[0];
                    fourth[p] = real ? &tile.fourth[i - i0 + p / 2][j - j0 + p % 2] : &spare[1];
                }
                spare[0] = spare[1] = 0.0;
                add_pairs(a, b, count, second, fourth);
            }
    }
}

struct PairMoments {
    double count, second, fourth;
};

PairMoments masked_pair(const double* a, const double* b, int64_t columns) {
    double count = 0, sum = 0, second = 0, fourth = 0;
    for (int64_t j = 0; j < columns; ++j) {
        const double d = a[j] - b[j];
        if (d == d) {
            count += 1;
            sum += d;
        }
    }
    const double mean = sum / count;
    for (int64_t j = 0; j < columns; ++j) {
        const double d = a[j] - b[j] - mean;
        if (d == d) {
            second += d * d;
            fourth += d * d * d * d;
        }
    }
    return {count, second / count, fourth / count};
}

}  // namespace

void difference_moments(const double* x, int64_t rows, int64_t columns, double* centred, double* count,
                        double* second, double* fourth, int threads) {
    double* whole = centred + rows * columns;  // 1 for rows without gaps
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < rows; ++i)
        whole[i] = centre_row(x + i * columns, columns, centred + i * columns) ? 1.0 : 0.0;
    const int64_t tiles = (rows + kTile - 1) / kTile;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t t = 0; t < tiles * tiles; ++t) {
        const int64_t i0 = t / tiles * kTile, j0 = t % tiles * kTile;
        if (j0 < i0) continue;
        Tile tile = {};
        sum_tile(centred, rows, columns, i0, j0, tile);
        for (int64_t i = i0; i < i0 + kTile && i < rows; ++i)
            for (int64_t j = j0 > i ? j0 : i; j < j0 + kTile && j < rows; ++j) {
                const double n = (double)columns;
                PairMoments m = {n, tile.second[i - i0][j - j0] / n, tile.fourth[i - i0][j - j0] / n};
                if (whole[i] == 0.0 || whole[j] == 0.0)
                    m = masked_pair(centred + i * columns, centred + j * columns, columns);
                count[i * rows + j] = count[j * rows + i] = m.count;
                second[i * rows + j] = second[j * rows + i] = m.second;
                fourth[i * rows + j] = fourth[j * rows + i] = m.fourth;
            }
    }
}

}  // namespace KLTUI_ISA
}  // namespace kltui
