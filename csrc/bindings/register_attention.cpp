#include <memory>
#include <vector>

#include "../core/isa.hpp"
#include "bindings.hpp"

namespace kltui {
namespace {

// batch x heads x T x depth of float32 or uint16 (bf16), the last dimension contiguous.
void require_heads(const py::array& a, const py::array& like, const char* name) {
    const bool shaped = a.ndim() == 4 && a.strides(3) == a.itemsize() && a.dtype().is(like.dtype());
    require(shaped && a.shape(0) == like.shape(0) && a.shape(2) == like.shape(2), name);
    for (int i = 0; i < 3; ++i)
        require(a.strides(i) % a.itemsize() == 0, name);
}

int64_t step(const py::array& a, int axis) {
    return a.strides(axis) / a.itemsize();
}

const char* at(const py::array& a, int64_t batch, int64_t head) {
    return static_cast<const char*>(a.data()) + batch * a.strides(0) + head * a.strides(1);
}

void causal_attention(const py::array& query, const py::array& key, const py::array& value, py::array& out,
                      float scale, int threads) {
    require(query.ndim() == 4 && (query.itemsize() == 4 || query.itemsize() == 2),
            "query must have four axes");
    require_heads(query, query, "query must have contiguous rows");
    require_heads(key, query, "key must be laid out as query is");
    require_heads(value, query, "value must be laid out as query is");
    const int64_t batch = query.shape(0), heads = query.shape(1), groups = key.shape(1);
    require(key.shape(3) == query.shape(3) && value.shape(1) == groups && groups > 0 && heads % groups == 0,
            "key and value must have heads that divide those of query");
    require(out.ndim() == 4 && (out.flags() & py::array::c_style) != 0 && out.dtype().is(query.dtype()) &&
                out.shape(0) == batch && out.shape(1) == query.shape(2) && out.shape(2) == heads &&
                out.shape(3) == value.shape(3),
            "out must be batch x T x heads x width");
    const AttentionShape shape{query.shape(2), query.shape(3), value.shape(3), step(query, 2),
                               step(key, 2),   step(value, 2), step(out, 1),   scale};
    std::vector<AttentionHead> all;
    for (int64_t b = 0; b < batch; ++b)
        for (int64_t h = 0; h < heads; ++h) {
            char* to = static_cast<char*>(out.mutable_data()) + b * out.strides(0) + h * out.strides(2);
            const int64_t group = h / (heads / groups);
            all.push_back({at(query, b, h), at(key, b, group), at(value, b, group), to});
        }
    const Float dtype = query.itemsize() == 2 ? Float::bf16 : Float::f32;
    py::gil_scoped_release release;
    const std::unique_ptr<float[]> workspace(new float[threads * attention_workspace(shape)]);
    active_kernels().causal_attention(all.data(), static_cast<int64_t>(all.size()), shape, dtype,
                                      workspace.get(), threads);
}

}  // namespace

void register_attention(py::module_& m) {
    m.def("causal_attention", &causal_attention, py::arg("query").noconvert(), py::arg("key").noconvert(),
          py::arg("value").noconvert(), py::arg("out").noconvert(), py::arg("scale"), py::arg("threads"));
}

}  // namespace kltui
