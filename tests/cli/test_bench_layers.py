"""`bench --layers`: what is printed, kept and refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tiny_onnx import write_tiny_net
from tiny_runs import call, refused, succeed

from dmcp_deploy.bench.layers import measure as layers
from dmcp_deploy.bench.layers.record import LayersRecord
from dmcp_deploy.bench.layers.roofline import Limits
from dmcp_deploy.rundir.directory import RunDir

QUICK = ("--threads", 1, "--seconds", 0.1)


@pytest.fixture(autouse=True)
def known_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands in for what takes a second a time."""
    monkeypatch.setattr(layers, "measure_limits", lambda *_, **__: Limits(50.0, 20.0))


@pytest.fixture
def nets(tmp_path: Path) -> list[Path]:
    return [write_tiny_net(tmp_path / f"w{width}.onnx", width=width).path for width in (64, 37)]


@pytest.mark.slow
def test_the_layers_follow_the_usual_table_and_save_keeps_that_alone(
    nets: list[Path], tmp_path: Path
) -> None:
    save = ("--save", tmp_path / "saved" / "bench.json")
    text = succeed("bench", *nets, "--layers", "--batch", "2,1", *save, *QUICK)
    usual, *found = text.split("\n\n")
    assert usual.startswith("network ")
    assert len(usual.splitlines()) >= 5
    assert [table.partition(":")[0] for table in found] == ["w64", "w37"]
    assert all("at batch 2 in onnxruntime" in table for table in found)
    assert "likely reason" in found[1]
    assert [path.name for path in (tmp_path / "saved").iterdir()] == ["bench.json"]


@pytest.mark.slow
@pytest.mark.xdist_group("run")
def test_a_run_directory_keeps_its_layers(finished_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    assert not (run / "layers.json").exists()
    succeed("bench", run, "--layers", *QUICK)
    record = LayersRecord.load(run / "layers.json")
    assert [item.name for item in record.networks] == ["original", "pruned"]
    assert RunDir(run).is_current("layers")


def test_what_is_no_run_is_refused_and_nothing_is_kept(tmp_path: Path) -> None:
    for name in ("model.onnx", "original.onnx"):
        write_tiny_net(tmp_path / name)
    assert "holds no run" in refused("bench", tmp_path, "--layers", *QUICK)
    assert not (tmp_path / "layers.json").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--runtime", "torch"), "torch"),
        (("--runtime", "onnxruntim"), "did you mean onnxruntime"),
        (("--baseline", "bench.json"), "no gate"),
        (("--against", "old.onnx"), "no gate"),
        (("--batch", "0"), "--batch '0'"),
    ],
)
def test_what_does_not_go_with_layers_is_refused_at_once(
    nets: list[Path], words: tuple[str, ...], message: str
) -> None:
    assert message in refused("bench", nets[0], "--layers", *words)


def test_a_missing_file_and_a_misspelt_option_are_refused(tmp_path: Path) -> None:
    assert "There is no ONNX file" in refused("bench", tmp_path / "no.onnx", "--layers")
    result = call("bench", tmp_path / "no.onnx", "--layer")
    assert result.exit_code == 2
    assert "--layers" in result.stderr
