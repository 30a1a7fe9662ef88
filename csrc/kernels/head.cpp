// The fused head in fp32 products, whatever the operands' dtype.
#include "head_body.hpp"

namespace kltui {
namespace KLTUI_ISA {
namespace {

struct FloatProducts {
    static constexpr int kDepth = 1;
    static KLTUI_INLINE_MEMBER void add(FloatV& acc, float a, FloatV b) { acc += a * b; }
};

}  // namespace

void head_logprobs(const Rows& hidden, const HeadWeights& head, const int64_t* target, float* out,
                   float* workspace, int threads) {
    head_with<FloatProducts>(hidden, head, target, out, workspace, threads);
}

}  // namespace KLTUI_ISA
}  // namespace kltui
