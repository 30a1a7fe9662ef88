#include "raster.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>

namespace kltui {
namespace {

constexpr double kFarthest = 1e100;  // coordinates beyond are pulled in, so that differences stay finite

// Bits of the eight dots of U+2800 by row and column.
constexpr uint8_t kBrailleBit[4][2] = {{0x01, 0x08}, {0x02, 0x10}, {0x04, 0x20}, {0x40, 0x80}};

constexpr uint32_t kHalfBlock[4] = {' ', 0x2580, 0x2584, 0x2588};

double pull_in(double v) {
    return std::clamp(v, -kFarthest, kFarthest);
}

// Clips one axis, u, of the segment (u0, v0) to (u1, v1) to [0, limit]; a cut end lies on the border exactly.
bool clip_axis(double& u0, double& v0, double& u1, double& v1, double limit) {
    if ((u0 < 0.0 && u1 < 0.0) || (u0 > limit && u1 > limit)) return false;
    // The share of the way first: a slope may overflow.
    const double u = u0, v = v0, length = u1 - u0, rise = v1 - v0;
    const auto cut = [&](double& end, double& across) {
        if (end >= 0.0 && end <= limit) return;
        end = end < 0.0 ? 0.0 : limit;
        across = v + rise * ((end - u) / length);
    };
    cut(u0, v0);
    cut(u1, v1);
    return true;
}

}  // namespace

bool clip_segment(double& x0, double& y0, double& x1, double& y1, double width, double height) {
    return clip_axis(x0, y0, x1, y1, width) && clip_axis(y0, x0, y1, x1, height);
}

Raster::Raster(int64_t width_cells, int64_t height_cells, CellKind kind)
    : width_(width_cells),
      height_(height_cells),
      kind_(kind),
      dots_x_(kind == CellKind::braille ? 2 : 1),
      dots_y_(kind == CellKind::braille ? 4 : (kind == CellKind::half ? 2 : 1)),
      mask_(static_cast<size_t>(width_cells * height_cells), 0),
      series_(mask_.size(), -1),
      marker_(mask_.size(), 0) {}

void Raster::clear() {
    std::fill(mask_.begin(), mask_.end(), uint8_t{0});
    std::fill(series_.begin(), series_.end(), int16_t{-1});
}

void Raster::set_dot(int64_t x, int64_t y, int16_t series, uint32_t marker) {
    const auto cell = static_cast<size_t>((y / dots_y_) * width_ + x / dots_x_);
    mask_[cell] |= kBrailleBit[y % dots_y_][x % dots_x_];
    series_[cell] = series;
    marker_[cell] = marker;
}

void Raster::points(const double* xy, int64_t count, const int16_t* series, uint32_t marker) {
    const auto width = static_cast<double>(width_dots()), height = static_cast<double>(height_dots());
    for (int64_t i = 0; i < count; ++i) {
        const double x = xy[2 * i], y = xy[2 * i + 1];
        if (x >= 0.0 && x < width && y >= 0.0 && y < height)
            set_dot(static_cast<int64_t>(x), static_cast<int64_t>(y), series[i], marker);
    }
}

void Raster::segments(const double* xy, int64_t count, const int16_t* series, uint32_t marker) {
    const auto width = static_cast<double>(width_dots()), height = static_cast<double>(height_dots());
    for (int64_t i = 0; i < count; ++i) {
        const double* s = xy + 4 * i;
        if (!(std::isfinite(s[0]) && std::isfinite(s[1]) && std::isfinite(s[2]) && std::isfinite(s[3])))
            continue;
        double x0 = pull_in(s[0]), y0 = pull_in(s[1]), x1 = pull_in(s[2]), y1 = pull_in(s[3]);
        if (!clip_segment(x0, y0, x1, y1, width, height)) continue;
        if ((x0 >= width && x1 >= width) || (y0 >= height && y1 >= height)) continue;
        draw_clipped(x0, y0, x1, y1, series[i], marker);
    }
}

void Raster::draw_clipped(double x0, double y0, double x1, double y1, int16_t series, uint32_t marker) {
    const int64_t last_x = width_dots() - 1, last_y = height_dots() - 1;
    const auto column = [&](double x) { return std::clamp(static_cast<int64_t>(x), int64_t{0}, last_x); };
    const auto row = [&](double y) { return std::clamp(static_cast<int64_t>(y), int64_t{0}, last_y); };
    const int64_t steps = std::max(std::abs(column(x1) - column(x0)), std::abs(row(y1) - row(y0)));
    const double share = steps > 0 ? 1.0 / static_cast<double>(steps) : 0.0;
    for (int64_t i = 0; i < steps; ++i) {
        const double t = static_cast<double>(i) * share;
        set_dot(column(x0 + (x1 - x0) * t), row(y0 + (y1 - y0) * t), series, marker);
    }
    set_dot(column(x1), row(y1), series, marker);
}

void Raster::planes(uint32_t* codepoint, int16_t* series) const {
    for (size_t cell = 0; cell < mask_.size(); ++cell) {
        series[cell] = series_[cell];
        if (mask_[cell] == 0)
            codepoint[cell] = ' ';
        else if (kind_ == CellKind::braille)
            codepoint[cell] = 0x2800u + mask_[cell];
        else if (kind_ == CellKind::half)
            codepoint[cell] = kHalfBlock[mask_[cell] & 3];
        else
            codepoint[cell] = marker_[cell];
    }
}

int64_t nearest_point(const double* xy, int64_t count, double x, double y, Direction direction) {
    int64_t best = -1;
    double best_cost = std::numeric_limits<double>::infinity();
    for (int64_t i = 0; i < count; ++i) {
        const double dx = xy[2 * i] - x, dy = xy[2 * i + 1] - y;
        double cost = dx * dx + dy * dy;
        if (direction != Direction::any) {
            const bool sideways = direction == Direction::left || direction == Direction::right;
            const double sign = direction == Direction::left || direction == Direction::up ? -1.0 : 1.0;
            const double along = sign * (sideways ? dx : dy);
            if (!(along > 0.0)) continue;
            cost = along + 2.0 * std::abs(sideways ? dy : dx);
        }
        if (cost < best_cost) {
            best_cost = cost;
            best = i;
        }
    }
    return best;
}

void heat_map(const double* value, int64_t value_rows, int64_t value_columns, int64_t rows, int64_t columns,
              double low, double high, int levels, int16_t* level) {
    const double share = high > low ? static_cast<double>(levels) / (high - low) : 0.0;
    for (int64_t r = 0; r < rows; ++r) {
        const int64_t top = r * value_rows / rows;
        const int64_t bottom = std::max(top + 1, (r + 1) * value_rows / rows);
        for (int64_t c = 0; c < columns; ++c) {
            const int64_t left = c * value_columns / columns;
            const int64_t right = std::max(left + 1, (c + 1) * value_columns / columns);
            double sum = 0.0;
            int64_t finite = 0;
            for (int64_t i = top; i < bottom; ++i)
                for (int64_t j = left; j < right; ++j) {
                    const double v = value[i * value_columns + j];
                    if (!std::isfinite(v)) continue;
                    sum += v;
                    ++finite;
                }
            const double place = finite > 0 ? (sum / static_cast<double>(finite) - low) * share : 0.0;
            // 0 also where the place is no number: a scale so short, or so long, has no share as a double
            const double within = place > 0.0 ? std::min(std::floor(place), levels - 1.0) : 0.0;
            level[r * columns + c] = finite > 0 ? static_cast<int16_t>(within) : int16_t{-1};
        }
    }
}

}  // namespace kltui
