// The CUDA kernels over the emulation, against long double loops, on buffers that end where the data ends:
// for the sanitizers. Usage: cuda_tests [plant]
#include <cfloat>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "../../csrc/cuda/kernels.hpp"

using namespace kltui::cuda;

namespace {

#ifdef __CUDACC__
template <class T>
struct Managed {
    using value_type = T;
    Managed() = default;
    template <class Other>
    Managed(const Managed<Other>&) {}
    T* allocate(size_t count) {
        void* at = nullptr;
        if (cudaMallocManaged(&at, count * sizeof(T)) != cudaSuccess) std::abort();
        return static_cast<T*>(at);
    }
    void deallocate(T* at, size_t) { cudaFree(at); }
    bool operator==(const Managed&) const { return true; }
    bool operator!=(const Managed&) const { return false; }
};
template <class T>
using Buffer = std::vector<T, Managed<T>>;
int finished(int error) {
    return error != 0 ? error : static_cast<int>(cudaDeviceSynchronize());
}
#else
template <class T>
using Buffer = std::vector<T>;
int finished(int error) {
    return error;
}
#endif

int failures = 0;

void check(int error) {
    if (error == 0) return;
    ++failures;
    std::printf("a kernel failed: %s\n", describe_error(error));
}

void expect_close(double ours, long double exact, double slack, const char* what) {
    const bool same =
        std::isnan(static_cast<double>(exact)) ? std::isnan(ours) : std::fabs(ours - exact) <= slack;
    if (same) return;
    ++failures;
    std::printf("%s: %.9g for %.9Lg\n", what, ours, exact);
}

uint16_t rounded(float x, Float dtype) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    if (dtype == Float::bf16) return static_cast<uint16_t>(bits >> 16);
    if (x == 0.0f) return 0;
    // half precision of numbers that it holds without subnormals
    return static_cast<uint16_t>((bits >> 16 & 0x8000u) | ((bits >> 23 & 255u) - 112) << 10 |
                                 (bits >> 13 & 1023u));
}

float widened(uint16_t x, Float dtype) {
    uint32_t bits = static_cast<uint32_t>(x) << 16;
    if (dtype == Float::f16) bits = (x & 0x8000u) << 16 | ((x >> 10 & 31u) + 112) << 23 | (x & 1023u) << 13;
    if (dtype == Float::f16 && (x & 0x7fffu) == 0) bits = 0;
    float wide;
    std::memcpy(&wide, &bits, 4);
    return wide;
}

// Rows of logits in one allocation that ends with the last row's last entry and begins `shift` entries in.
struct Logits {
    Buffer<unsigned char> bytes;
    std::vector<float> values;
    Rows rows;

    Logits(Float dtype, int64_t n, int64_t columns, int64_t shift, std::mt19937& random) {
        const int64_t stride = columns + 3, width = dtype == Float::f32 ? 4 : 2;
        const int64_t entries = shift + (n - 1) * stride + columns;
        bytes.resize(static_cast<size_t>(entries * width));
        std::normal_distribution<float> normal(0.0f, 4.0f);
        for (int64_t i = 0; i < entries; ++i) {
            float x = std::copysign(std::fmax(std::fabs(normal(random)), 0.01f), normal(random));
            if (dtype == Float::f32) {
                std::memcpy(&bytes[static_cast<size_t>(i * 4)], &x, 4);
            } else {
                const uint16_t half = rounded(x, dtype);
                std::memcpy(&bytes[static_cast<size_t>(i * 2)], &half, 2);
                x = widened(half, dtype);
            }
            values.push_back(x);
        }
        values.erase(values.begin(), values.begin() + shift);
        rows = {bytes.data() + shift * width, dtype, n, columns, stride};
    }

    const float* row(int64_t r) const { return values.data() + r * rows.row_stride; }
};

long double log_sum(const float* row, int64_t columns) {
    long double sum = 0.0L;
    for (int64_t j = 0; j < columns; ++j)
        sum += std::exp(static_cast<long double>(row[j]));
    return std::log(sum);
}

void test_softmax(Float dtype, int64_t n, int64_t columns, int64_t shift, std::mt19937& random) {
    const Logits logits(dtype, n, columns, shift, random);
    Buffer<int64_t> target;
    for (int64_t r = 0; r < n; ++r)
        target.push_back(static_cast<int64_t>(random() % static_cast<uint64_t>(columns)));
    Buffer<float> out(static_cast<size_t>(n));
    check(finished(log_softmax_gather(logits.rows, target.data(), 1.0f, 0.0f, out.data(), nullptr)));
    Buffer<float> reference(out.size(), -FLT_MAX), found(out.size(), NAN);
    Buffer<double> sum(out.size(), 0.0);
    Rows left = logits.rows, right = logits.rows;
    left.columns = columns / 2;
    right.columns = columns - left.columns;
    right.data = static_cast<const char*>(right.data) + left.columns * (dtype == Float::f32 ? 4 : 2);
    check(finished(online_update(right, left.columns, target.data(), 1.0f, 0.0f, reference.data(), sum.data(),
                                 found.data(), nullptr)));
    if (left.columns > 0)
        check(finished(online_update(left, 0, target.data(), 1.0f, 0.0f, reference.data(), sum.data(),
                                     found.data(), nullptr)));
    for (size_t r = 0; r < out.size(); ++r) {
        const auto at = static_cast<int64_t>(r);
        const long double exact = logits.row(at)[target[r]] - log_sum(logits.row(at), columns);
        expect_close(out[r], exact, 1e-5, "log_softmax_gather");
        expect_close(found[r] - reference[r] - std::log(sum[r]), exact, 1e-5, "online_update");
    }
}

