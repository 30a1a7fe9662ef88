"""One target under atheris, in a process of its own: started by run.py.

python one.py TARGET SECONDS SEED FOUND_FOLDER NEW_FOLDER
"""

from __future__ import annotations

import importlib
import resource
import sys
import warnings
from pathlib import Path
from random import Random
from types import ModuleType

import atheris

HERE = Path(__file__).parent
MAX_INPUT = 1 << 14
SLOWEST_S = 60
MEMORY_MB = 1536
ADDRESSES = 6 << 30  # so that an array of a claimed size is refused here as a small machine refuses it


def libraries(name: str) -> list[str]:
    """What a target wants to be covered; read before anything is imported."""
    source = (HERE / "targets" / f"{name}.py").read_text()
    line = next((line for line in source.splitlines() if line.startswith("LIBRARIES = ")), "")
    return ["kltui", *(word for word in line.split('"')[1::2])]


def dictionary(target: ModuleType, folder: Path) -> list[str]:
    """libFuzzer's option for the target's words."""
    words = getattr(target, "WORDS", ())
    if not words:
        return []
    path = folder / "words"
    path.write_text("".join('"' + "".join(f"\\x{b:02x}" for b in word) + '"\n' for word in words if word))
    return [f"-dict={path}"]


def main(name: str, seconds: str, seed: str, found: str, new: str) -> None:
    with atheris.instrument_imports(include=libraries(name)):
        target = importlib.import_module(f"targets.{name}")
    warnings.simplefilter("error")
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    change_within = getattr(target, "mutate", None)

    def mutate(data: bytes, maximum: int, number: int) -> bytes:
        random = Random(number)
        if change_within is None or random.random() < 0.3:
            return bytes(atheris.Mutate(data, maximum))
        try:
            changed = change_within(data, random, lambda piece, size: bytes(atheris.Mutate(piece, size)))
        except Exception:  # too odd by now to be changed within its form
            return bytes(atheris.Mutate(data, maximum))
        return bytes(changed)[:maximum]

    options = [
        f"-max_total_time={seconds}", f"-seed={seed}", f"-artifact_prefix={found}/", f"-timeout={SLOWEST_S}",
        f"-rss_limit_mb={MEMORY_MB}", f"-max_len={getattr(target, 'MAX_INPUT', MAX_INPUT)}", "-len_control=20", "-print_final_stats=1", "-verbosity=1", f"-report_slow_units={SLOWEST_S}",
        *dictionary(target, Path(found)), new, str(HERE / "seeds" / name),
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *options], target.one_input, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
