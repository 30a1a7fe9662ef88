#include "../core/isa.hpp"
#include "bindings.hpp"

namespace kltui {
namespace {

Array<float> log_softmax_gather(const py::array& logits, const Array<int64_t>& targets, float scale,
                                float softcap, int threads) {
    const Rows rows = rows_of(logits, "logits");
    require(targets.ndim() == 1 && targets.shape(0) == rows.rows, "targets must have one entry per row");
    require_indices(targets.data(), rows.rows, rows.columns, "targets must lie in [0, vocabulary)");
    Array<float> out(rows.rows);
    const int64_t* target = targets.data();
    float* result = out.mutable_data();
    py::gil_scoped_release release;
    active_kernels().log_softmax_gather(rows, target, {scale, softcap}, result, threads);
    return out;
}

void online_update(const py::array& tile, int64_t first, const Array<int64_t>& targets, float scale,
                   float softcap, Array<float>& reference, Array<double>& sum, Array<float>& target_logit,
                   int threads) {
    const Rows rows = rows_of(tile, "tile");
    for (const py::array* state :
         {static_cast<const py::array*>(&targets), static_cast<const py::array*>(&reference),
          static_cast<const py::array*>(&sum), static_cast<const py::array*>(&target_logit)})
        require(state->ndim() == 1 && state->shape(0) == rows.rows, "state must have one entry per row");
    const int64_t* target = targets.data();
    float* references = reference.mutable_data();
    double* sums = sum.mutable_data();
    float* target_logits = target_logit.mutable_data();
    py::gil_scoped_release release;
    active_kernels().online_update(rows, first, target, {scale, softcap}, references, sums, target_logits,
                                   threads);
}

Array<double> sum_by_text(const Array<float>& logp, const Array<int64_t>& text_index, int64_t n_texts) {
    const int64_t count = logp.size();
    require(text_index.size() == count, "text_index must have one entry per log-probability");
    require_indices(text_index.data(), count, n_texts, "text_index must lie in [0, n_texts)");
    Array<double> out(n_texts);
    double* sums = out.mutable_data();
    const float* values = logp.data();
    const int64_t* text = text_index.data();
    py::gil_scoped_release release;
    for (int64_t t = 0; t < n_texts; ++t)
        sums[t] = 0.0;
    for (int64_t i = 0; i < count; ++i)
        sums[text[i]] += static_cast<double>(values[i]);
    return out;
}

}  // namespace

void register_softmax(py::module_& m) {
    m.def("log_softmax_gather", &log_softmax_gather, py::arg("logits").noconvert(),
          py::arg("targets").noconvert(), py::arg("scale"), py::arg("softcap"), py::arg("threads"));
    m.def("online_update", &online_update, py::arg("tile").noconvert(), py::arg("first"),
          py::arg("targets").noconvert(), py::arg("scale"), py::arg("softcap"),
          py::arg("reference").noconvert(), py::arg("sum").noconvert(), py::arg("target_logit").noconvert(),
          py::arg("threads"));
    m.def("sum_by_text", &sum_by_text, py::arg("logp").noconvert(), py::arg("text_index").noconvert(),
          py::arg("n_texts"));
}

}  // namespace kltui
