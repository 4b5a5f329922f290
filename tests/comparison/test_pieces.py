"""A run that is cut out of the full network that another run's search has trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_runs import library

import dmcp_deploy
from dmcp_deploy.comparison.pieces import take_supernet
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.plan import ChannelPlan
from dmcp_deploy.run.context import SUPERNET
from dmcp_deploy.rundir.directory import RunDir
from dmcp_deploy.rundir.stages import SEARCH, SLICE
from dmcp_deploy.training.weights import read_tensors


def searched(data: Path, out: Path, method: str, **changes: object) -> RunDir:
    return dmcp_deploy.run.search(**library(data, out, method=method, init="sliced", **changes))


@pytest.fixture
def pair(tiny_folder: Path, tmp_path: Path) -> tuple[RunDir, RunDir]:
    """Runs of uniform widths and of DMCP at the same budget."""
    taker, lender = (searched(tiny_folder, tmp_path / name, name) for name in ("uniform", "dmcp"))
    return taker, lender


def test_leading_channels_of_the_lent_weights_are_kept(pair) -> None:
    taker, lender = pair
    plan = ChannelPlan.load(taker.file("plan.json"))
    take_supernet(taker, lender)
    dmcp_deploy.slice(taker.path)
    trained, sliced = (
        read_tensors(lender.file(SUPERNET)),
        read_tensors(taker.file("sliced.safetensors")),
    )
    assert ChannelPlan.load(taker.file("plan.json")) == plan
    assert plan.method == "uniform"
    for name in ("stem.0.weight", "inner.0.weight", "classifier.weight"):
        ends = tuple(slice(0, end) for end in sliced[name].shape)
        assert sliced[name].shape != trained[name].shape
        assert torch.equal(sliced[name], trained[name][ends])
    figures = taker.figures(SEARCH)
    assert figures["supernet"] == "dmcp"
    assert figures["full_accuracy"] == lender.figures(SEARCH)["full_accuracy"]


def test_what_was_taken_stays_until_another_search_has_left_others(
    pair, tiny_folder, tmp_path
) -> None:
    taker, lender = pair
    take_supernet(taker, lender)
    dmcp_deploy.slice(taker.path)
    before = taker.file("run.json").read_bytes()
    take_supernet(taker, lender)
    assert taker.file("run.json").read_bytes() == before
    again = searched(tiny_folder, tmp_path / "uniform", "uniform")
    assert again.file("run.json").read_bytes() == before
    assert taker.is_current(SLICE)
    take_supernet(taker, searched(tiny_folder, tmp_path / "other", "dmcp", seed=1))
    assert not taker.is_current(SLICE)


def test_a_lost_copy_is_taken_again(pair, tiny_folder, tmp_path) -> None:
    taker, lender = pair
    take_supernet(taker, lender)
    taker.file(SUPERNET).unlink()
    take_supernet(searched(tiny_folder, tmp_path / "uniform", "uniform"), lender)
    assert taker.file(SUPERNET).read_bytes() == lender.file(SUPERNET).read_bytes()
    dmcp_deploy.slice(taker.path)


def test_a_search_that_has_left_nothing_lends_nothing(pair, tmp_path) -> None:
    taker, lender = pair
    before = taker.file("run.json").read_bytes()
    lender.file(SUPERNET).unlink()
    for absent in (lender, RunDir(tmp_path / "nowhere")):
        with pytest.raises(DmcpError, match=f"{SUPERNET} that uniform could be cut out of"):
            take_supernet(taker, absent)
    assert taker.file("run.json").read_bytes() == before
    assert not taker.file(SUPERNET).exists()
