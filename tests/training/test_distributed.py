"""One process, and two that talk by gloo."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import training_ranks
from closeness import assert_same
from torch import Tensor, nn
from torch.autograd import grad
from two_ranks import WORLD, on_two_ranks

from dmcp_deploy.training import distributed
from dmcp_deploy.training.distributed import (
    any_says,
    average_gradients,
    bytes_from_first,
    check_alike,
    digest,
    is_main,
    rank,
    world_size,
)
from dmcp_deploy.training.metrics import read_metrics
from dmcp_deploy.training.sync_norm import synced_batch_norm, synced_norms
from dmcp_deploy.training.weights import read_tensors


def test_a_process_alone_is_the_first_of_one_and_keeps_its_gradients():
    assert (rank(), world_size(), is_main()) == (0, 1, True)
    one, other = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    one.grad = torch.ones(2)
    average_gradients([one, other])
    assert torch.equal(one.grad, torch.ones(2))
    assert other.grad is None
    assert any_says(True, False) == (True, False)
    check_alike({"a": one}, "alone")
    assert bytes_from_first(b"\0table\0") == b"\0table\0"


def test_a_digest_tells_every_bit_and_its_place():
    values = torch.tensor([1.0, 2.0, 3.0])
    assert digest(values) == digest(values.clone())
    others = [values.flip(0), values.nextafter(values + 1), values.double(), -values, values[:2]]
    found = {int(digest(tensor)) for tensor in [values, *others]}
    assert len(found) == 1 + len(others)
    rows = torch.arange(24.0).reshape(1, 2, 3, 4)
    assert digest(rows) == digest(rows.contiguous(memory_format=torch.channels_last))


def test_large_tensors_are_digested_in_parts(monkeypatch):
    values = torch.randn(1000)
    whole = digest(values)
    monkeypatch.setattr(distributed, "_CHUNK", 64)
    assert digest(values) == whole


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(3), nn.BatchNorm2d(3, affine=False)])
def test_a_synced_norm_alone_is_the_plain_one(norm):
    images = (5 + 2 * torch.randn(4, 3, 6, 6)).requires_grad_()
    factors = torch.randn(4, 3, 6, 6)
    results = []
    for run in (F.batch_norm, synced_batch_norm):
        mean, var = torch.zeros(3), torch.ones(3)
        outputs = run(images, mean, var, norm.weight, norm.bias, True, 0.2, 1e-5)
        wanted = [images, *norm.parameters()]
        results.append([outputs, mean, var, *grad((outputs * factors).sum(), wanted)])
        results[-1].append(run(images, mean, var, norm.weight, norm.bias, False, 0.2, 1e-5))
    for plain, synced in zip(*results, strict=True):
        assert_same(synced, plain, roundings=images.numel())


def test_norms_of_a_process_alone_are_left_to_torch():
    assert isinstance(synced_norms(), nullcontext)


def found_by_ranks(what: str, folder: Path) -> list[dict[str, Tensor]]:
    """Runs `training_ranks` in two processes, and returns what each has written."""
    on_two_ranks([sys.executable, training_ranks.__file__, what, folder])
    return [read_tensors(folder / f"rank-{number}.safetensors") for number in range(WORLD)]


@pytest.fixture(scope="module")
def units(tmp_path_factory):
    """Returns what each of two processes finds, by the name of what it did."""
    ranks = found_by_ranks("units", tmp_path_factory.mktemp("units"))
    names = training_ranks.UNITS
    return {name: [training_ranks.part_of(found, name) for found in ranks] for name in names}


@pytest.mark.slow
def test_gradients_become_the_mean_over_both_processes(units):
    ranks = units["gradients"]
    assert [int(found["rank"]) for found in ranks] == [0, 1]
    for found in ranks:
        assert int(found["world"]) == WORLD
        assert torch.equal(found["0"], torch.full((2, 3), 1.5))
        # A gradient that one process lacks counts as zero there.
        assert torch.equal(found["1"], torch.arange(4.0) / 2)
        assert torch.equal(found["2"], 2 * torch.arange(18.0).reshape(2, 1, 3, 3))
        # What else a step has is averaged with them.
        assert float(found["loss"]) == 5.0
        assert torch.equal(found["statistics"], torch.full((3,), 0.5))


@pytest.mark.slow
def test_processes_agree_and_find_out_when_they_do_not(units):
    for found in units["agreement"]:
        assert (bool(found["yes"]), bool(found["no"])) == (True, False)


@pytest.mark.slow
def test_synced_norms_of_two_processes_see_one_batch(units):
    whole, (first, second) = training_ranks.norms(), units["norms"]
    roundings = whole["images"].numel()
    for name in ("outputs", "images"):
        both = torch.cat([first.pop(name), second.pop(name)])
        assert_same(both, whole.pop(name), roundings=roundings, about=name)
    # That of a bias in front of a norm is nothing but rounding of the others.
    gradients = [values for name, values in whole.items() if name.startswith("gradient")]
    size = max(float(values.abs().max()) for values in gradients)
    for name, values in whole.items():
        assert torch.equal(first[name], second[name]), name
        scale = size if name.startswith("gradient") else None
        assert_same(first[name], values, roundings=roundings, scale=scale, about=name)


@pytest.mark.slow
def test_every_image_counts_once_however_many_processes_share_them(units):
    whole, (first, second) = training_ranks.judged(), units["judged"]
    images = sum(len(batch.labels) for batch in training_ranks.judged_batches())
    for found in (first, second):
        assert int(found["figures"][2]) == images == 21
        assert int(found["side"]) == 12
        roundings = images * 12 * 12
        for name in ("1.running_mean", "1.running_var"):
            assert_same(found[name], whole[name], roundings=roundings, about=name)
        for one, other in zip(found["figures"], whole["figures"], strict=True):
            assert_same(one, other, roundings=roundings)


@pytest.mark.slow
@pytest.mark.usefixtures("fashion_mnist")
@pytest.mark.parametrize("method", ["dmcp", "autoslim"])
def test_a_search_on_two_processes_is_one_search(method, tmp_path):
    first, second = found_by_ranks(method, tmp_path)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    # The first process alone writes, and writes each step once.
    reports = read_metrics(tmp_path / "run/metrics/search.jsonl")
    assert [report["step"] for report in reports] == list(range(training_ranks.STEPS[method]))
    assert [file.name for file in (tmp_path / "run/metrics").iterdir()] == ["search.jsonl"]


@pytest.mark.slow
@pytest.mark.usefixtures("fashion_mnist")
@pytest.mark.parametrize("what", ["synced", "sampled"])
def test_two_processes_search_as_one_with_the_same_global_batch(what, tmp_path):
    alone = training_ranks.run(what, tmp_path / "alone")
    first, second = found_by_ranks(what, tmp_path)
    for name in first:
        assert torch.equal(first[name], second[name]), name
    assert torch.equal(first["widths"], alone["widths"])
    mine, theirs = (
        read_metrics(tmp_path / folder / "metrics/search.jsonl") for folder in ("alone/run", "run")
    )
    assert [line["step"] for line in theirs] == list(range(training_ranks.SYNCED_STEPS))
    largest = {name: max(abs(line.get(name, 0.0)) for line in mine) for name in mine[-1]}
    for ours, other in zip(mine, theirs, strict=True):
        assert ours.keys() == other.keys() >= {"loss", "distill"}
        for name, value in ours.items():
            # A step learns of what the one before it has rounded: a thousand epsilons in twenty.
            allowed = 1e-4 * largest[name]
            assert other[name] == pytest.approx(value, abs=allowed), (name, ours["step"])
    assert "arch_loss" in mine[-1]
