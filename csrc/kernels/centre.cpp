// Double centring of K x N in two passes over the matrix, optionally clipped from below.
//
// Columns are cut into fixed blocks; a block's column sums run over the rows in order, and a row's sum is the
// sum of its block sums in order, so that the result does not depend on the number of threads.
#include "doubles.hpp"
#include "prototypes.hpp"

namespace kltui {
namespace KLTUI_ISA {
namespace {

constexpr int64_t kColumns = kCentreColumns;

// Adds one clipped row segment to the column sums; the segment's (weighted) sum comes back.
KLTUI_INLINE double add_segment(const double* x, const double* weight, double floor, int64_t count,
                                double* column_sum) {
    const DoubleV low = splat(floor);
    DoubleV sum[4] = {};
    int64_t j = 0;
    for (; j + 4 * kDoubles <= count; j += 4 * kDoubles) {
#pragma GCC unroll 4
        for (int u = 0; u < 4; ++u) {
            const int64_t at = j + u * kDoubles;
            DoubleV v = load(x + at);
            v = v < low ? low : v;
            store(column_sum + at, load(column_sum + at) + v);
            sum[u] += weight != nullptr ? v * load(weight + at) : v;
        }
    }
    double total = sum_lanes((sum[0] + sum[1]) + (sum[2] + sum[3]));
    for (; j < count; ++j) {
        const double v = x[j] < floor ? floor : x[j];
        column_sum[j] += v;
        total += weight != nullptr ? v * weight[j] : v;
    }
    return total;
}

KLTUI_INLINE void subtract_row(const double* x, const double* column_mean, double row_shift, double floor,
                               int64_t count, double* out) {
    const DoubleV low = splat(floor), shift = splat(row_shift);
    const int64_t lead = align_to_line(out) - out < count ? align_to_line(out) - out : count;
    int64_t j = 0;
    for (; j < lead; ++j)
        out[j] = ((x[j] < floor ? floor : x[j]) - column_mean[j]) - row_shift;
    for (; j + kDoubles <= count; j += kDoubles) {
        DoubleV v = load(x + j);
        v = v < low ? low : v;
        store_past_cache(out + j, (v - load(column_mean + j)) - shift);
    }
    finish_stores();
    for (; j < count; ++j)
        out[j] = ((x[j] < floor ? floor : x[j]) - column_mean[j]) - row_shift;
}

double weighted_mean(const double* x, const double* weight, int64_t count, double total_weight) {
    double sum = 0;
    for (int64_t j = 0; j < count; ++j)
        sum += weight != nullptr ? x[j] * weight[j] : x[j];
    return sum / total_weight;
}

}  // namespace

void double_centre(const double* x, int64_t rows, int64_t columns, const double* weight, double floor,
                   double* out, double* workspace, int threads) {
    const int64_t blocks = (columns + kColumns - 1) / kColumns;
    double* column_mean = workspace;                  // columns
    double* segment_sum = workspace + columns;        // blocks x rows
    double* row_shift = segment_sum + blocks * rows;  // rows
    double total_weight = 0;
    for (int64_t j = 0; j < columns; ++j)
        total_weight += weight != nullptr ? weight[j] : 1.0;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t b = 0; b < blocks; ++b) {
        const int64_t first = b * kColumns;
        const int64_t count = columns - first < kColumns ? columns - first : kColumns;
        const double* block_weight = weight != nullptr ? weight + first : nullptr;
        for (int64_t j = 0; j < count; ++j)
            column_mean[first + j] = 0;
        for (int64_t r = 0; r < rows; ++r)
            segment_sum[b * rows + r] =
                add_segment(x + r * columns + first, block_weight, floor, count, column_mean + first);
        for (int64_t j = 0; j < count; ++j)
            column_mean[first + j] /= (double)rows;
    }
    const double grand_mean = weighted_mean(column_mean, weight, columns, total_weight);
    for (int64_t r = 0; r < rows; ++r) {
        double sum = 0;
        for (int64_t b = 0; b < blocks; ++b)
            sum += segment_sum[b * rows + r];
        row_shift[r] = sum / total_weight - grand_mean;
    }
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t r = 0; r < rows; ++r)
        subtract_row(x + r * columns, column_mean, row_shift[r], floor, columns, out + r * columns);
}

}  // namespace KLTUI_ISA
}  // namespace kltui
