"""The weights that a run starts from: kept with it, and no other ones behind its back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import call, refused, succeed
from torch import Tensor
from weight_nets import Plain, with_weights

from dmcp_deploy.network.models import unvaried_weights
from dmcp_deploy.options.run import Budgets, Compute
from dmcp_deploy.plan import NetworkSpec
from dmcp_deploy.run.context import RunContext
from dmcp_deploy.run.networks import random_network
from dmcp_deploy.run.start import WEIGHTS_FILE, starting_network
from dmcp_deploy.rundir.directory import RunDir
from dmcp_deploy.training.weights import read_tensors

ASKED: Mapping[str, Any] = {"input-size": 32, "batch-size": 8, "max-steps": 2, "flops": "30%"}


def search(data: Path, out: Path, model: str = "plain", **changes: Any) -> list[object]:
    options = {"model": f"weight_nets:{model}", **ASKED, "data": data, "out": out, **changes}
    return ["search", *(word for name, value in options.items() for word in (f"--{name}", value))]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(5)
    path = tmp_path / "given.pth"
    torch.save({"model": Plain(3).state_dict(), "epoch": 4}, path)
    return path


@pytest.fixture
def run(weights: Path, tiny_folder: Path, tmp_path: Path) -> Path:
    options = {"method": "l1", "init": "sliced", "weights": weights}
    succeed(*search(tiny_folder, tmp_path / "run", **options))
    return tmp_path / "run"


def change(weights: Path) -> None:
    torch.save({name: 0 * t for name, t in Plain(3).state_dict().items()}, weights)


def first_filters(run: Path, file: str) -> Tensor:
    return read_tensors(run / file)["first.weight"]


@pytest.mark.parametrize("fate", ["kept", "changed", "deleted"])
def test_a_run_goes_on_with_its_own_copy_whatever_becomes_of_the_file(
    fate: str, run: Path, weights: Path
) -> None:
    given = torch.load(weights)["model"]["first.weight"]
    {"kept": lambda _: None, "changed": change, "deleted": Path.unlink}[fate](weights)
    succeed("slice", run)
    succeed("train", run)
    sliced = first_filters(run, "sliced.safetensors")
    assert all((filters == given).flatten(1).all(1).any() for filters in sliced)
    assert len(sliced) < len(given)
    assert json.loads((run / "run.json").read_text())["stages"]["weights"]["outputs"].keys() == {
        WEIGHTS_FILE
    }


def test_the_same_command_goes_on_without_the_file_or_with_one_that_has_moved(
    run: Path, weights: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    options = {"method": "l1", "init": "sliced"}
    moved = weights.rename(tmp_path / "moved.pth")
    for source in (weights, moved):
        succeed(*search(tiny_folder, run, **options, weights=source))
    change(moved.rename(weights))
    sentence = refused(*search(tiny_folder, run, **options, weights=weights))
    assert "given.pth has changed since the run was begun" in sentence
    other = refused(*search(tiny_folder, tmp_path / "new", weights=tmp_path / "moved.pth"))
    assert "There is no weights file" in other


def test_a_copy_that_has_changed_is_refused(run: Path) -> None:
    with (run / WEIGHTS_FILE).open("ab") as file:
        file.write(b"x")
    assert f"{WEIGHTS_FILE} has changed since" in refused("slice", run)
    (run / WEIGHTS_FILE).unlink()
    assert f"{WEIGHTS_FILE} is missing" in refused("slice", run)


def test_a_run_of_an_older_release_checks_the_file_that_it_was_given(
    run: Path, weights: Path
) -> None:
    record = json.loads((run / "run.json").read_text())
    del record["stages"]["weights"]
    (run / "run.json").write_text(json.dumps(record))
    kept = first_filters(run, WEIGHTS_FILE)
    (run / WEIGHTS_FILE).unlink()
    succeed("slice", run)
    sliced = first_filters(run, "sliced.safetensors")
    assert all((filters == kept).flatten(1).all(1).any() for filters in sliced)
    (run / "sliced.safetensors").unlink()
    change(weights)
    assert "given.pth has changed since" in refused("slice", run)


def test_a_place_in_a_file_can_be_named(weights: Path, tiny_folder: Path, tmp_path: Path) -> None:
    raw = Plain(3).state_dict()
    torch.save({"raw": raw, "ema": {k: 0 * t for k, t in raw.items()}}, weights)
    run = tmp_path / "run"
    succeed(*search(tiny_folder, run, method="uniform", weights=f"{weights}:raw"))
    assert first_filters(run, WEIGHTS_FILE).abs().sum() > 0
    assert RunDir(run).request().weights == f"{weights}:raw"
    moved = weights.rename(tmp_path / "moved.pth")
    succeed(*search(tiny_folder, run, method="uniform", weights=f"{moved}:raw"))
    for other in (moved, f"{moved}:ema"):
        sentence = refused(*search(tiny_folder, run, method="uniform", weights=other))
        assert "other settings (weights: " in sentence


def context(run: Path) -> RunContext:
    return RunContext.resume(run, Compute())


@pytest.mark.parametrize(
    ("model", "init", "told"),
    [
        ("FrozenStart", "scratch", True),
        ("FrozenStart", "sliced", False),
        ("plain", "scratch", False),
    ],
)
def test_frozen_weights_that_the_pruned_network_will_not_have_are_told(
    model: str, init: str, told: bool, weights: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    options = {"method": "l1", "init": init, "weights": weights}
    result = call(*search(tiny_folder, tmp_path / "run", model, **options))
    assert result.exit_code == 0
    assert ("never learns what the network freezes, first.weight" in result.stderr) == told


def test_weights_that_a_builder_has_loaded_are_given_ones(
    tiny_folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = search(tiny_folder, run, "with_weights", method="l1", init="sliced")
    said = dmcp_deploy_says(words)
    assert (
        "weight_nets:with_weights comes with weights of its own (2 of 3 tensors do not change with"
        " the seed)"
    ) in said
    given = with_weights(3).first.weight
    assert RunDir(run).figures("search") is not None
    assert not (run / "supernet.safetensors").exists(), "ranked as they are, not trained"
    sorted_filters = first_filters(run, WEIGHTS_FILE)
    norms = sorted_filters.abs().sum((1, 2, 3))
    assert (norms.diff() <= 0).all()
    assert torch.equal(norms.sort().values, given.detach().abs().sum((1, 2, 3)).sort().values)
    succeed("slice", run)
    assert (first_filters(run, "sliced.safetensors").abs().mean((1, 2, 3)) > 0.01).all()
    # "scratch" means random weights, for every layer.
    network = random_network(context(run)).model
    assert not any(torch.equal(network.first.weight[i], f) for i in range(16) for f in given)
    assert torch.equal(network.first.weight, random_network(context(run)).model.first.weight)
    assert starting_network(context(run))[1]


def dmcp_deploy_says(words: list[object]) -> str:
    from tiny_runs import call

    result = call(*words)
    assert result.exit_code == 0, result.stderr
    return result.stderr + result.stdout


@pytest.mark.parametrize("model", ["plain", "Frozen", "self_seeded"])
def test_random_weights_are_no_given_ones(model: str, tiny_folder: Path, tmp_path: Path) -> None:
    said = dmcp_deploy_says(search(tiny_folder, tmp_path / "run", model, method="uniform"))
    assert "of its own" not in said
    assert not (tmp_path / "run" / WEIGHTS_FILE).exists()


def test_weights_that_do_not_change_with_the_seed_are_counted() -> None:
    def count(model: str) -> tuple[int, int]:
        return unvaried_weights(NetworkSpec(f"weight_nets:{model}", 1.0, 3, (3, 32, 32)))

    assert count("plain") == (0, 3)
    assert count("with_weights") == (2, 3)
    assert count("Frozen") == (1, 3)
    assert count("self_seeded") == (0, 0)
    assert unvaried_weights(NetworkSpec("resnet18")) == (0, 0)


def test_pictures_come_as_the_weights_want_them(tiny_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    from dmcp_deploy.options.run import RunOptions
    from dmcp_deploy.run.resolve import make_request

    def asked(weights: str | None) -> RunContext:
        options = RunOptions(data=str(tiny_folder), input_size=64, batch_size=8, weights=weights)
        model = "timm:tf_mobilenetv3_small_minimal_100"
        return RunContext(
            RunDir(tmp_path / "no run"),
            make_request(model, Budgets("50%"), options, Compute()),
            Compute(),
        )

    usual, halves = asked(None), asked("imagenet")
    assert "pictures" not in usual.request.to_json()
    assert halves.request.to_json()["pictures"]["mean"] == [0.5, 0.5, 0.5]
    assert type(halves.request).from_json(halves.request.to_json()) == halves.request
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
    for get in (
        lambda context: context.data.proof_images(),
        lambda context: context.data.calibration_images(4),
    ):
        assert torch.allclose(get(usual) * std + mean, get(halves) / 2 + 0.5, atol=1e-6)
    assert halves.data.fed.mean == (0.5, 0.5, 0.5)
    batches = (next(c.data.training_batches(0, 1)).images for c in (usual, halves))
    before, after = batches
    assert torch.allclose(before * std + mean, after / 2 + 0.5, atol=1e-6)


def test_published_weights_bring_their_networks_own_options(
    tiny_folder: Path, tmp_path: Path
) -> None:
    from dmcp_deploy.options.run import RunOptions
    from dmcp_deploy.run.resolve import make_request

    options = RunOptions(data=str(tiny_folder), input_size=64, batch_size=8, weights="imagenet")
    request = make_request("googlenet", Budgets("50%"), options, Compute())
    assert request.network.transform_input
    # A run that was begun without goes on without.
    run = RunDir(tmp_path / "run")
    older = type(request).from_json(
        {**request.to_json(), "network": {**request.to_json()["network"], "transform_input": False}}
    )
    run.begin(older)
    assert make_request("googlenet", Budgets("50%"), options, Compute(), run) == older
