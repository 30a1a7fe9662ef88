// Every kernel of the instruction set in use, on buffers of exactly the needed size, against plain loops in
// double. Made to run under AddressSanitizer and UndefinedBehaviorSanitizer: see sanitize.sh. `native_tests
// plant` reads one entry too many on purpose, to show that the sanitizer would say so.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "../../csrc/core/isa.hpp"
#include "../../csrc/core/raster.hpp"
#include "../../csrc/core/rotary.hpp"

using namespace kltui;

namespace {

std::mt19937 generator(7);
int failures = 0;

void expect(bool holds, const char* what, double seen = 0, double wanted = 0) {
    if (holds) return;
    std::printf("FAILED %s: %.17g, not %.17g\n", what, seen, wanted);
    ++failures;
}

void expect_near(double seen, double wanted, double tolerance, const char* what) {
    const bool both_nan = std::isnan(seen) && std::isnan(wanted);
    expect(both_nan || seen == wanted || std::abs(seen - wanted) <= tolerance * (1 + std::abs(wanted)), what,
           seen, wanted);
}

double normal() {
    return std::normal_distribution<double>(0, 3)(generator);
}

int64_t whole(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(generator);
}

// A matrix in one dtype on the heap, exactly as large as its last row needs, beside its values in double. Its
// first entry stands `lead` entries from the start of the heap's piece.
struct Matrix {
    int64_t lead;
    std::vector<unsigned char> bytes;
    std::vector<double> value;
    Rows rows;

    Matrix(int64_t n, int64_t columns, Float dtype, int64_t gap = 0, int64_t start = 0, double centre = 0)
        : lead(start), value(static_cast<size_t>(n * columns)) {
        const int64_t item = dtype == Float::f32 ? 4 : 2, stride = columns + gap;
        bytes.resize(static_cast<size_t>((lead + (n - 1) * stride + columns) * item));
        bytes.shrink_to_fit();
        for (int64_t r = 0; r < n; ++r)
            for (int64_t c = 0; c < columns; ++c)
                set(lead + r * stride + c, r * columns + c, dtype, centre);
        rows = {bytes.data() + lead * item, dtype, n, columns, stride};
    }

    void set(int64_t place, int64_t index, Float dtype, double centre) {
        const double drawn = centre + normal();
        const auto x = static_cast<float>(std::abs(drawn) < 1e-3 ? 1e-3 : drawn);  // normal in fp16 too
        uint32_t bits;
        std::memcpy(&bits, &x, 4);
        if (dtype == Float::f32) {
            std::memcpy(bytes.data() + place * 4, &x, 4);
        } else if (dtype == Float::bf16) {
            const auto half = static_cast<uint16_t>(bits >> 16);
            std::memcpy(bytes.data() + place * 2, &half, 2);
            bits &= 0xffff0000u;
        } else {  // truncated to a normal fp16: enough for a test
            const auto half =
                static_cast<uint16_t>(((bits >> 16) & 0x8000u) | (((bits >> 13) - 0x1c000u) & 0x7fffu));
            std::memcpy(bytes.data() + place * 2, &half, 2);
            bits &= 0xffffe000u;
        }
        float kept;
        std::memcpy(&kept, &bits, 4);
        value[static_cast<size_t>(index)] = kept;
    }

