"""Peak memory while scoring grows neither with the vocabulary nor with the number of texts."""

import ctypes
import gc

import numpy as np
import pytest
import torch
from tiny_models import build_model

from kltui.bench import endtoend
from kltui.scoring.engine import Engine
from kltui.scoring.loading import Loaded
from kltui.scoring.settings import ScoringSettings

CPU = torch.device("cpu")
LIMIT_MB = 64


@pytest.mark.parametrize("vocabulary", [50_000, 150_000])
@pytest.mark.parametrize("layers", ["none", "all"])
def test_peak_beyond_weights_stays_small(vocabulary, layers):
    model = build_model("gpt_neox", vocab_size=vocabulary, hidden_size=16, max_position_embeddings=512)
    rng = np.random.default_rng(0)
    peaks = {}
    with torch.inference_mode():
        engine = Engine(
            Loaded(model, model.config, "sdpa", torch.float32, ()),
            ScoringSettings(layers=layers),
            CPU,
            "none",
        )
        for count in (200, 2000):
            ids = [rng.integers(0, vocabulary, 6) for _ in range(count)]
            endtoend.by_kltui(engine, ids[:300])
            gc.collect()
            ctypes.CDLL("libc.so.6").malloc_trim(0)
            before = endtoend._reset_peak(CPU)
            if np.isnan(before):
                pytest.skip("this system does not let a process reset its peak memory")
            endtoend.by_kltui(engine, ids)
            peaks[count] = (endtoend._peak(CPU) - before) / 2**20
    logits_mb = 1536 * vocabulary * 4 / 2**20
    assert peaks[200] < LIMIT_MB < logits_mb
    assert peaks[2000] < LIMIT_MB
