#include "bindings.hpp"

PYBIND11_MODULE(_core, m) {
    m.doc() = "Compiled kernels of kltui for the CPU. Use kltui.kernels.native, which checks arguments.";
    kltui::register_info(m);
    kltui::register_attention(m);
    kltui::register_softmax(m);
    kltui::register_centre(m);
    kltui::register_distance(m);
    kltui::register_head(m);
    kltui::register_kl(m);
    kltui::register_raster(m);
    kltui::register_rotary(m);
}
