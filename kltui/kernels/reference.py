"""The readable numpy reference implementation of every native operation. It runs without the extension, and tests compare with it.

Shape letters: n rows of logits, V vocabulary, D hidden size, K checkpoints, N texts. Half precision arrives as float16,
or as uint16 for bfloat16. Everything is computed in float64 unless stated otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


def widened(x: NDArray[np.generic]) -> F64:
    """`x` in float64; uint16 are the bits of bfloat16."""
    if x.dtype == np.uint16:
        return (x.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return x.astype(np.float64)


def transformed(logits: F64, scale: float, softcap: float) -> F64:
    """`softcap * tanh(scale * logits / softcap)`, or `scale * logits` if softcap is 0."""
    scaled = logits * scale
    return softcap * np.tanh(scaled / softcap) if softcap > 0 else scaled


def _row_blocks(n: int, width: int) -> Iterator[slice]:
    """Slices of rows with about 2**22 numbers each, so that a large matrix needs little additional memory."""
    step = max(1, (1 << 22) // max(1, width))
    for start in range(0, n, step):
        yield slice(start, min(n, start + step))


def below_top(x_nV: F64) -> tuple[F64, F64]:
    """(x minus its row's maximum, n x V; log of the sum of its exp, n); NaN for rows with NaN or +inf, or only -inf.

    log p is the first minus the second. Adding the maximum to the second would lose precision: at a maximum of 2^53,
    neighbouring float64 are 2 apart, and log 2, for a maximum that occurs twice, would be rounded off.
    """
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        below = x_nV - x_nV.max(axis=1, keepdims=True)
        return below, np.asarray(np.log(np.exp(below).sum(axis=1)))


def log_softmax_gather(
    logits_nV: NDArray[np.generic], targets_n: NDArray[np.int64], scale: float = 1.0, softcap: float = 0.0
) -> NDArray[np.float32]:
    """log p(target) of every row in nats, n float32; NaN for a row with NaN or +inf, or only -inf."""
    out = np.empty(len(logits_nV), np.float32)
    for rows in _row_blocks(*logits_nV.shape):
        x = transformed(widened(logits_nV[rows]), scale, softcap)
        below, log_sum = below_top(x)
        out[rows] = below[np.arange(len(x)), targets_n[rows]] - log_sum
    return out


def online_update(
    tile_nv: NDArray[np.generic],
    first: int,
    targets_n: NDArray[np.int64],
    scale: float,
    softcap: float,
    reference_n: NDArray[np.float32],
    sum_n: F64,
    target_logit_n: NDArray[np.float32],
) -> None:
    """Adds a tile of vocabulary entries to running values of every row, in place: sum of exp(x - reference), target's logit."""
    x = transformed(widened(tile_nv), scale, softcap)
    with np.errstate(invalid="ignore", over="ignore"):
        raised = np.fmax(reference_n, np.fmax.reduce(x, axis=1)).astype(np.float32)
        sum_n *= np.exp(reference_n.astype(np.float64) - raised)
        sum_n += np.exp(x - raised.astype(np.float64)[:, None]).sum(axis=1)
    reference_n[:] = raised
    held = np.flatnonzero((targets_n >= first) & (targets_n < first + x.shape[1]))
    target_logit_n[held] = x[held, targets_n[held] - first]


def head_logprobs(
    hidden_nD: NDArray[np.generic],
    weight_VD: NDArray[np.generic],
    bias_V: NDArray[np.float32] | None,
    targets_n: NDArray[np.int64],
    scale: float,
    softcap: float,
) -> NDArray[np.float32]:
    """log p(target) of every row of hidden states in nats, n float32; a few rows of logits at a time."""
    weight = widened(weight_VD)
    out = np.empty(len(hidden_nD), np.float32)
    for rows in _row_blocks(len(hidden_nD), len(weight)):
        with np.errstate(invalid="ignore", over="ignore"):
            x = widened(hidden_nD[rows]) @ weight.T + (0.0 if bias_V is None else bias_V)
            x = transformed(x, scale, softcap)
            below, log_sum = below_top(x)
            out[rows] = below[np.arange(len(x)), targets_n[rows]] - log_sum
    return out


def kl_rows(p_nV: NDArray[np.generic], q_nV: NDArray[np.generic]) -> tuple[F64, F64, NDArray[np.bool_]]:
    """KL(p || q), KL(q || p) in nats, and whether the first maxima are the same token, n each.

    A token whose logit is 745 or more below the maximum of its row has probability 0 in float64, and contributes 0.
    """
    p, q = widened(p_nV), widened(q_nV)
    (u, log_sum_p), (v, log_sum_q) = below_top(p), below_top(q)
    with np.errstate(invalid="ignore", over="ignore"):
        ratio = (u - v) - (log_sum_p - log_sum_q)[:, None]  # log p / q
        forward = np.where(u <= -745, 0.0, np.exp(u - log_sum_p[:, None]) * ratio).sum(axis=1)
        reverse = np.where(v <= -745, 0.0, np.exp(v - log_sum_q[:, None]) * -ratio).sum(axis=1)
    undefined = np.isnan(log_sum_p) | np.isnan(log_sum_q)
    forward[undefined] = reverse[undefined] = np.nan
    return forward, reverse, (p.argmax(axis=1) == q.argmax(axis=1)) & ~undefined


def causal_attention(
    query_BHTD: NDArray[np.generic],
    key_BGTD: NDArray[np.generic],
    value_BGTE: NDArray[np.generic],
    scale: float,
) -> NDArray[np.generic]:
    """Causal attention, B x T x H x E in the query's dtype (uint16: bfloat16 bits)."""
    share = query_BHTD.shape[1] // key_BGTD.shape[1]
    query, key, value = (widened(x) for x in (query_BHTD, key_BGTD, value_BGTE))
    key, value = key.repeat(share, axis=1), value.repeat(share, axis=1)
    scores = query @ key.swapaxes(2, 3) * scale
    T = scores.shape[-1]
    scores[..., np.triu(np.ones((T, T), bool), 1)] = -np.inf
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    mixed = (weights / weights.sum(axis=-1, keepdims=True)) @ value
    out = mixed.swapaxes(1, 2).astype(np.float32)
    if query_BHTD.dtype != np.uint16:
        return np.asarray(out)
    bits = out.view(np.uint32)
    return np.asarray(((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16))


def rotate(
    x_BHTD: NDArray[np.float32], cosine_BTR: NDArray[np.float32], sine_BTR: NDArray[np.float32]
) -> None:
    """Rotary position embedding of the first R entries of every row, in place."""
    x = x_BHTD[..., : cosine_BTR.shape[-1]]
    half = x.shape[-1] // 2
    turned = np.concatenate([-x[..., half:], x[..., :half]], axis=-1)
    x[:] = x * cosine_BTR[:, None] + turned * sine_BTR[:, None]


def sum_by_text(logp_n: NDArray[np.float32], text_index_n: NDArray[np.int64], n_texts: int) -> F64:
    """Sum of the log-probabilities of each text in nats, n_texts float64; 0 for a text without tokens."""
    sums = np.zeros(n_texts, np.float64)
    np.add.at(sums, text_index_n, logp_n.astype(np.float64))
    return sums


def double_centre(x_KN: F64, weights_N: F64 | None = None, floor: float = -np.inf) -> F64:
    """max(x, floor) minus row means, minus column means, plus the grand mean, K x N; `weights_N` weights means over texts."""
    clipped = np.where(x_KN < floor, floor, x_KN)
    row = np.average(clipped, axis=1, weights=weights_N)
    column = clipped.mean(axis=0)
    return np.asarray(clipped - row[:, None] - column[None, :] + np.average(column, weights=weights_N))


def split_values(x: F64, bottom: float, top: float) -> tuple[int, F64]:
    """(number of values below `bottom`, the values neither below `bottom` nor above `top`, including NaN)."""
    low = x < bottom
    return int(np.count_nonzero(low)), x[~(low | (x > top))]


def banded_sqdist(buffers: Sequence[NDArray[np.uint8]], dtypes: Sequence[str], band: int) -> F64:
    """[k, d-1] = |theta_{k+d} - theta_k|^2 of one tensor given as raw bytes, K x band float64; 0 where k + d >= K."""
    kinds = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
    typed = [buffer.view(kinds[dtype]) for buffer, dtype in zip(buffers, dtypes, strict=True)]
    out = np.zeros((len(buffers), band))
    for rows in _row_blocks(len(typed[0]), len(typed)):
        values = [widened(tensor[rows]) for tensor in typed]
        for k, base in enumerate(values):
            for d, other in enumerate(values[k + 1 : k + 1 + band]):
                out[k, d] += np.square(other - base).sum()
    return out


# -- raster --------------------------------------------------------------------------------------------------------

_DOTS = {"braille": (2, 4), "dots": (1, 1), "half": (1, 2), "ascii": (1, 1)}
_BRAILLE_BIT = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_HALF_BLOCK = (0x20, 0x2580, 0x2584, 0x2588)


Ends = tuple[float, float, float, float]


def _clipped_axis(u0: float, v0: float, u1: float, v1: float, limit: float) -> Ends | None:
    """The segment with its first axis clipped to [0, limit], or None; a clipped end lies exactly on the border."""
    if (u0 < 0 and u1 < 0) or (u0 > limit and u1 > limit):
        return None

    def cut(end: float, across: float) -> tuple[float, float]:
        if 0 <= end <= limit:
            return end, across
        border = 0.0 if end < 0 else limit
        return border, v0 + (v1 - v0) * ((border - u0) / (u1 - u0))

    return (*cut(u0, v0), *cut(u1, v1))


def clipped_segment(x0: float, y0: float, x1: float, y1: float, width: float, height: float) -> Ends | None:
    """The part of a segment inside [0, width] x [0, height]; None if there is none."""
    across = _clipped_axis(x0, y0, x1, y1, width)
    if across is None:
        return None
    x0, y0, x1, y1 = across
    down = _clipped_axis(y0, x0, y1, x1, height)
    return None if down is None else (down[1], down[0], down[3], down[2])


class ReferenceRaster:
    """Reference implementation of the native raster, which sets the same cells for the same points and segments."""

    def __init__(self, width_cells: int, height_cells: int, kind: str) -> None:
        self.kind = kind
        self.dots = _DOTS[kind]
        self.shape = (height_cells, width_cells)
        self.mask = np.zeros(self.shape, np.uint8)
        self.series = np.full(self.shape, -1, np.int16)
        self.marker = np.zeros(self.shape, np.uint32)

    def clear(self) -> None:
        """Empties every cell."""
        self.mask[:] = 0
        self.series[:] = -1

    def _set_dot(self, x: int, y: int, series: int, marker: int) -> None:
        dots_x, dots_y = self.dots
        cell = (y // dots_y, x // dots_x)
        self.mask[cell] |= _BRAILLE_BIT[y % dots_y][x % dots_x]
        self.series[cell] = series
        self.marker[cell] = marker

    def points(self, xy_n2: F64, series_n: NDArray[np.int16], marker: int) -> None:
        """Sets the dot at each point; points outside the raster or not finite are ignored."""
        width, height = self.shape[1] * self.dots[0], self.shape[0] * self.dots[1]
        for (x, y), series in zip(xy_n2, series_n, strict=True):
            if 0 <= x < width and 0 <= y < height:
                self._set_dot(int(x), int(y), int(series), marker)

    def segments(self, xy_n4: F64, series_n: NDArray[np.int16], marker: int) -> None:
        """Sets the dots along each segment after clipping; segments that are not finite are ignored."""
        width, height = self.shape[1] * self.dots[0], self.shape[0] * self.dots[1]
        for segment, series in zip(xy_n4, series_n, strict=True):
            if not np.isfinite(segment).all():
                continue
            x0, y0, x1, y1 = np.clip(segment, -1e100, 1e100).tolist()
            inside = clipped_segment(x0, y0, x1, y1, width, height)
            if inside is not None and min(inside[0::2]) < width and min(inside[1::2]) < height:
                self._draw(inside, (width, height), int(series), marker)

    def _draw(self, ends: Ends, size: tuple[int, int], series: int, marker: int) -> None:
        def dot(x: float, y: float) -> tuple[int, int]:
            return min(max(int(x), 0), size[0] - 1), min(max(int(y), 0), size[1] - 1)

        x0, y0, x1, y1 = ends
        (first_x, first_y), (last_x, last_y) = dot(x0, y0), dot(x1, y1)
        steps = max(abs(last_x - first_x), abs(last_y - first_y))
        for i in range(steps):
            t = i * (1.0 / steps)
            self._set_dot(*dot(x0 + (x1 - x0) * t, y0 + (y1 - y0) * t), series, marker)
        self._set_dot(last_x, last_y, series, marker)

    def planes(self) -> tuple[NDArray[np.uint32], NDArray[np.int16]]:
        """Code points and series of every cell, each height x width; a space and -1 for an empty cell."""
        if self.kind == "braille":
            full = self.mask.astype(np.uint32) + 0x2800
        elif self.kind == "half":
            full = np.array(_HALF_BLOCK, np.uint32)[self.mask & 3]
        else:
            full = self.marker
        return np.where(self.mask == 0, np.uint32(0x20), full).astype(np.uint32), self.series.copy()


def nearest(xy_n2: F64, x: float, y: float, direction: int) -> int:
    """Index of the point nearest to (x, y), -1 if there is none; `direction` 1 to 4: left, right, up, down (y grows downwards)."""
    if not len(xy_n2):
        return -1
    delta = xy_n2 - (x, y)
    if direction == 0:
        cost = np.square(delta).sum(axis=1)
    else:
        axis = 0 if direction <= 2 else 1
        along = delta[:, axis] * (-1.0 if direction in (1, 3) else 1.0)
        with np.errstate(invalid="ignore"):
            cost = np.where(along > 0, along + 2 * np.abs(delta[:, 1 - axis]), np.inf)
    cost = np.where(np.isnan(cost), np.inf, cost)
    best = int(np.argmin(cost))
    return best if np.isfinite(cost[best]) else -1


def heat_map(
    values_RC: F64, rows: int, columns: int, low: float, high: float, levels: int
) -> NDArray[np.int16]:
    """Level 0 .. levels - 1 of every pixel, rows x columns: the mean of the finite values it covers; -1 if there are none."""
    out = np.full((rows, columns), -1, np.int16)
    share = levels / (high - low) if high > low else 0.0
    for r, box_r in enumerate(_boxes(values_RC.shape[0], rows)):
        for c, box_c in enumerate(_boxes(values_RC.shape[1], columns)):
            box = values_RC[box_r, box_c]
            finite = box[np.isfinite(box)]
            if finite.size:
                place = np.floor((float(finite.sum()) / finite.size - low) * share)
                out[r, c] = int(min(max(0.0, place), levels - 1.0))  # in this order 0 where it is NaN
    return out


def _boxes(extent: int, pixels: int) -> Sequence[slice]:
    """The range of source indices that each of `pixels` covers, at least one."""
    starts = [p * extent // max(1, pixels) for p in range(pixels + 1)]
    return [slice(a, max(a + 1, b)) for a, b in pairwise(starts)]
