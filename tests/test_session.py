"""How a session of tests works: units stay in one worker, and what was skipped is said once."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

import needs
import pytest
from kept import kept

pytest_plugins = ["pytester"]

HELPERS = Path(needs.__file__).parent

HOOKS = (HELPERS.parent / "conftest.py").read_text(encoding="utf-8")

MARKS = """
[pytest]
markers =
    slow: Takes long.
    gpu: Needs a CUDA device.
    needs: What a machine may lack.
    nightly: With its reason.
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project whose tests are run as these are."""
    monkeypatch.setenv("PYTHONPATH", str(HELPERS))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    for name in [name for name in os.environ if name.startswith("PYTEST_XDIST")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    pytester.makeconftest(HOOKS)
    pytester.makeini(MARKS)
    return pytester


def on_two_workers(project: pytest.Pytester, *words: str) -> pytest.RunResult:
    asked = ("-p", "xdist", "-n", "2", "--dist", "loadgroup", "--max-worker-restart", "0", *words)
    return project.runpytest_subprocess(*asked, timeout=100)


SPREAD = """
import os, time
from pathlib import Path
import pytest

@pytest.fixture(autouse=True)
def told(request):
    with open("told", "a") as file:
        print(request.node.nodeid, os.environ["PYTEST_XDIST_WORKER"], file=file)
    time.sleep(0.03)

@pytest.mark.xdist_group("both files")
@pytest.mark.parametrize("n", range(4))
def test_together(n): ...

@pytest.mark.slow(seconds=SECONDS)
@pytest.mark.parametrize("n", range(2))
class TestSlow:
    def test_one(self, n): ...
    def test_other(self, n): ...

@pytest.mark.parametrize("n", range(5))
def test_quick(n): ...
"""


def test_a_unit_stays_in_one_worker_and_long_ones_are_first(project: pytest.Pytester) -> None:
    seconds = {"test_a": "20", "test_b": "30"}
    project.makepyfile(**{name: SPREAD.replace("SECONDS", n) for name, n in seconds.items()})
    result = on_two_workers(project)
    result.assert_outcomes(passed=26)
    assert "= skipped =" not in result.stdout.str()
    lines = (project.path / "told").read_text().splitlines()
    workers, first = defaultdict(set), defaultdict(list)
    for place, (test, worker) in enumerate(line.rsplit(" ", 1) for line in lines):
        file, _, name = test.partition("::")
        unit = "both files" if "together" in name else file
        unit += name[-3:] if "Slow" in name else ""
        workers[unit].add(worker)
        first[unit].append(place)
    assert {unit for unit, these in workers.items() if len(these) > 1} == set()
    order = sorted(first, key=lambda unit: first[unit][0])
    assert set(order[:2]) == {"test_b.py[0]", "test_b.py[1]"}
    assert set(order[2:4]) == {"test_a.py[0]", "test_a.py[1]"}
    assert set(order[4:]) == {"both files", "test_a.py", "test_b.py"}


def test_what_was_skipped_is_said_once_with_the_command(project: pytest.Pytester) -> None:
    # What this machine has is missing there.
    project.makeconftest(f"{HOOKS}\nimport needs\nneeds._is_there = lambda name: False\n")
    project.makepyfile(
        """
        import pytest

        @pytest.mark.needs("chromium")
        @pytest.mark.parametrize("n", range(3))
        def test_page(n): ...

        @pytest.mark.needs("elpv")
        def test_pictures(fashion_mnist): ...

        def test_more_pictures(fashion_mnist): ...

        @pytest.mark.gpu
        def test_device(): ...

        def test_it(): ...
        """
    )
    result = on_two_workers(project)
    result.assert_outcomes(passed=1, skipped=6)
    text = result.stdout.str()
    assert text.count("would have run after") == 1
    assert (
        "    5  would have run after: sudo apt-get install dataset-fashion-mnist chromium"
        " && .venv/bin/pip install elpv-dataset\n"
    ) in text
    assert "    3  no chromium to look at pages with\n" in text
    assert "    1  no CUDA device\n" in text
    assert text.splitlines()[-1].strip("= ").startswith("1 passed, 6 skipped in ")


def test_what_is_kept_is_made_once_and_never_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = []

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "part").write_text("one")
        if len(made) == 1:
            raise ZeroDivisionError
        (folder / "rest").write_text("two")

    with pytest.raises(ZeroDivisionError):
        kept("thing", "version 1", make)
    folder = kept("thing", "version 1", make)
    assert folder == kept("thing", "version 1", make)
    assert len(made) == 2
    assert sorted(path.name for path in folder.iterdir()) == ["part", "rest"]
    assert kept("thing", "version 2", make) != folder
    assert not [path for path in folder.parent.iterdir() if path.name.startswith(".")]


def test_without_a_home_it_is_kept_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert kept("thing", "", lambda folder: None).is_relative_to(tmp_path)
