"""The rooms of the package and the arrows between them, and what may be imported when."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

import dmcp_deploy
from dmcp_deploy import registry

PACKAGE = "dmcp_deploy"
ROOT = Path(dmcp_deploy.__file__).parent

#: Modules that any room may import; they import nothing but one another.
BASE = {
    *(
        "artifact",
        "artifact_names",
        "errors",
        "extras",
        "plan",
        "progress",
        "registry",
        "request",
        "rundir",
        "text_table",
        "units",
    ),
}

#: What a run is made of, seen from the modules that string its stages together.
STAGES = {"search", "training", "network", "export", "bench", "runtimes"}

#: A folder, or a module beside it -> the rooms it may import, besides itself and BASE.
MAY_IMPORT = {
    "network": set[str](),
    "training": {"network"},
    "search": {"training", "network", "rooms"},
    "runtimes": set[str](),
    "export": {"network", "runtimes", "rooms"},
    "bench": {"runtimes", "rooms"},
    "checks": {"training", "network"},
    "listing": {"network"},
    "published": {"network"},
    "summary": {"bench", "runtimes"},
    "report": {"bench", "runtimes"},
    "resolve": {"training"},
    "job": {"search", "training", "network"},
    "stages": {*STAGES, "checks", "job"},
    "engines": {"bench", "export", "runtimes"},
    "budgets": {"network", "resolve", "search", "training"},
    "comparison": {
        *("bench", "budgets", "bench_artifacts", "network", "pipeline", "report"),
        *("resolve", "search", "training"),
    },
    "doctor": {"bench", "runtimes"},
    "bench_layers": {"bench", "bench_artifacts"},
    "bench_artifacts": {"bench", "engines", "job", "runtimes", "stages"},
    "pipeline": {*STAGES, "bench_artifacts", "engines", "job", "resolve", "stages"},
    # The one arrow back: a call of the package `dmcp_deploy.search` runs `pipeline.search`. It is
    # imported in the call, never before; see the test of the rooms' faces.
    "rooms": {"pipeline"},
    "__init__": set[str](),
    "launch": set[str](),
    "cli_options": {"cli_commands", "launch", "training"},
    "cli_commands": {"launch"},
    "cli_plan": {"cli_commands", "cli_options", "published"},
    "cli_table": {"bench", "cli_commands", "cli_options", "tables"},
    "probes": {"bench", "export", "network", "search"},
    "tables": {"bench", "bench_artifacts", "probes", "published", "runtimes"},
    "cli": {
        *(*STAGES, "bench_layers", "cli_commands", "cli_options", "cli_plan"),
        *(
            "budgets",
            "cli_table",
            "comparison",
            "doctor",
            "pipeline",
            "listing",
            "report",
            "summary",
        ),
    },
    "__main__": {"cli"},
    "pytest_plugin": {"bench", "pipeline"},
}

#: Packages that can be called as the stage of their name, by way of `rooms`.
CALLABLE = ("search", "export", "bench")

#: Run on a device, where there is no torch.
TORCH_FREE = (
    *("bench", "doctor", "engines", "report", "runtimes", "summary", "tables"),
    *(f"export.{name}" for name in ("engine", "half_", "image_", "lower_precision")),
    *(f"export.{name}" for name in ("onnx_file", "precisions", "quantize", "verify")),
    *(f"published.{name}" for name in ("formats", "plan_text")),
)


def module_name(path: Path) -> str:
    """Returns "plan" or "network.graph"; a folder's own module is "network"."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


@pytest.mark.parametrize("module", MODULES)
def test_arrows_between_rooms_run_one_way(module: str) -> None:
    room = room_of(module)
    assert room in BASE | set(MAY_IMPORT), "say in BASE or MAY_IMPORT what it may import"
    allowed = BASE | ({room} | MAY_IMPORT[room] if room in MAY_IMPORT else set())
    assert not {name for name in imports_of(module) if room_of(name) not in allowed}


@pytest.mark.parametrize("module", [name for name in MODULES if name not in {"cli", "__init__"}])
def test_only_the_command_line_uses_the_package_by_its_face(module: str) -> None:
    rooms = {room_of(name) for name in MODULES}
    taken = {name for name in imported_names(module) if name.startswith(f"{PACKAGE}.")}
    faces = {name.split(".")[1] for name in taken} - rooms
    assert faces <= {"__version__"}


@pytest.mark.parametrize("method", registry.METHODS)
def test_a_search_method_imports_no_other_method(method: str) -> None:
    own = registry.METHODS[method].removeprefix(f"{PACKAGE}.")
    others = {path.removeprefix(f"{PACKAGE}.") for path in registry.METHODS.values()} - {own}
    assert not imports_of(own) & others


