"""What an import costs and needs; the directions between rooms are contracts in pyproject.toml."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import dmcp_deploy
from dmcp_deploy import registry

PACKAGE = "dmcp_deploy"
ROOT = Path(dmcp_deploy.__file__).parent

#: Run on a device, where there is no torch.
TORCH_FREE = (
    *(
        "bench",
        "machine",
        "onnxgraph",
        "options",
        "report",
        "runtimes",
        "run.engines",
        "run.summary",
    ),
    *("run.tables", "rundir", "export.engine", "export.half_", "export.image_"),
    *("export.lower_precision", "export.precisions", "export.quantize", "export.verify"),
    *("published.formats", "published.plan_text"),
)


def module_name(path: Path) -> str:
    """Returns "plan" or "network.graph"; a folder's own module is "network"."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def test_the_package_does_not_use_its_own_face() -> None:
    taken = {(name, alias) for name, path in MODULES.items() for alias in names_taken(path)}
    assert {(name, alias) for name, alias in taken if name != "__init__"} <= {
        (name, "__version__") for name in MODULES
    }


def test_the_contract_of_the_search_methods_names_them_all() -> None:
    contracts = (ROOT.parent / "pyproject.toml").read_text(encoding="utf-8")
    paths = (path.partition(":")[0] for path in registry.METHODS.values())
    modules = {path.removesuffix(".method") for path in paths}
    assert {module for module in modules if f'"{module}",' not in contracts} == set()


@pytest.mark.parametrize("name", dmcp_deploy.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    assert getattr(dmcp_deploy, name).__doc__


@pytest.mark.parametrize("name", ["search", "export", "bench", "run"])
def test_packages_are_packages_and_nothing_else(name: str) -> None:
    package = getattr(dmcp_deploy, name)
    assert package.__spec__.submodule_search_locations
    assert not callable(package)


def test_editors_and_type_checkers_see_the_face(tmp_path: Path) -> None:
    source = tmp_path / "face.py"
    names = ", ".join(f"dmcp_deploy.{name}" for name in dmcp_deploy.__all__)
    source.write_text(f"import dmcp_deploy\nreveal_type(({names}))\ndmcp_deploy.prune(1, '50%')\n")
    command = [sys.executable, "-m", "mypy", "--no-incremental", "--follow-imports=silent", source]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT.parent)
    assert "has no attribute" not in done.stdout, done.stdout
    assert 'Argument 1 to "prune" has incompatible type "int"' in done.stdout
    assert "Any" not in done.stdout.partition("Revealed type")[2].partition("def (")[0]


def test_importing_the_package_and_its_command_line_loads_nothing_heavy() -> None:
    loaded = python("-c", f"import sys, {PACKAGE}.cli.main; print(*sys.modules)", path=ROOT.parent)
    heavy = {"numpy", "onnx", "onnxruntime", "onnxscript", "safetensors", "timm", "torch", "tqdm"}
    assert {f"{PACKAGE}.cli.main", "click"} <= set(loaded.split())
    assert not heavy & set(loaded.split())


def test_help_works_with_click_alone(tmp_path: Path) -> None:
    refuse_all_but(tmp_path, "click")
    text = python("-m", PACKAGE, "--help", path=tmp_path)
    assert text.startswith("Usage: ")
    assert "prune" in text


HELP_OF_EVERY_COMMAND = """
import click
from click.testing import CliRunner
from dmcp_deploy.cli.main import main

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
        if top not in sys.stdlib_module_names | {known!r}:
            raise ModuleNotFoundError(f"refused: {{name}}", name=name)

sys.meta_path.insert(0, Guard())
"""


def refuse_all_but(folder: Path, library: str) -> None:
    known = {PACKAGE, library, "sitecustomize", "usercustomize"}
    (folder / "sitecustomize.py").write_text(GUARD.format(known=known))


def names_taken(path: Path) -> list[str]:
    """Returns what a module imports from the package's face."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    imports = [n for n in nodes if isinstance(n, ast.ImportFrom) and n.module == PACKAGE]
    return [alias.name for node in imports for alias in node.names]


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
