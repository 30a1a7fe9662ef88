#include "../core/raster.hpp"
#include "bindings.hpp"

namespace kltui {
namespace {

void require_shape(const py::array& a, int64_t columns, const char* message) {
    require(a.ndim() == 2 && a.shape(1) == columns, message);
}

py::tuple planes(const Raster& raster) {
    Array<uint32_t> codepoints({raster.height_cells(), raster.width_cells()});
    Array<int16_t> series({raster.height_cells(), raster.width_cells()});
    raster.planes(codepoints.mutable_data(), series.mutable_data());
    return py::make_tuple(codepoints, series);
}

Array<int16_t> heat_map_levels(const Array<double>& values, int64_t rows, int64_t columns, double low,
                               double high, int levels) {
    require(values.ndim() == 2 && values.size() > 0, "values must be a matrix with entries");
    require(rows >= 0 && columns >= 0 && levels >= 1 && levels <= 32767,
            "rows, columns or levels out of range");
    Array<int16_t> out({rows, columns});
    heat_map(values.data(), values.shape(0), values.shape(1), rows, columns, low, high, levels,
             out.mutable_data());
    return out;
}

}  // namespace

void register_raster(py::module_& m) {
    py::class_<Raster>(m, "Raster")
        .def(py::init([](int64_t width, int64_t height, int kind) {
                 require(width >= 0 && height >= 0 && width < 65536 && height < 65536, "cells out of range");
                 return Raster(width, height, static_cast<CellKind>(kind));
             }),
             py::arg("width_cells"), py::arg("height_cells"), py::arg("kind"))
        .def("clear", &Raster::clear)
        .def("planes", &planes)
        .def(
            "segments",
            [](Raster& raster, const Array<double>& xy, const Array<int16_t>& series, uint32_t marker) {
                require_shape(xy, 4, "segments must be n x 4");
                require(series.size() == xy.shape(0), "series must have one entry per segment");
                raster.segments(xy.data(), xy.shape(0), series.data(), marker);
            },
            py::arg("xy").noconvert(), py::arg("series").noconvert(), py::arg("marker"))
        .def(
            "points",
            [](Raster& raster, const Array<double>& xy, const Array<int16_t>& series, uint32_t marker) {
                require_shape(xy, 2, "points must be n x 2");
                require(series.size() == xy.shape(0), "series must have one entry per point");
                raster.points(xy.data(), xy.shape(0), series.data(), marker);
            },
            py::arg("xy").noconvert(), py::arg("series").noconvert(), py::arg("marker"));
    m.def(
        "nearest",
        [](const Array<double>& xy, double x, double y, int direction) {
            require_shape(xy, 2, "points must be n x 2");
            return nearest_point(xy.data(), xy.shape(0), x, y, static_cast<Direction>(direction));
        },
        py::arg("xy").noconvert(), py::arg("x"), py::arg("y"), py::arg("direction"));
    m.def("heat_map", &heat_map_levels, py::arg("values").noconvert(), py::arg("rows"), py::arg("columns"),
          py::arg("low"), py::arg("high"), py::arg("levels"));
}

}  // namespace kltui
