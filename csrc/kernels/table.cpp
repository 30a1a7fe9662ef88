// The table of one instruction set.
#include "prototypes.hpp"

#define KLTUI_TEXT_OF(name) #name
#define KLTUI_TEXT(name) KLTUI_TEXT_OF(name)

namespace kltui {
namespace KLTUI_ISA {

extern const Kernels table;
const Kernels table = {
    KLTUI_TEXT(KLTUI_ISA),
    log_softmax_gather,
    online_update,
    double_centre,
    split_values,
    banded_sqdist,
    head_logprobs,
#if defined(__AVX512F__)
    head_logprobs_bf16,
#else
    nullptr,
#endif
    kl_rows,
    causal_attention,
};

}  // namespace KLTUI_ISA
}  // namespace kltui
