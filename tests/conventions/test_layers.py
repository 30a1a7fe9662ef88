"""Imports run one way: who may import whom, and who may import torch."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import kltui
from kltui.jobs.process import python_command

PACKAGE = Path(kltui.__file__).parent

# Each package, or module of the top level, with those that it may import from; others are out of reach.
BASE = {
    "version",
    "errors",
    "sanitize",
    "missing_path",
    "json_schema",
    "atomic_files",
    "threads",
    "termination",
    "lfs_pointer",
}
DATA = BASE | {"registry", "corpus", "scoring.settings", "analysis.point"}
MAY_IMPORT: dict[str, set[str]] = {
    "version": set(),
    "errors": set(),
    "sanitize": set(),
    "missing_path": {"sanitize"},
    "lfs_pointer": set(),
    "atomic_files": {"termination"},
    "termination": set(),
    "json_schema": set(),
    "help_text": set(),
    "option_use": {"errors"},
    "completion": {"figures.catalogue", "view.report"},
    "command_options": {
        "bench.parts",
        "completion",
        "figures.options",
        "help_text",
        "store.pair_values",
        "version",
    },
    "command_help": {"command_options", "help_text", "option_use"},
    "html_table": {"sanitize"},
    "threads": set(),
    "environment": BASE | {"kernels.native"},
    "gpus": BASE,
    "kernels": BASE,
    "corpus": BASE | {"demo.texts", "registry.names", "registry.hub", "registry.hub_client"},
    "registry": BASE,
    "analysis": BASE
    | {
        "html_table",
        "kernels.native",
        "kernels.reference",
        "registry.tensors",
        "registry.parameters",
        "registry.adapter_tensors",
    },
    "store": DATA | {"analysis.repeats"},
    "scoring": DATA | {"gpus", "kernels"},
    "importers": DATA | {"analysis"},
    "jobs": DATA
    | {
        "environment",
        "gpus",
        "store",
        "kernels.native",
        "scoring",
        "importers",
        "analysis.interpolation",
    },
    "workspace": DATA | {"analysis", "environment", "jobs", "kernels.native", "scoring.centring", "store"},
    "view": DATA | {"workspace", "analysis", "kernels", "store"},
    "tui": DATA
    | {"option_use", "figures", "workspace", "view", "jobs", "analysis", "store", "kernels.native"},
    "figures": DATA | {"view", "workspace", "store", "analysis", "importers"},
    "demo": DATA | {"jobs", "scoring", "view", "workspace"},
    "bench": DATA | {"kernels", "scoring", "jobs", "store", "analysis", "view", "workspace"},
    "doctor": DATA
    | {
        "tui.actions",
        "tui.keymap",
        "environment",
        "gpus",
        "jobs.device_probe",
        "kernels.native",
        "store",
        "workspace",
    }
    | {"scoring.device", "scoring.kernel_choice"},
    "check": DATA | {"store", "jobs"},
    "integrations": DATA | {"jobs", "watch.run"},
    "watch": DATA | {"environment", "jobs", "store", "analysis", "view", "workspace"},
    "cli": {"*"},
    "__main__": {"cli"},
    "notebook": DATA
    | {
        "analysis",
        "environment",
        "figures",
        "html_table",
        "jobs.path_hint",
        "jobs.single_model",
        "jobs.place",
        "scoring.in_memory",
        "store",
        "view",
        "workspace",
    },
    "__init__": {"notebook", "version"},
}
TORCH = (
    "scoring",
    "integrations",
    "bench",
    "demo.pretrain",
    "demo.adapters",
    "demo.reference",
    "registry.tensors",
)


@cache
def modules() -> list[str]:
    return sorted(
        ".".join(p.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        for p in PACKAGE.rglob("*.py")
    )


@cache
def imports(module: str) -> set[str]:
    """Every module imported anywhere in `module`, function bodies included, type checking aside."""
    path = PACKAGE.joinpath(*module.split("."))
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    found: set[str] = set()
    for node in ast.walk(_without_type_checking(ast.parse(source.read_text()))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


def _without_type_checking(tree: ast.Module) -> ast.Module:
    class Drop(ast.NodeTransformer):
        def visit_If(self, node: ast.If) -> ast.AST | None:
            return None if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING" else node

    return Drop().visit(tree)


def test_imports_run_one_way() -> None:
    packages = {module.split(".")[0] for module in modules()}
    assert packages <= MAY_IMPORT.keys(), "a package has no place in the order of imports: give it one here"
    assert {module: wrong for module in modules() if (wrong := out_of_order(module))} == {}


def out_of_order(module: str) -> list[str]:
    """What a module imports of kltui that it may not."""
    package = module.split(".")[0]
    allowed = MAY_IMPORT[package] | {package}
    targets = [name.removeprefix("kltui.") for name in sorted(imports(module)) if name.startswith("kltui.")]

    # The package of a module that may be imported is imported with it; each name out of it is looked at by itself.
    def fits(target: str) -> bool:
        return any(target == a or target.startswith(a + ".") or a.startswith(target + ".") for a in allowed)

    return [] if "*" in allowed else [target for target in targets if not fits(target)]


def test_torch_stays_where_it_is_needed() -> None:
    heavy = {
        module: found
        for module in modules()
        if not module.startswith(TORCH)
        and (found := {name for name in imports(module) if name.split(".")[0] in ("torch", "transformers")})
    }
    assert heavy == {}


HEAVY = ("torch", "transformers", "sklearn", "scipy", "pandas", "matplotlib")
LIGHT = (
    "import kltui",
    "from kltui.command_options import build_parser; build_parser()",
    "import kltui.tui.main",
    "import kltui.workspace, kltui.view.report, kltui.view.export, kltui.analysis.map",
    "import kltui.jobs.batch, kltui.jobs.launch",
    "import kltui.notebook.workspace, kltui.notebook.score",
)


def test_starts_without_torch() -> None:
    """One after another in one process: the first that imports what it must not is named."""
    code = (
        "import json, sys; root, *lines = sys.argv[1:]; sys.path.insert(0, root)\n"
        f"for line in lines:\n    exec(line)\n    print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    )
    command = [sys.executable, "-P", "-c", code, str(PACKAGE.parent), *LIGHT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    loaded = map(json.loads, done.stdout.splitlines())
    assert dict(zip(LIGHT, loaded, strict=True)) == {line: [] for line in LIGHT}


def test_no_file_is_beyond_six_hundred_lines() -> None:
    long = [p.name for p in PACKAGE.rglob("*.py") if len(p.read_text().splitlines()) > 600]
    assert not long


def test_command_runs_the_same_package_from_a_folder_named_kltui(tmp_path: Path) -> None:
    (tmp_path / "kltui").mkdir()
    (tmp_path / "kltui" / "__init__.py").write_text("raise SystemExit('the wrong kltui')")
    done = subprocess.run(
        python_command("kltui.cli", "main", "--version"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip() == f"kltui {kltui.__version__}"
