// The functions of one instruction set's namespace, as its table lists them.
#pragma once

#include "../core/kernels.hpp"

namespace kltui {
namespace KLTUI_ISA {

void log_softmax_gather(const Rows& logits, const int64_t* target, LogitTransform how, float* out,
                        int threads);
void online_update(const Rows& tile, int64_t first, const int64_t* target, LogitTransform how,
                   float* reference, double* sum, float* target_logit, int threads);
void double_centre(const double* x, int64_t rows, int64_t columns, const double* weight, double floor,
                   double* out, double* workspace, int threads);
Split split_values(const double* x, int64_t count, double bottom, double top, double* inside, int threads);
void banded_sqdist(const TensorSeries& tensors, int64_t band, double* out, double* workspace, int threads);
void head_logprobs(const Rows& hidden, const HeadWeights& head, const int64_t* target, float* out,
                   float* workspace, int threads);
#if defined(__AVX512F__)
void head_logprobs_bf16(const Rows& hidden, const HeadWeights& head, const int64_t* target, float* out,
                        float* workspace, int threads);
void head_logprobs_amx(const Rows& hidden, const HeadWeights& head, const int64_t* target, float* out,
                       float* workspace, int threads);
#endif
void kl_rows(const Rows& p, const Rows& q, const KlRows& out, int threads);
void causal_attention(const AttentionHead* heads, int64_t count, const AttentionShape& shape, Float dtype,
                      float* workspace, int threads);

}  // namespace KLTUI_ISA
}  // namespace kltui
