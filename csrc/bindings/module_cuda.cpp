// kltui.kernels._cuda: addresses and shapes, checked by kltui/kernels/cuda.py, to kernels on the caller's
// stream.
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>

#include "../cuda/kernels.hpp"

namespace py = pybind11;

namespace {

template <class T>
T* at(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

void check(int error, const char* what) {
    if (error != 0)
        throw std::runtime_error(std::string(what) + ": CUDA error: " + kltui::cuda::describe_error(error));
}

// Makes a device current for a scope.
class DeviceScope {
  public:
    explicit DeviceScope(int device) : before_(kltui::cuda::use_device(device)) {
        if (before_ < 0) check(-before_, "choosing the device");
    }
    ~DeviceScope() { kltui::cuda::use_device(before_); }
    DeviceScope(const DeviceScope&) = delete;
    DeviceScope& operator=(const DeviceScope&) = delete;

  private:
    int before_;
};

kltui::cuda::Rows rows_at(uintptr_t data, int dtype, int64_t rows, int64_t columns, int64_t stride) {
    return {at<const void>(data), static_cast<kltui::cuda::Float>(dtype), rows, columns, stride};
}

void log_softmax_gather(uintptr_t logits, int dtype, int64_t rows, int64_t columns, int64_t stride,
                        uintptr_t targets, float scale, float softcap, uintptr_t out, int device,
                        uintptr_t stream) {
    const DeviceScope scope(device);
    check(kltui::cuda::log_softmax_gather(rows_at(logits, dtype, rows, columns, stride),
                                          at<const int64_t>(targets), scale, softcap, at<float>(out),
                                          at<void>(stream)),
          "log_softmax_gather");
}

void online_update(uintptr_t tile, int dtype, int64_t rows, int64_t columns, int64_t stride, int64_t first,
                   uintptr_t targets, float scale, float softcap, uintptr_t reference, uintptr_t sum,
                   uintptr_t target_logit, int device, uintptr_t stream) {
    const DeviceScope scope(device);
    check(kltui::cuda::online_update(rows_at(tile, dtype, rows, columns, stride), first,
                                     at<const int64_t>(targets), scale, softcap, at<float>(reference),
                                     at<double>(sum), at<float>(target_logit), at<void>(stream)),
          "online_update");
}

bool has_code(int device) {
    const DeviceScope scope(device);
    return kltui::cuda::has_code();
}

void kl_rows(uintptr_t p, uintptr_t q, int dtype, int64_t rows, int64_t columns, int64_t stride_p,
             int64_t stride_q, uintptr_t forward, uintptr_t reverse, uintptr_t same_top, int device,
             uintptr_t stream) {
    const DeviceScope scope(device);
    check(kltui::cuda::kl_rows(rows_at(p, dtype, rows, columns, stride_p),
                               rows_at(q, dtype, rows, columns, stride_q), at<double>(forward),
                               at<double>(reverse), at<uint8_t>(same_top), at<void>(stream)),
          "kl_rows");
}

void sum_by_text(uintptr_t logp, uintptr_t text_index, int64_t count, int64_t texts, uintptr_t sums,
                 int device, uintptr_t stream) {
    const DeviceScope scope(device);
    check(kltui::cuda::sum_by_text(at<const float>(logp), at<const int64_t>(text_index), count, texts,
                                   at<double>(sums), at<void>(stream)),
          "sum_by_text");
}

void double_centre(uintptr_t x, int64_t rows, int64_t columns, uintptr_t out, uintptr_t means, int device,
                   uintptr_t stream) {
    const DeviceScope scope(device);
    check(kltui::cuda::double_centre(at<const double>(x), rows, columns, at<double>(out), at<double>(means),
                                     at<void>(stream)),
          "double_centre");
}

}  // namespace

#ifndef KLTUI_CUDA_MODULE
#    define KLTUI_CUDA_MODULE _cuda
#endif

PYBIND11_MODULE(KLTUI_CUDA_MODULE, m) {
    m.doc() = "Compiled kernels of kltui for CUDA. Use kltui.kernels.cuda, which checks arguments.";
    m.def("device_count", &kltui::cuda::device_count);
    m.def("has_code", &has_code, py::arg("device"));
    m.def("kl_rows", &kl_rows, py::arg("p"), py::arg("q"), py::arg("dtype"), py::arg("rows"),
          py::arg("columns"), py::arg("stride_p"), py::arg("stride_q"), py::arg("forward"),
          py::arg("reverse"), py::arg("same_top"), py::arg("device"), py::arg("stream"));
    m.def("log_softmax_gather", &log_softmax_gather, py::arg("logits"), py::arg("dtype"), py::arg("rows"),
          py::arg("columns"), py::arg("stride"), py::arg("targets"), py::arg("scale"), py::arg("softcap"),
          py::arg("out"), py::arg("device"), py::arg("stream"));
    m.def("online_update", &online_update, py::arg("tile"), py::arg("dtype"), py::arg("rows"),
          py::arg("columns"), py::arg("stride"), py::arg("first"), py::arg("targets"), py::arg("scale"),
          py::arg("softcap"), py::arg("reference"), py::arg("sum"), py::arg("target_logit"),
          py::arg("device"), py::arg("stream"));
    m.def("sum_by_text", &sum_by_text, py::arg("logp"), py::arg("text_index"), py::arg("count"),
          py::arg("texts"), py::arg("sums"), py::arg("device"), py::arg("stream"));
    m.def("double_centre", &double_centre, py::arg("x"), py::arg("rows"), py::arg("columns"), py::arg("out"),
          py::arg("means"), py::arg("device"), py::arg("stream"));
}
