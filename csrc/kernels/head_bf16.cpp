// The fused head in bf16 products with fp32 sums; compiled for AVX-512 BF16 only. Both operands are bf16,
// depth even.
#include "head_body.hpp"

namespace kltui {
namespace KLTUI_ISA {
namespace {

struct BrainProducts {
    static constexpr int kDepth = 2;
    static KLTUI_INLINE_MEMBER void add(FloatV& acc, float a, FloatV b) {
        acc = (FloatV)_mm512_dpbf16_ps((__m512)acc, (__m512bh)_mm512_set1_ps(a), (__m512bh)b);
    }
};

}  // namespace

void head_logprobs_bf16(const Rows& hidden, const HeadWeights& head, const int64_t* target, float* out,
                        float* workspace, int threads) {
    head_with<BrainProducts>(hidden, head, target, out, workspace, threads);
}

}  // namespace KLTUI_ISA
}  // namespace kltui
