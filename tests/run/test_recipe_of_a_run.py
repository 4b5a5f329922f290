"""What a recipe says of networks and pictures, and how runs of older releases go on."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_runs import asked, call, library, refused, succeed
from torch import nn

import dmcp_deploy
from dmcp_deploy.data.augment import BATCH_KINDS, normalise, squash, to_pixels
from dmcp_deploy.data.types import Batch
from dmcp_deploy.network.fan_in import match_fan_in
from dmcp_deploy.network.slicing import slice_network
from dmcp_deploy.options.run import Compute
from dmcp_deploy.run import stages
from dmcp_deploy.run.context import RunContext
from dmcp_deploy.run.networks import random_network
from dmcp_deploy.run.problem import search_problem
from dmcp_deploy.training.dense import DenseTask
from dmcp_deploy.training.recipe import AUGMENTATIONS, RESIZINGS
from dmcp_deploy.training.weights import read_tensors

#: As the recipes of runs were that older releases have begun.
OLDER = {"dropout": True, "search_dropout": True, "color_jitter": [], "own_fan_in": False}

# With a learning rate of zero, training leaves the weights that it starts from.
STILL = {"train": {"lr_start": 0, "lr": 0, "lr_end": 0, "weight_decay": 0}}

MOBILENET = {"model": "mobilenet_v2", "width_mult": 0.35, "max_steps": 1}


def begun(data: Path, folder: Path, recipe: dict[str, Any], **changes: Any) -> RunContext:
    """Returns a run by a recipe of its own that has been searched."""
    path = folder / "recipe.json"
    path.write_text(json.dumps(recipe))
    options = library(data, folder / "run", method="uniform", recipe=str(path), **changes)
    return RunContext.resume(dmcp_deploy.run.search(**options).path, Compute())


@pytest.mark.parametrize("scaled", [True, False])
def test_the_pruned_network_starts_by_its_own_fan_in(
    scaled: bool, tiny_folder: Path, tmp_path: Path
) -> None:
    context = begun(tiny_folder, tmp_path, STILL if scaled else {**STILL, **OLDER})
    dmcp_deploy.train(context.run.path)
    trained = read_tensors(context.run.file("dense.safetensors"))
    network = random_network(context)
    expected = slice_network(network, context.plan().groups)
    if scaled:
        match_fan_in(network, expected)
    for name, parameter in expected.named_parameters():
        assert torch.equal(trained[name], parameter), name


class Watched(DenseTask):
    """Notes the rate at which the network that is trained drops."""

    rates: list[float]

    def __init__(self, model: nn.Module, *arguments: Any) -> None:
        super().__init__(model, *arguments)
        self.rates.append(model.classifier[0].p)


@pytest.mark.parametrize(
    ("recipe", "search", "train"),
    [({}, 0.0, 0.2), ({"dropout": False}, 0.0, 0.0), (OLDER, 0.2, 0.2)],
)
def test_dropout_acts_where_the_recipe_says(
    recipe: dict[str, Any],
    search: float,
    train: float,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    context = begun(tiny_folder, tmp_path, recipe, **MOBILENET)
    assert search_problem(context).network.model.classifier[0].p == search
    monkeypatch.setattr(Watched, "rates", [], raising=False)
    monkeypatch.setattr(stages, "DenseTask", Watched)
    dmcp_deploy.train(context.run.path)
    assert Watched.rates == [train]


def test_dropout_that_is_called_is_told(tiny_folder: Path, tmp_path: Path) -> None:
    changes = {"model": "stubborn_nets:calls_dropout", "method": "uniform", "flops": "60%"}
    result = call(*asked("search", tiny_folder, tmp_path / "run", **changes))
    assert result.exit_code == 0
    assert "_CallsDropout of stubborn_nets:calls_dropout calls it as a function" in result.stderr


def test_colours_change_as_the_recipe_says(tiny_folder: Path, tmp_path: Path) -> None:
    amounts = (0.2, 0.2, 0.2, 0.1)
    context = begun(tiny_folder, tmp_path, {"color_jitter": amounts})
    assert context.data.images.color_jitter == amounts
    assert search_problem(context).data is context.data.images


def test_pictures_change_as_the_recipe_says(tiny_folder: Path, tmp_path: Path) -> None:
    def first_batch(kind: str | None) -> Batch:
        folder = tmp_path / str(kind)
        folder.mkdir()
        data = begun(tiny_folder, folder, {"augmentation": kind}).data
        return next(iter(data.training_batches(0, 1)))

    assert set(AUGMENTATIONS) == {"imagenet", *BATCH_KINDS}
    ways = {kind: first_batch(kind) for kind in AUGMENTATIONS}
    for one, other in itertools.combinations(ways.values(), 2):
        assert not torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
    assert torch.equal(first_batch(None).images, ways["imagenet"].images)  # a folder's own way


def test_all_of_a_picture_is_seen_where_the_recipe_says(tiny_folder: Path, tmp_path: Path) -> None:
    seen = {}
    for resizing in RESIZINGS:
        folder = tmp_path / resizing
        folder.mkdir()
        data = begun(tiny_folder, folder, {"resizing": resizing}).data
        assert data.fed.resizing == resizing
        seen[resizing] = next(data.validation_batches(data.image_size)).images
    path = data.images.val.where(0)
    whole = squash(Image.open(path).convert("RGB"), seen["squash"].shape[-2:])
    expected = normalise(to_pixels(whole).unsqueeze(0), data.images.val.preprocessing)
    assert torch.equal(seen["squash"][:1], expected)
    assert not torch.equal(seen["crop"][:1], expected)


def test_pictures_that_are_not_resized_are_told(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({"resizing": "squash"}))
    words = asked("search", "fashion-mnist", tmp_path / "run", recipe=str(recipe))
    assert "come at a size of their own" in refused(*words)


def as_an_older_release(path: Path) -> None:
    """Lets a run's record be one of a release whose recipes were others."""
    content = json.loads(path.read_text())
    recipe = content["request"]["recipe"]
    for name in OLDER:
        recipe.pop(name, None)
    recipe |= {"candidates": 5, "alpha_lr": 0.25}
    path.write_text(json.dumps(content))


def test_a_run_goes_on_by_the_recipe_that_its_release_had(
    tiny_folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = asked("search", tiny_folder, run, method="uniform")
    succeed(*words)
    as_an_older_release(run / "run.json")
    before = (run / "run.json").read_text()
    succeed(*words)
    assert (run / "run.json").read_text() == before
    context = RunContext.resume(run, Compute())
    assert context.recipe.search_dropout
    assert not context.recipe.own_fan_in
    assert context.recipe.alpha_lr == 0.25
    assert "batch_size" in refused(*words, "--batch-size", 4)


def test_another_recipe_than_it_was_begun_by_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    context = begun(tiny_folder, tmp_path, {})
    (tmp_path / "recipe.json").write_text(json.dumps({"dropout": False}))
    words = asked("search", tiny_folder, context.run.path, method="uniform")
    assert "recipe.dropout" in refused(*words, "--recipe", tmp_path / "recipe.json")
