"""The tokenizer, token streams and corpus of a demo, made once from the standard library and stored next to the runs."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from kltui.demo.suite import PlannedRun, Suite
from kltui.demo.texts import CorpusText, Document, corpus_items, finetuning_texts, training_texts
from kltui.errors import UsageError
from kltui.sanitize import safe_text

END_OF_TEXT = "<|endoftext|>"
FOLDER = "pretraining"
CORPUS_FILE = "corpus.jsonl"


@dataclass(frozen=True)
class Prepared:
    """The training data of all runs: packed token streams (uint16), and the unigram entropy of the first in nats per token."""

    folder: Path
    pretraining: NDArray[np.uint16]
    finetuning: NDArray[np.uint16]
    finetuning_domain: str
    unigram_nats: float

    @property
    def corpus(self) -> Path:
        """The held-out corpus, JSONL with `text` and `domain`."""
        return self.folder / CORPUS_FILE

    @property
    def tokenizer(self) -> Path:
        """Folder with tokenizer.json and its settings, which are copied into every checkpoint."""
        return self.folder / "tokenizer"


def prepare(workspace: Path, suite: Suite, root: Path | None = None) -> Prepared:
    """The demo's texts in `workspace`/pretraining, made from the library at `root` unless an earlier start has written them.

    Raises UsageError if an earlier start used other settings.
    """
    folder = workspace / FOLDER
    if not folder.is_dir():
        aside = workspace / f".{FOLDER}.{os.getpid()}"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        _write(aside, suite, root)
        aside.rename(folder)
    return load(folder, suite)


def load(folder: Path, suite: Suite) -> Prepared:
    """The texts that `prepare` wrote into `folder`. Raises UsageError if they are not those of `suite`."""
    try:
        plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
        found = str(plan["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        found = ""
    if found != suite.digest():
        raise UsageError(
            f"{safe_text(str(folder))} was made by a demo with other settings",
            "Name a new folder: kltui --demo DIR. Or delete this one and start again.",
        )
    return Prepared(
        folder,
        np.load(folder / "pretraining.npy", mmap_mode="r"),
        np.load(folder / "finetuning.npy", mmap_mode="r"),
        plan["finetuning_domain"],
        plan["unigram_nats"],
    )


def train_tokenizer(documents: Iterable[str], vocabulary: int) -> Tokenizer:
    """A byte-level BPE tokenizer like Pythia's, with `vocabulary` entries; it can encode any text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer


def pack(tokenizer: Tokenizer, documents: Sequence[Document]) -> NDArray[np.uint16]:
    """All documents' tokens in one stream, each followed by the end-of-text token."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    encoded = tokenizer.encode_batch([d.text for d in documents])
    return np.concatenate([np.array([*e.ids, end], dtype=np.uint16) for e in encoded])


def unigram_entropy(tokens: NDArray[np.uint16]) -> float:
    """Entropy of the token frequencies in nats per token: the lowest possible loss of a model that ignores context."""
    counts = np.bincount(tokens)
    p = counts[counts > 0] / tokens.size
    return float(-(p * np.log(p)).sum())


def batches(tokens_n: NDArray[np.uint16], suite: Suite, run: PlannedRun) -> NDArray[np.int64]:
    """Index of the first token of every sequence of a run, shape (steps, B); each sequence is T + 1 tokens long.

    The seed determines the order. Every sequence is used once before any is used again.
    """
    n_sequences = (tokens_n.size - 1) // suite.length
    needed = run.last_step * suite.batch
    rng = np.random.default_rng([run.seed, len(run.parent)])
    passes = [rng.permutation(n_sequences) for _ in range(-(-needed // n_sequences))]
    starts = np.concatenate(passes)[:needed] * suite.length
    return starts.reshape(run.last_step, suite.batch)


def _write(folder: Path, suite: Suite, root: Path | None) -> None:
    pretraining, finetuning = training_texts(root, suite.training_bytes), finetuning_texts(root)
    _write_corpus(folder / CORPUS_FILE, corpus_items(root))
    tokenizer = train_tokenizer((d.text for d in pretraining), suite.vocabulary)
    _write_tokenizer(folder / "tokenizer", tokenizer, suite)
    tokens = pack(tokenizer, pretraining)
    np.save(folder / "pretraining.npy", tokens)
    np.save(folder / "finetuning.npy", pack(tokenizer, finetuning))
    plan: dict[str, Any] = {
        "digest": suite.digest(),
        "finetuning_domain": finetuning[0].domain,
        "unigram_nats": unigram_entropy(tokens),
        "suite": asdict(suite),
    }
    (folder / "plan.json").write_text(json.dumps(plan, indent=1), encoding="utf-8")


def _write_tokenizer(folder: Path, tokenizer: Tokenizer, suite: Suite) -> None:
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "unk_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
        "model_max_length": suite.context,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1), encoding="utf-8")


def _write_corpus(path: Path, items: Sequence[CorpusText]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for index, item in enumerate(items):
            row = {"index": index, **asdict(item), "package": item.package}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