void test_kl(Float dtype, int64_t n, int64_t columns, std::mt19937& random) {
    const Logits p(dtype, n, columns, 0, random), q(dtype, n, columns, 1, random);
    Buffer<double> forward(static_cast<size_t>(n)), reverse(forward.size());
    Buffer<uint8_t> same(forward.size());
    check(finished(kl_rows(p.rows, q.rows, forward.data(), reverse.data(), same.data(), nullptr)));
    for (int64_t r = 0; r < n; ++r) {
        const long double of_p = log_sum(p.row(r), columns), of_q = log_sum(q.row(r), columns);
        long double exact = 0.0L;
        for (int64_t j = 0; j < columns; ++j) {
            const long double a = p.row(r)[j] - of_p, b = q.row(r)[j] - of_q;
            exact += std::exp(a) * (a - b);
        }
        expect_close(forward[static_cast<size_t>(r)], exact, 1e-9, "kl_rows");
    }
}

void test_sums(int64_t count, int64_t texts, std::mt19937& random) {
    Buffer<float> logp;
    Buffer<int64_t> text;
    std::vector<long double> exact(static_cast<size_t>(texts), 0.0L);
    for (int64_t i = 0; i < count; ++i) {
        text.push_back(i * texts / count);
        logp.push_back(-static_cast<float>(random() % 1000) / 7.0f);
        exact[static_cast<size_t>(text.back())] += logp.back();
    }
    Buffer<double> sums(exact.size());
    check(finished(sum_by_text(logp.data(), text.data(), count, texts, sums.data(), nullptr)));
    for (size_t t = 0; t < sums.size(); ++t)
        expect_close(sums[t], exact[t], 1e-8, "sum_by_text");
}

void test_centre(int64_t rows, int64_t columns, std::mt19937& random) {
    Buffer<double> x, out(static_cast<size_t>(rows * columns)), means(static_cast<size_t>(rows + columns));
    for (size_t i = 0; i < out.size(); ++i)
        x.push_back(-2000.0 + static_cast<double>(random() % 10000) / 7.0);
    check(finished(double_centre(x.data(), rows, columns, out.data(), means.data(), nullptr)));
    std::vector<long double> row(static_cast<size_t>(rows), 0.0L), column(static_cast<size_t>(columns), 0.0L);
    long double grand = 0.0L;
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < columns; ++j) {
            const long double value = x[static_cast<size_t>(i * columns + j)];
            row[static_cast<size_t>(i)] += value / columns;
            column[static_cast<size_t>(j)] += value / rows;
            grand += value / (rows * columns);
        }
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < columns; ++j) {
            const auto at = static_cast<size_t>(i * columns + j);
            expect_close(out[at],
                         x[at] - row[static_cast<size_t>(i)] - column[static_cast<size_t>(j)] + grand, 1e-9,
                         "double_centre");
        }
}

}  // namespace

int main(int count, char** arguments) {
    std::mt19937 random(7);
    if (count > 1 && std::strcmp(arguments[1], "plant") == 0) {
        Logits logits(Float::f32, 1, 100, 0, random);
        logits.rows.columns = 101;  // one entry beyond the allocation
        Buffer<int64_t> target(1);
        Buffer<float> out(1);
        return finished(log_softmax_gather(logits.rows, target.data(), 1.0f, 0.0f, out.data(), nullptr));
    }
    for (const Float dtype : {Float::f32, Float::f16, Float::bf16})
        for (const int64_t columns : {1, 2, 7, 31, 64, 511, 2048, 4101, 20001})
            for (const int64_t shift : {0, 1, 5}) {
                test_softmax(dtype, 3, columns, shift, random);
                if (shift == 0) test_kl(dtype, 2, columns, random);
            }
    for (const int64_t texts : {1, 7, 40})
        test_sums(300, texts, random);
    test_centre(1, 1, random);
    test_centre(37, 300, random);
    test_centre(3, 1031, random);
    std::printf("CUDA kernels, emulated: %s\n", failures == 0 ? "clean" : "wrong");
    return failures == 0 ? 0 : 1;
}
