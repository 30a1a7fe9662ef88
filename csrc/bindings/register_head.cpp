#include <pybind11/stl.h>

#include <limits>
#include <memory>
#include <optional>

#include "../core/isa.hpp"
#include "bindings.hpp"

namespace kltui {
namespace {

// bf16 products need both operands in bf16, whole pairs, and a processor that has them.
bool can_multiply_bf16(const Rows& hidden, const Rows& weight) {
    const bool pairs = hidden.columns % 2 == 0 && hidden.row_stride % 2 == 0 && weight.row_stride % 2 == 0 &&
                       weight.rows < std::numeric_limits<int32_t>::max();
    return hidden.dtype == Float::bf16 && weight.dtype == Float::bf16 && pairs && cpu_has_bf16_products() &&
           active_kernels().head_logprobs_bf16 != nullptr;
}

Array<float> head_logprobs(const py::array& hidden, const py::array& weight,
                           const std::optional<Array<float>>& bias, const Array<int64_t>& targets,
                           float scale, float softcap, int threads) {
    const Rows rows = rows_of(hidden, "hidden"), matrix = rows_of(weight, "weight");
    require(rows.columns == matrix.columns, "hidden and weight must have the same depth");
    require(!bias || bias->size() == matrix.rows, "bias must have one entry per vocabulary entry");
    require(targets.ndim() == 1 && targets.shape(0) == rows.rows, "targets must have one entry per row");
    require_indices(targets.data(), rows.rows, matrix.rows, "targets must lie in [0, vocabulary)");
    Array<float> out(rows.rows);
    float* result = out.mutable_data();
    const HeadWeights head{matrix, bias ? bias->data() : nullptr, {scale, softcap}};
    const Kernels& table = active_kernels();
    const auto kernel = can_multiply_bf16(rows, matrix) ? table.head_logprobs_bf16 : table.head_logprobs;
    py::gil_scoped_release release;
    const int64_t floats = head_workspace(rows.rows, rows.columns, threads);
    const std::unique_ptr<float[]> workspace(new float[floats]);
    kernel(rows, head, targets.data(), result, workspace.get(), threads);
    return out;
}

}  // namespace

void register_head(py::module_& m) {
    m.def("head_logprobs", &head_logprobs, py::arg("hidden").noconvert(), py::arg("weight").noconvert(),
          py::arg("bias").noconvert(), py::arg("targets").noconvert(), py::arg("scale"), py::arg("softcap"),
          py::arg("threads"));
}

}  // namespace kltui