@pytest.mark.parametrize(
    ("module", "statement", "found"),
    [
        ("plan", "from dmcp_deploy.artifact import read_artifact", "dmcp_deploy.artifact"),
        ("plan", "from dmcp_deploy import artifact", "dmcp_deploy.artifact"),
        ("plan", "import dmcp_deploy.artifact as files", "dmcp_deploy.artifact"),
        ("plan", "def f():\n    from dmcp_deploy import cli", "dmcp_deploy.cli"),
        ("plan", "if TYPE_CHECKING:\n    from .cli import main", "dmcp_deploy.cli"),
        ("search.dmcp", "from . import markov", "dmcp_deploy.search.markov"),
        ("search.dmcp", "from .markov import sample", "dmcp_deploy.search.markov"),
        ("search.dmcp", "from ..network.graph import f", "dmcp_deploy.network.graph"),
        ("search", "from .markov import sample", "dmcp_deploy.search.markov"),
        ("__init__", "from .pipeline import prune", "dmcp_deploy.pipeline"),
    ],
)
def test_every_form_of_import_is_seen(module: str, statement: str, found: str) -> None:
    assert found in names_in(statement, module, is_folder=module == "search")


def test_importing_the_package_and_its_command_line_loads_nothing_heavy() -> None:
    loaded = python("-c", f"import sys, {PACKAGE}.cli; print(*sys.modules)", path=ROOT.parent)
    heavy = {"numpy", "onnx", "onnxruntime", "onnxscript", "safetensors", "timm", "torch", "tqdm"}
    assert {f"{PACKAGE}.cli", "click"} <= set(loaded.split())
    assert not heavy & set(loaded.split())


@pytest.mark.parametrize("room", CALLABLE)
def test_a_package_that_can_be_called_imports_the_pipeline_in_the_call_alone(room: str) -> None:
    shown = f"sorted(name for name in sys.modules if name.startswith('{PACKAGE}.'))"
    loaded = python("-c", f"import sys, {PACKAGE}.{room}; print(*{shown})", path=ROOT.parent)
    assert set(loaded.split()) == {f"{PACKAGE}.{room}", f"{PACKAGE}.rooms"}


def test_only_packages_that_can_be_called_import_what_makes_them_so() -> None:
    assert {name for name in MODULES if "rooms" in imports_of(name)} == set(CALLABLE)


def test_help_works_with_click_alone(tmp_path: Path) -> None:
    refuse_all_but(tmp_path, "click")
    text = python("-m", PACKAGE, "--help", path=tmp_path)
    assert text.startswith("Usage: ")
    assert "prune" in text


HELP_OF_EVERY_COMMAND = """
import click
from click.testing import CliRunner
from dmcp_deploy.cli import main

for name in main.list_commands(click.Context(main)):
    result = CliRunner().invoke(main, [name, "--help"], catch_exceptions=False)
    assert result.exit_code == 0, (name, result.output)
    print(name)
"""


def test_help_of_every_command_works_with_click_alone(tmp_path: Path) -> None:
    refuse_all_but(tmp_path, "click")
    commands = python("-c", HELP_OF_EVERY_COMMAND, path=tmp_path).split()
    assert "prune" in commands


def test_modules_for_the_device_are_imported_without_torch(tmp_path: Path) -> None:
    # None stands for a module that cannot be found, also to those that look before they import.
    missing = "import sys; sys.modules.update(dict.fromkeys(['torch', 'torchvision', 'timm']))\n"
    (tmp_path / "sitecustomize.py").write_text(missing)
    names = [f"{PACKAGE}.{m}" for m in MODULES if m.startswith(TORCH_FREE) and "torch" not in m]
    python("-c", f"import {', '.join(names)}", path=tmp_path)


def test_a_refused_import_fails(tmp_path: Path) -> None:
    refuse_all_but(tmp_path, "click")
    with pytest.raises(AssertionError, match="refused: numpy"):
        python("-c", "import numpy", path=tmp_path)


# `sitecustomize` is imported by Python before anything else.
GUARD = """
import sys

class Guard:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if {condition}:
            raise ModuleNotFoundError(f"refused: {{name}}", name=name)

sys.meta_path.insert(0, Guard())
"""


def refuse(folder: Path, condition: str) -> None:
    (folder / "sitecustomize.py").write_text(GUARD.format(condition=condition))


def refuse_all_but(folder: Path, library: str) -> None:
    known = {PACKAGE, library, "sitecustomize", "usercustomize"}
    refuse(folder, f"top not in sys.stdlib_module_names | {known!r}")


def python(*arguments: str, path: Path) -> str:
    """Returns what Python prints when `path` and this checkout lead its search path."""
    done = subprocess.run(
        [sys.executable, *arguments],
        env={"PYTHONPATH": f"{path}:{ROOT.parent}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def room_of(module: str) -> str:
    return module.partition(".")[0]


def imports_of(module: str) -> set[str]:
    """Returns the modules of this package that a module imports anywhere in its text."""
    inner = {name.removeprefix(f"{PACKAGE}.") for name in imported_names(module)}
    return inner & set(MODULES)


def imported_names(module: str) -> set[str]:
    path = MODULES[module]
    is_folder = path.name == "__init__.py" and path.parent != ROOT
    return names_in(path.read_text(encoding="utf-8"), module, is_folder)


def names_in(text: str, module: str, is_folder: bool) -> set[str]:
    """Returns the full names of what import statements name, modules or not."""
    nodes = list(ast.walk(ast.parse(text)))
    plain = (alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names)
    return {*plain, *_names_taken(nodes, [PACKAGE, *module.split("."), *["."] * is_folder])}


def _names_taken(nodes: Iterable[ast.AST], importer: list[str]) -> Iterable[str]:
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            above = importer[: -node.level] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            yield source
            yield from (f"{source}.{alias.name}" for alias in node.names)
