"""The whole chain tried before the first real step, and by itself as `check`."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch
from stubborn_nets import viewed
from tiny_runs import asked, call, refused, succeed

from dmcp_deploy.network.models import build_network
from dmcp_deploy.plan import NetworkSpec
from dmcp_deploy.run.checks import takes_channels_last
from dmcp_deploy.rundir.directory import RunDir
from dmcp_deploy.rundir.stages import TRAIN
from dmcp_deploy.runtimes.torch_session import TorchSession

OTHER_OUTPUTS = {
    "returns_dict": ("a dict of 'logits'", "wrap it in a module"),
    "returns_pair": ("a tuple of 2", "wrap it in a module"),
    "returns_map": ("a tensor [N, 3, 4, 4]", "mean over height and width"),
    "returns_two": ("a tensor [N, 2]", "num_classes"),
    "returns_thousand": ("a tensor [N, 1000]", "num_classes"),
}


def _search(data: Path, out: Path, network: str, **changes: object) -> list[str]:
    changes = {"model": f"stubborn_nets:{network}", "flops": "60%", "method": "uniform", **changes}
    return asked("search", data, out, no_rehearse=None, **changes)


@pytest.fixture
def temporary(monkeypatch, tmp_path):
    """A folder for temporary files, where what is left behind can be seen."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.mark.parametrize("network", OTHER_OUTPUTS)
def test_other_outputs_than_logits_are_refused_before_anything_is_written(
    network, tiny_folder, tmp_path
):
    sentence = refused(*_search(tiny_folder, tmp_path / "run", network))
    what, remedy = OTHER_OUTPUTS[network]
    assert f"returns {what}, not logits [N, 3]" in sentence
    assert remedy in sentence
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("network", "reason"),
    [("fails_in_training", "no such teacher"), ("not_in_onnx", "bessel")],
)
def test_what_would_fail_late_is_refused_before_training(
    network, reason, tiny_folder, tmp_path, temporary
):
    sentence = refused(*_search(tiny_folder, tmp_path / "run", network))
    assert reason in sentence
    assert str(temporary) not in sentence
    assert not (tmp_path / "run").exists()
    assert not list(temporary.iterdir())


def test_a_rehearsal_leaves_nothing_and_changes_nothing(tiny_folder, tmp_path, temporary):
    rehearsed = asked("search", tiny_folder, tmp_path / "a", no_rehearse=None, method="dmcp")
    result = call(*rehearsed)
    assert "Rehearsal of the whole chain (dmcp): search" in result.stderr
    assert not list(temporary.iterdir())
    succeed(*asked("search", tiny_folder, tmp_path / "b", method="dmcp"))
    plans = [(tmp_path / name / "plan.json").read_text() for name in "ab"]
    weights = [(tmp_path / name / "supernet.safetensors").read_bytes() for name in "ab"]
    assert plans[0] == plans[1]
    assert weights[0] == weights[1]


def test_a_run_that_was_begun_is_not_rehearsed_again(tiny_folder, tmp_path):
    command = asked("search", tiny_folder, tmp_path / "run", no_rehearse=None, method="uniform")
    assert "Rehearsal" in call(*command).stderr
    (tmp_path / "run" / "plan.json").unlink()
    assert "Rehearsal" not in call(*command).stderr


def test_view_of_feature_maps_trains_in_contiguous_memory(tiny_folder, tmp_path):
    network = build_network(NetworkSpec("stubborn_nets:viewed", 1.0, 3, (3, 32, 32)))
    assert not takes_channels_last(network)
    succeed(*_search(tiny_folder, tmp_path / "run", "viewed"))
    run = RunDir(tmp_path / "run")
    assert run.request().contiguous
    succeed("slice", run.path)
    succeed("train", run.path)
    assert run.figures(TRAIN)["steps"] == 4


def test_torch_measures_a_network_that_needs_contiguous_memory():
    network = viewed().eval()
    images = torch.rand(2, 3, 32, 32)
    with TorchSession(network, Path("viewed"), (3, 32, 32)) as session:
        logits = session.run(images.numpy())
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(logits), network(images))


def test_check_tells_what_a_network_can_do(tiny_folder, temporary):
    text = succeed(
        *("check", "--model", "tiny_pipeline_net:tiny_pipeline_net"),
        *("--input-size", 32, "--data", tiny_folder),
    )
    assert "can go (100%)" in text
    assert "budgets: " in text
    tried = [line.split()[0] for line in text.splitlines() if line.endswith("works")]
    assert tried[:7] == ["search", "slice", "train", "export", "fp16", "bf16", "int8"]
    assert not list(temporary.iterdir())


def test_check_names_the_part_that_fails(tmp_path, monkeypatch):
    begun = tmp_path / "check" / "run.json"
    begun.parent.mkdir()
    begun.write_text("somebody's run")
    monkeypatch.chdir(tmp_path)
    where = ("--model", "stubborn_nets:fails_in_training", "--input-size", 32, "--classes", 3)
    result = call("check", *where)
    assert result.exit_code == 1
    assert "no such teacher" in result.stdout
    assert "stubborn_nets.py:" in result.stdout
    assert begun.read_text() == "somebody's run"


def test_check_refuses_what_is_no_classifier():
    sentence = refused("check", "--model", "stubborn_nets:returns_map", "--input-size", 32)
    assert "not logits [N, 1000]" in sentence
