"""Compiled kernels for the CPU. Arguments are checked in kltui.kernels.native; call that."""

import numpy as np
from numpy.typing import NDArray

def isa() -> str: ...
def supported_isas() -> list[str]: ...
def has_bf16_products() -> bool: ...
def max_threads() -> int: ...
def split_values(
    x: NDArray[np.float64], bottom: float, top: float, threads: int
) -> tuple[int, NDArray[np.float64]]: ...
def read_once(array: NDArray[np.generic], threads: int) -> int: ...
def log_softmax_gather(
    logits: NDArray[np.generic], targets: NDArray[np.int64], scale: float, softcap: float, threads: int
) -> NDArray[np.float32]: ...
def online_update(
    tile: NDArray[np.generic],
    first: int,
    targets: NDArray[np.int64],
    scale: float,
    softcap: float,
    reference: NDArray[np.float32],
    sum: NDArray[np.float64],
    target_logit: NDArray[np.float32],
    threads: int,
) -> None: ...
def head_logprobs(
    hidden: NDArray[np.generic],
    weight: NDArray[np.generic],
    bias: NDArray[np.float32] | None,
    targets: NDArray[np.int64],
    scale: float,
    softcap: float,
    threads: int,
) -> NDArray[np.float32]: ...
def kl_rows(
    p: NDArray[np.generic], q: NDArray[np.generic], threads: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.uint8]]: ...
def causal_attention(
    query: NDArray[np.generic],
    key: NDArray[np.generic],
    value: NDArray[np.generic],
    out: NDArray[np.generic],
    scale: float,
    threads: int,
) -> None: ...
def rotate(
    x: NDArray[np.float32], cosine: NDArray[np.float32], sine: NDArray[np.float32], threads: int
) -> None: ...
def sum_by_text(
    logp: NDArray[np.float32], text_index: NDArray[np.int64], n_texts: int
) -> NDArray[np.float64]: ...
def double_centre(
    x: NDArray[np.float64],
    weights: NDArray[np.float64] | None,
    floor: float,
    out: NDArray[np.float64],
    threads: int,
) -> None: ...
def banded_sqdist(
    buffers: list[NDArray[np.uint8]], dtypes: list[str], band: int, threads: int
) -> NDArray[np.float64]: ...

class Raster:
    def __init__(self, width_cells: int, height_cells: int, kind: int) -> None: ...
    def clear(self) -> None: ...
    def segments(self, xy: NDArray[np.float64], series: NDArray[np.int16], marker: int) -> None: ...
    def points(self, xy: NDArray[np.float64], series: NDArray[np.int16], marker: int) -> None: ...
    def planes(self) -> tuple[NDArray[np.uint32], NDArray[np.int16]]: ...

def nearest(xy: NDArray[np.float64], x: float, y: float, direction: int) -> int: ...
def heat_map(
    values: NDArray[np.float64], rows: int, columns: int, low: float, high: float, levels: int
) -> NDArray[np.int16]: ...
