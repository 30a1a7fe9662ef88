"""The benchmark of weight distances from files: both ways measure the same thing, and clean up."""

import numpy as np
import pytest

from kltui.bench import files
from kltui.bench.timing import measure


def test_both_ways_find_the_same_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "WIDTH", 40)
    with files._run_on_disk() as folders:
        band = np.asarray(files._distances(folders))
        np.testing.assert_allclose(band[: files.TIMED_PAIRS, 0], files._by_pairs(folders), rtol=1e-6)
        assert np.isfinite(band).sum() == files.PAIRS == 185
        assert len(files._read_mapped(folders)) == files.CHECKPOINTS * 2 * files.LAYERS
        files._forget(folders)
        np.testing.assert_array_equal(band, files._distances(folders))
    assert not any(folder.exists() for folder in folders)


def test_a_part_of_the_references_work_counts_for_the_whole() -> None:
    made = []
    ratio = measure(
        "nothing", lambda: sum(range(2000)), ("itself", lambda: sum(range(2000))),
        ("half of it", lambda: sum(range(1000))), share=0.5, before=lambda: made.append(1),
    )  # fmt: skip
    assert ratio.times_faster > 0 and len(made) == 3 * 8
