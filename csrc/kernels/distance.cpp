// Squared distances between neighbouring checkpoints of one tensor, over raw bytes, each byte read once.
//
// Values are widened to fp64 into a ring of band + 1 stretches that stays in cache; differences, squares and
// sums are fp64. The tensor is cut into segments whose number depends on its size alone, and their sums are
// added in order.
#include <omp.h>

#include "doubles.hpp"
#include "prototypes.hpp"

namespace kltui {
namespace KLTUI_ISA {
namespace {

constexpr int kGroup = 5;  // distances that share the loads of one checkpoint
// Bytes to ask memory for early: two dozen streams are too many for it to foresee. They go to the second
// cache, the ring fills the first.
constexpr int64_t kAhead = 4 * 8 * kSqdistStretch;

KLTUI_INLINE void store_widened(FloatV v, double* out) {
    HalfFloatV half[2];
    __builtin_memcpy(half, &v, sizeof v);
    for (int i = 0; i < 2; ++i)
        store(out + i * kDoubles, widen_half(half[i]));
}

template <class Load>
KLTUI_INLINE void widen_with(const void* bytes, int64_t first, int64_t count, double* out) {
    const auto* x = static_cast<const typename Load::Element*>(bytes) + first;
    int64_t j = 0;
    for (; j + kLanes <= count; j += kLanes) {
        __builtin_prefetch(reinterpret_cast<const char*>(x + j) + kAhead, 0, 2);
        store_widened(Load::full(x + j), out + j);
    }
    for (; j < count; ++j)
        out[j] = (double)load_one<Load>(x + j);
}

void widen(const void* bytes, Float dtype, int64_t first, int64_t count, double* out) {
    if (dtype == Float::f32)
        widen_with<LoadF32>(bytes, first, count, out);
    else if (dtype == Float::bf16)
        widen_with<LoadBf16>(bytes, first, count, out);
    else if (dtype == Float::f16)
        widen_with<LoadF16>(bytes, first, count, out);
    else
        __builtin_memcpy(out, static_cast<const double*>(bytes) + first, count * sizeof(double));
    for (int64_t j = count; j < kSqdistStretch; ++j)
        out[j] = 0;  // the same in every checkpoint: no distance
}

// sum[d] += |x - before[d]|^2 over one stretch for kCount earlier checkpoints at once; each sum is a whole
// vector.
template <int kCount>
KLTUI_INLINE void add_distances(const double* x, const double* const* before, double* const* sum) {
    DoubleV total[kCount];
    for (int d = 0; d < kCount; ++d)
        total[d] = load(sum[d]);
#pragma GCC unroll 4
    for (int64_t j = 0; j < kSqdistStretch; j += kDoubles) {
        const DoubleV here = load(x + j);
#pragma GCC unroll 5
        for (int d = 0; d < kCount; ++d) {
            const DoubleV difference = here - load(before[d] + j);
            total[d] += difference * difference;
        }
    }
    for (int d = 0; d < kCount; ++d)
        store(sum[d], total[d]);
}

void add_group(int64_t count, const double* x, const double* const* before, double* const* sum) {
    if (count == 5) return add_distances<5>(x, before, sum);
    if (count == 4) return add_distances<4>(x, before, sum);
    if (count == 3) return add_distances<3>(x, before, sum);
    if (count == 2) return add_distances<2>(x, before, sum);
    add_distances<1>(x, before, sum);
}

void add_stretch(const TensorSeries& tensors, int64_t band, int64_t first, int64_t count, double* ring,
                 double* sum) {
    const int64_t slots = band + 1;
    for (int64_t k = 0; k < tensors.checkpoints; ++k) {
        auto* x = ring + (k % slots) * kSqdistSlot;
        widen(tensors.data[k], tensors.dtype[k], first, count, x);
        const int64_t reach = k < band ? k : band;
        for (int64_t d = 1; d <= reach; d += kGroup) {
            const double* before[kGroup];
            double* into[kGroup];
            const int64_t group = reach - d + 1 < kGroup ? reach - d + 1 : kGroup;
            for (int64_t g = 0; g < group; ++g) {
                before[g] = ring + ((k - d - g) % slots) * kSqdistSlot;
                into[g] = sum + ((k - d - g) * band + (d + g - 1)) * kDoubles;
            }
            add_group(group, x, before, into);
        }
    }
}

void add_segments(const TensorSeries& tensors, int64_t band, double* partial, double* rings, int threads) {
    const int64_t per_checkpoint = tensors.checkpoints * band;
    const int64_t segments = sqdist_segments(tensors.elements);
    const int64_t stretches = (tensors.elements + kSqdistStretch - 1) / kSqdistStretch;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t s = 0; s < segments; ++s) {
        double* ring = rings + omp_get_thread_num() * ((band + 1) * kSqdistSlot + per_checkpoint * 8);
        double* sum = ring + (band + 1) * kSqdistSlot;  // K x band vectors
        for (int64_t i = 0; i < per_checkpoint * kDoubles; ++i)
            sum[i] = 0.0;
        for (int64_t t = s * stretches / segments; t < (s + 1) * stretches / segments; ++t) {
            const int64_t first = t * kSqdistStretch, left = tensors.elements - first;
            add_stretch(tensors, band, first, left < kSqdistStretch ? left : kSqdistStretch, ring, sum);
        }
        for (int64_t i = 0; i < per_checkpoint; ++i)
            partial[s * per_checkpoint + i] = sum_lanes(load(sum + i * kDoubles));
    }
}

}  // namespace

void banded_sqdist(const TensorSeries& tensors, int64_t band, double* out, double* workspace, int threads) {
    const int64_t per_checkpoint = tensors.checkpoints * band;
    const int64_t segments = sqdist_segments(tensors.elements);
    double* partial = workspace;  // segments x K x band
    // per thread (band + 1) x stretch and K x band vectors, on a cache line's start: a vector across two
    // lines costs two loads
    double* rings = align_to_line(workspace + segments * per_checkpoint);
    add_segments(tensors, band, partial, rings, threads);
    for (int64_t i = 0; i < per_checkpoint; ++i) {
        out[i] = 0.0;
        for (int64_t s = 0; s < segments; ++s)
            out[i] += partial[s * per_checkpoint + i];
    }
}

}  // namespace KLTUI_ISA
}  // namespace kltui
