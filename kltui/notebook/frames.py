"""Maps as pandas data frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kltui.analysis.embed import Method
from kltui.analysis.loss import bits_per_byte
from kltui.analysis.map import Map
from kltui.errors import KltuiError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

AXES = ("x", "y", "z")


def _pandas() -> Any:
    """The pandas package. Raises KltuiError if it is not installed."""
    try:
        import pandas
    except ImportError:
        raise KltuiError(
            "data frames need pandas, which is not installed",
            "pip install '.[notebook]' in kltui's folder.",
        ) from None
    return pandas


def losses(shown: Map) -> list[tuple[float, float]]:
    """(loss, standard error over texts) in bits/byte of each of the K vectors."""
    return [bits_per_byte(row_N, shown.text_bytes_N, shown.text_ids_N) for row_N in shown.loglik_KN]


def map_frame(shown: Map, method: Method, dims: int, perplexity: float) -> pd.DataFrame:
    """A data frame with one row for each of the K vectors: lineage, loss in bits/byte with its error, `dims` coordinates.

    Coordinates are in sqrt(bits/byte), except those of t-SNE, which have no unit.
    """
    pd = _pandas()
    points, found = shown.points, losses(shown)
    frame = pd.DataFrame(
        {
            "name": shown.names,
            "run": [p.run for p in points],
            "step": pd.array([p.step for p in points], dtype="Int64"),
            "layer": pd.array([p.layer for p in points], dtype="Int64"),
            "quantization": [p.quantization for p in points],
            "seed": pd.array([p.seed for p in points], dtype="Int64"),
            "size": [p.size for p in points],
            "type": [p.type for p in points],
            "parent": [p.parent for p in points],
            "loss_bits_per_byte": [value for value, _ in found],
            "loss_se": [se for _, se in found],
            "n_unscored": shown.n_unscored,
        }
    )
    xyz_Kd = shown.coordinates(method, dims, perplexity=perplexity)
    for axis, column in zip(AXES, xyz_Kd.T, strict=False):
        frame[axis] = column
    return frame


def square_frame(names: list[str], values_KK: NDArray[Any]) -> pd.DataFrame:
    """A K x K matrix as a data frame with `names` as index and columns."""
    return _pandas().DataFrame(values_KK.copy(), index=names, columns=names)
