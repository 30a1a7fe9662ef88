#include "../core/isa.hpp"
#include "bindings.hpp"

namespace kltui {
namespace {

py::tuple kl_rows(const py::array& p, const py::array& q, int threads) {
    const Rows rows_p = rows_of(p, "p"), rows_q = rows_of(q, "q");
    require(rows_p.rows == rows_q.rows && rows_p.columns == rows_q.columns && rows_p.dtype == rows_q.dtype,
            "p and q must have the same shape and dtype");
    Array<double> forward(rows_p.rows), reverse(rows_p.rows);
    Array<uint8_t> same_top(rows_p.rows);
    const KlRows out{forward.mutable_data(), reverse.mutable_data(), same_top.mutable_data()};
    {
        py::gil_scoped_release release;
        active_kernels().kl_rows(rows_p, rows_q, out, threads);
    }
    return py::make_tuple(forward, reverse, same_top);
}

}  // namespace

void register_kl(py::module_& m) {
    m.def("kl_rows", &kl_rows, py::arg("p").noconvert(), py::arg("q").noconvert(), py::arg("threads"));
}

}  // namespace kltui
