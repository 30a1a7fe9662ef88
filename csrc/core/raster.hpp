// Points and line segments to character cells: dots are set, the last series that touched a cell owns it.
#pragma once

#include <cstdint>
#include <vector>

namespace kltui {

enum class CellKind : int { braille = 0, dots = 1, half = 2, ascii = 3 };

class Raster {
  public:
    Raster(int64_t width_cells, int64_t height_cells, CellKind kind);

    int64_t width_cells() const { return width_; }
    int64_t height_cells() const { return height_; }
    int64_t width_dots() const { return width_ * dots_x_; }
    int64_t height_dots() const { return height_ * dots_y_; }

    // x0 y0 x1 y1 per segment, in dots, origin top left; `series` has one entry per segment. Non-finite ones
    // are gaps.
    void segments(const double* xy, int64_t count, const int16_t* series, uint32_t marker);
    // x y per point.
    void points(const double* xy, int64_t count, const int16_t* series, uint32_t marker);
    void clear();

    // One code point (a blank where nothing is) and one series (-1 where nothing is) per cell, row by row.
    void planes(uint32_t* codepoint, int16_t* series) const;

  private:
    void set_dot(int64_t x, int64_t y, int16_t series, uint32_t marker);
    void draw_clipped(double x0, double y0, double x1, double y1, int16_t series, uint32_t marker);

    int64_t width_, height_;
    CellKind kind_;
    int64_t dots_x_, dots_y_;
    std::vector<uint8_t> mask_;
    std::vector<int16_t> series_;
    std::vector<uint32_t> marker_;
};

// Clips a segment to the closed box [0, width] x [0, height] in place (Liang and Barsky); false where nothing
// is left.
bool clip_segment(double& x0, double& y0, double& x1, double& y1, double width, double height);

enum class Direction : int { any = 0, left = 1, right = 2, up = 3, down = 4 };

// Index of the point nearest to (x, y), or -1. With a direction: among the points strictly that way (y grows
// downwards), the one with the least distance along it plus twice the distance across.
int64_t nearest_point(const double* xy, int64_t count, double x, double y, Direction direction);

// Levels 0 .. levels - 1 of a picture of `rows` x `columns` pixels over the matrix, each the mean of the
// finite values under it placed between low and high; -1 where there is none.
void heat_map(const double* value, int64_t value_rows, int64_t value_columns, int64_t rows, int64_t columns,
              double low, double high, int levels, int16_t* level);

}  // namespace kltui
