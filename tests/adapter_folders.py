"""Small adapters on small random models, as folders that peft wrote, with weights that show."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def _loader(base: Path) -> Any:
    """transformers' class that loads the whole model in a folder."""
    from shrunken_models import whole_loader
    from transformers import AutoConfig

    return whole_loader(AutoConfig.from_pretrained(base))


def write_adapter(base: Path, folder: Path, *, seed: int, rows: int | None = None, **config: Any) -> Path:
    """The folder, with a random adapter of this configuration on the model in `base`; `rows` resizes its vocabulary."""
    import peft
    import torch

    model: Any = _loader(base).from_pretrained(base, dtype=torch.float32)
    torch.manual_seed(seed)
    if rows is not None:
        model.resize_token_embeddings(rows, mean_resizing=False)
    kind = config.pop("kind", "LoraConfig")
    settings = (
        {"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM"} | config if kind == "LoraConfig" else config
    )
    adapted = peft.get_peft_model(model, getattr(peft, kind)(**settings))
    trained = [p for p in adapted.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.data += 0.1 * torch.randn_like(parameter)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft says that it saves embeddings too
        adapted.save_pretrained(folder, save_embedding_layers=True if rows is not None else "auto")
    return folder


def scored_fresh(base: Path, folder: Path, ids: list[list[int]], rows: int | None = None) -> list[float]:
    """Float64 sums of log p(x_t | x_<t) by a new PeftModel of the folders, one text at a time."""
    import peft
    import torch

    model: Any = _loader(base).from_pretrained(base, dtype=torch.float32)
    if rows is not None:
        model.resize_token_embeddings(rows, mean_resizing=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.PeftModel.from_pretrained(model, folder).double().eval()
    sums = []
    with torch.inference_mode():
        for row in ids:
            logp_TV = model(torch.tensor([row])).logits[0].log_softmax(-1)
            sums.append(float(sum(logp_TV[t, token] for t, token in enumerate(row[1:]))))
    return sums


def merged_float64(base: Path, folder: Path | None) -> dict[str, Any]:
    """{parameter: its values} of the base in float64, with the adapter merged into it by peft where one is given."""
    import peft
    import torch

    model: Any = _loader(base).from_pretrained(base, dtype=torch.float64)
    if folder is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = peft.PeftModel.from_pretrained(model, folder).double().merge_and_unload()
    return {name: p.detach().numpy() for name, p in model.named_parameters()}


def text_ids(base: Path, texts: Sequence[str]) -> list[list[int]]:
    """The token ids of each text by the tokenizer.json in `base`, with special tokens read as text."""
    from tokenizers import Tokenizer

    core = Tokenizer.from_file(str(base / "tokenizer.json"))
    core.encode_special_tokens = True
    return [core.encode(text).ids for text in texts]