    double at(int64_t r, int64_t c) const { return value[static_cast<size_t>(r * rows.columns + c)]; }
};

const Float kDtypes[] = {Float::f32, Float::f16, Float::bf16};

std::vector<int64_t> targets_below(int64_t n, int64_t limit) {
    std::vector<int64_t> targets(static_cast<size_t>(n));
    for (auto& t : targets)
        t = whole(0, limit - 1);
    return targets;
}

double log_softmax(const std::vector<double>& x, int64_t target) {
    double sum = 0;
    for (double v : x)
        sum += std::exp(v - x[static_cast<size_t>(target)]);
    return -std::log(sum);
}

std::vector<double> row_of(const Matrix& m, int64_t r) {
    const auto first = m.value.begin() + r * m.rows.columns;
    return {first, first + m.rows.columns};
}

void check_softmax(Float dtype, int64_t n, int64_t columns, double centre = 0) {
    const Matrix logits(n, columns, dtype, whole(0, 3), whole(0, 1), centre);
    // Unoptimised, products and sums are not fused: far from 0 digits are lost, which other tests do not
    // allow.
    const double tolerance = centre == 0 ? 3e-6 : 1e-3;
    const auto targets = targets_below(n, columns);
    std::vector<float> out(targets.size());
    active_kernels().log_softmax_gather(logits.rows, targets.data(), {1, 0}, out.data(), 2);
    std::vector<float> reference(out.size(), -std::numeric_limits<float>::max()), target_logit(out.size());
    std::vector<double> sum(out.size(), 0.0);
    active_kernels().online_update(logits.rows, 0, targets.data(), {1, 0}, reference.data(), sum.data(),
                                   target_logit.data(), 2);
    for (size_t r = 0; r < out.size(); ++r) {
        const double wanted = log_softmax(row_of(logits, static_cast<int64_t>(r)), targets[r]);
        expect_near(out[r], wanted, tolerance, "log_softmax_gather");
        expect_near(target_logit[r] - reference[r] - std::log(sum[r]), wanted, tolerance, "online_update");
    }
}

void check_head(Float dtype, int64_t n, int64_t depth, int64_t vocabulary) {
    const Matrix hidden(n, depth, dtype, 2 * whole(0, 1), whole(0, 1)),
        weight(vocabulary, depth, dtype, 2 * whole(0, 1), whole(0, 1));
    std::vector<float> bias(static_cast<size_t>(vocabulary));
    for (auto& b : bias)
        b = static_cast<float>(normal());
    const auto targets = targets_below(n, vocabulary);
    std::vector<float> out(targets.size());
    const HeadWeights head{weight.rows, bias.data(), {0.25f, 25.0f}};
    const bool brain = dtype == Float::bf16 && depth % 2 == 0 && cpu_has_bf16_products() &&
                       active_kernels().head_logprobs_bf16 != nullptr;
    const auto kernel = brain ? active_kernels().head_logprobs_bf16 : active_kernels().head_logprobs;
    std::vector<float> workspace(static_cast<size_t>(head_workspace(n, depth, 2)));
    kernel(hidden.rows, head, targets.data(), out.data(), workspace.data(), 2);
    for (int64_t r = 0; r < n; ++r) {
        std::vector<double> logits;
        for (int64_t v = 0; v < vocabulary; ++v) {
            double x = bias[static_cast<size_t>(v)];
            for (int64_t d = 0; d < depth; ++d)
                x += hidden.at(r, d) * weight.at(v, d);
            logits.push_back(25 * std::tanh(0.25 * x / 25));
        }
        const auto i = static_cast<size_t>(r);
        expect_near(out[i], log_softmax(logits, targets[i]), 1e-5, "head_logprobs");
    }
}

void check_kl(Float dtype, int64_t n, int64_t columns) {
    const Matrix p(n, columns, dtype), q(n, columns, dtype);
    std::vector<double> forward(static_cast<size_t>(n)), reverse(forward);
    std::vector<uint8_t> same_top(forward.size());
    active_kernels().kl_rows(p.rows, q.rows, {forward.data(), reverse.data(), same_top.data()}, 2);
    for (int64_t r = 0; r < n; ++r) {
        double wanted = 0;
        const auto x = row_of(p, r), y = row_of(q, r);
        for (int64_t c = 0; c < columns; ++c) {
            const double log_p = log_softmax(x, c);
            wanted += std::exp(log_p) * (log_p - log_softmax(y, c));
        }
        expect_near(forward[static_cast<size_t>(r)], wanted, 1e-5, "kl_rows");
    }
}

void check_maps(int64_t rows, int64_t columns) {
    std::vector<double> x(static_cast<size_t>(rows * columns)), weight(static_cast<size_t>(columns), 2.0);
    for (auto& v : x)
        v = normal();
    std::vector<double> out(x.size()), work(static_cast<size_t>(double_centre_workspace(rows, columns)));
    active_kernels().double_centre(x.data(), rows, columns, weight.data(), -1.0, out.data(), work.data(), 2);
    double sum = 0;
    for (double v : out)
        sum += v;
    expect_near(sum, 0, 1e-9, "double_centre");
    std::vector<double> inside(x.size()), wanted;
    x[0] = std::nan("");
    int64_t below = 0;
    for (double v : x) {
        below += v < -1.0;
        if (!(v < -1.0) && !(v > 2.0)) wanted.push_back(v);
    }
    const Split split = active_kernels().split_values(x.data(), rows * columns, -1.0, 2.0, inside.data(), 2);
    expect(split.below == below && split.inside == static_cast<int64_t>(wanted.size()) &&
               std::memcmp(inside.data(), wanted.data(), wanted.size() * sizeof(double)) == 0,
           "split_values");
}

void check_distance(int64_t checkpoints, int64_t elements, int64_t band) {
    std::vector<Matrix> tensors;
    for (int64_t k = 0; k < checkpoints; ++k)
        tensors.emplace_back(1, elements, kDtypes[k % 3]);
    std::vector<const void*> data;
    std::vector<Float> dtypes;
    for (const auto& t : tensors) {
        data.push_back(t.bytes.data());
        dtypes.push_back(t.rows.dtype);
    }
    std::vector<double> out(static_cast<size_t>(checkpoints * band));
    std::vector<double> work(static_cast<size_t>(sqdist_workspace(elements, checkpoints, band, 2)));
    active_kernels().banded_sqdist({data.data(), dtypes.data(), checkpoints, elements}, band, out.data(),
                                   work.data(), 2);
    for (int64_t k = 0; k < checkpoints; ++k)
        for (int64_t d = 1; d <= band && k + d < checkpoints; ++d) {
            double wanted = 0;
            for (int64_t i = 0; i < elements; ++i)
                wanted += std::pow(tensors[size_t(k + d)].at(0, i) - tensors[size_t(k)].at(0, i), 2);
            expect_near(out[size_t(k * band + d - 1)], wanted, 2e-6, "banded_sqdist");
        }
}

// One text with `heads` heads that share one head of keys and values; every buffer as large as it must be.
void check_attention(int64_t length, int64_t depth, int64_t width, int64_t heads, Float dtype) {
    const Matrix query(heads * length, depth, dtype), key(length, depth, dtype, 3),
        value(length, width, dtype, 1);
    const int64_t item = dtype == Float::bf16 ? 2 : 4;
    std::vector<unsigned char> out(static_cast<size_t>(length * heads * width * item));
    std::vector<AttentionHead> all;
    for (int64_t h = 0; h < heads; ++h)
        all.push_back({query.bytes.data() + h * length * depth * item, key.bytes.data(), value.bytes.data(),
                       out.data() + h * width * item});
    const AttentionShape shape{length, depth, width, depth, depth + 3, width + 1, heads * width, 0.1f};
    std::vector<float> work(static_cast<size_t>(2 * attention_workspace(shape)));
    active_kernels().causal_attention(all.data(), heads, shape, dtype, work.data(), 2);
    const int64_t h = heads - 1, t = length - 1;
    std::vector<double> weight(static_cast<size_t>(length));
    double sum = 0;
    for (int64_t j = 0; j < length; ++j) {
        double score = 0;
        for (int64_t d = 0; d < depth; ++d)
            score += query.at(h * length + t, d) * key.at(j, d);
        sum += weight[size_t(j)] = std::exp(0.1 * score);
    }
    for (int64_t e = 0; e < width; ++e) {
        double wanted = 0;
        for (int64_t j = 0; j < length; ++j)
            wanted += weight[size_t(j)] / sum * value.at(j, e);
        uint32_t bits = 0;
        const auto* seen = out.data() + ((t * heads + h) * width + e) * item;
        std::memcpy(reinterpret_cast<unsigned char*>(&bits) + (4 - item), seen, static_cast<size_t>(item));
        float x;
        std::memcpy(&x, &bits, 4);
        expect_near(x, wanted, dtype == Float::bf16 ? 1e-2 : 1e-4, "causal_attention");
    }
}

void check_rotary(int64_t batch, int64_t heads, int64_t length, int64_t half, int64_t passed) {
    const int64_t depth = 2 * half + passed, columns = 2 * half;
    std::vector<float> x(static_cast<size_t>(batch * heads * length * depth)),
        cosine(static_cast<size_t>(length * columns)), sine(cosine.size());
    for (auto& v : x)
        v = static_cast<float>(normal());
    for (size_t i = 0; i < cosine.size(); ++i) {
        cosine[i] = static_cast<float>(normal());
        sine[i] = static_cast<float>(normal());
    }
    const std::vector<float> before = x;
    rotate({x.data(), batch, heads, length, heads * length * depth, length * depth, depth},
           {cosine.data(), sine.data(), half, 0, columns}, 2);
    for (int64_t row = 0; row < batch * heads * length; ++row)
        for (int64_t j = 0; j < depth; ++j) {
            const float* was = before.data() + row * depth;
            const auto at = static_cast<size_t>(row % length * columns + j);
            const float other = j < half ? -was[(j + half) % depth] : was[(j + depth - half) % depth];
            const float wanted = j < columns ? was[j] * cosine[at] + other * sine[at] : was[j];
            expect_near(x[static_cast<size_t>(row * depth + j)], wanted, 1e-5, "rotate");
        }
}

void check_raster(CellKind kind) {
    const double odd[] = {0,        8,         16,  -1,  7.999999, 1e300, -1e300, std::nan(""),
                          INFINITY, -INFINITY, 3.5, 1e18};
    Raster raster(8, 4, kind);
    std::vector<double> xy(4 * 200);
    for (auto& v : xy)
        v = whole(0, 2) == 0 ? odd[whole(0, 11)] : 6 * normal();
    const std::vector<int16_t> series(400, 3);
    raster.segments(xy.data(), 200, series.data(), '*');
    raster.points(xy.data(), 400, series.data(), '*');
    std::vector<uint32_t> codepoints(32);
    std::vector<int16_t> owners(32);
    raster.planes(codepoints.data(), owners.data());
    for (size_t i = 0; i < 32; ++i)
        expect((codepoints[i] == ' ') == (owners[i] < 0), "raster planes");
    nearest_point(xy.data(), 400, 1, 1, Direction::left);
    std::vector<int16_t> level(7 * 11);
    heat_map(xy.data(), 20, 40, 7, 11, -9, 9, 16, level.data());
    for (int16_t l : level)
        expect(l >= -1 && l < 16, "heat_map");
}

// Levels of a scale that is too short, or too long, for a double to hold its share.
void check_heat_map_of_odd_scales() {
    const double least = std::numeric_limits<double>::denorm_min(), most = std::numeric_limits<double>::max();
    const double value[] = {0, least, most};
    int16_t level[3];
    heat_map(value, 1, 3, 1, 3, 0, least, 4, level);
    expect(level[0] == 0 && level[1] == 3 && level[2] == 3, "heat_map of a scale of one step");
    heat_map(value, 1, 3, 1, 3, -most, most, 4, level);
    expect(level[0] >= 0 && level[2] >= level[0] && level[2] < 4, "heat_map of the whole scale");
}

void run_all() {
    for (int round = 0; round < 12; ++round)
        for (const Float dtype : kDtypes) {
            check_softmax(dtype, whole(1, 5), whole(1, 70));
            check_softmax(dtype, whole(1, 3), whole(2000, 4200));
            check_head(dtype, whole(1, 30), whole(1, 40), whole(1, 200));
            check_kl(dtype, whole(1, 4), whole(1, 300));
        }
    for (const double centre : {5e4, -5e4, 3e38})  // far from 0, where a power of two has no float
        check_softmax(Float::f32, 3, whole(600, 4200), centre);
    check_heat_map_of_odd_scales();
    check_head(Float::f32, 14, 1030, 70);
    check_head(Float::bf16, 14, 1030, 70);
    for (int round = 0; round < 12; ++round) {
        check_maps(whole(1, 40), whole(1, 1100));
        check_distance(whole(1, 8), whole(1, 2100), whole(1, 9));
        check_attention(whole(1, 140), whole(1, 70), whole(1, 140), whole(1, 3),
                        round % 2 ? Float::bf16 : Float::f32);
        check_rotary(whole(1, 3), whole(1, 3), whole(1, 40), whole(1, 20), whole(0, 5));
        for (int kind = 0; kind < 4; ++kind)
            check_raster(static_cast<CellKind>(kind));
    }
}

// One logit more than the buffer holds.
void plant_overflow() {
    const Matrix logits(1, 64, Float::f32);
    Rows rows = logits.rows;
    rows.columns = 65;
    const int64_t target = 0;
    float out = 0;
    active_kernels().log_softmax_gather(rows, &target, {1, 0}, &out, 1);
}

}  // namespace

int main(int argc, char** argv) {
    const char* task = argc > 1 ? argv[1] : "";
    if (std::strcmp(task, "probe") ==
        0) {  // exit code 0 where the instruction set that KLTUI_ISA names can run
        for (const auto& name : supported_isas())
            if (name == std::getenv("KLTUI_ISA")) return 0;
        return 2;
    }
    if (std::strcmp(task, "plant") == 0) {
        plant_overflow();
        return 0;
    }
    run_all();
    std::printf("native tests, %s: %s\n", active_kernels().name, failures == 0 ? "all passed" : "FAILED");
    return failures == 0 ? 0 : 1;
}
