"""The moving average of weights: its arithmetic, its checkpoint, and what is left in the end."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping

import pytest
import torch
from closeness import assert_same
from torch import Tensor
from training_tasks import FP32, STEPS, batches_from, settings, small_model

from dmcp_deploy.data.types import Batch
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.training.dense import AVERAGE, DenseTask, WeightAverage
from dmcp_deploy.training.loop import run_loop
from dmcp_deploy.training.recipe import RECIPES, recipe_from_json, recipe_to_json

DECAY = 0.5
RECIPE = dataclasses.replace(RECIPES["small"], ema_decay=DECAY)


class Killed(Exception):  # noqa: N818
    pass


class Task(DenseTask):
    """Trains the small model, and may stop before a step."""

    def __init__(self, stop_at: int | None = None, recipe=RECIPE) -> None:
        self.model = small_model()
        super().__init__(self.model, recipe, STEPS, FP32)
        self._stop_at = stop_at

    def step(self, step: int, batch: Batch) -> Mapping[str, float]:
        if step == self._stop_at:
            raise Killed
        return super().step(step, batch)


def copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def assert_equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_average_is_the_recursion_with_a_decay_that_rises():
    model = small_model()
    weights = model.state_dict()
    expected = copies(weights)
    average = WeightAverage(model, 0.25)
    for step in range(6):
        with torch.no_grad():
            for tensor in weights.values():
                if tensor.is_floating_point():
                    tensor.add_(step + 1)
        average.update(step)
        decay = min(0.25, (1 + step) / (10 + step))
        for name, tensor in weights.items():
            if tensor.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * tensor
    found = average.tensors()
    assert {f"{AVERAGE}{name}" for name in expected if "num_batches" not in name} == set(found)
    for name, tensor in found.items():
        # Six steps, of each a product twice and a sum.
        assert_same(tensor, expected[name.removeprefix(AVERAGE)], roundings=18, about=name)


def test_training_itself_is_untouched_and_the_average_is_left_in_the_end(tmp_path):
    plain = Task(recipe=RECIPES["small"])
    averaged = Task()
    run_loop(plain, batches_from, settings(tmp_path / "plain"))
    run_loop(averaged, batches_from, settings(tmp_path / "averaged"))
    last = copies(plain.model.state_dict())
    assert_equal(copies(averaged.model.state_dict()), last)
    average = {
        name.removeprefix(AVERAGE): tensor
        for name, tensor in copies(averaged.tensors()).items()
        if name.startswith(AVERAGE)
    }
    for task in (plain, averaged):
        task.finish()
        task.finish()
    assert_equal(plain.model.state_dict(), last)
    found = averaged.model.state_dict()
    counted = {name: last[name] for name in last if "num_batches" in name}
    assert_equal(found, {**{name: average.get(name) for name in last}, **counted})
    assert not torch.equal(found["0.weight"], last["0.weight"])
    assert not torch.equal(found["1.running_mean"], last["1.running_mean"])


@pytest.mark.parametrize("stop_at", [1, 7, STEPS - 1])
def test_a_run_that_was_stopped_ends_with_the_same_average(tmp_path, stop_at):
    whole = Task()
    run_loop(whole, batches_from, settings(tmp_path / "whole"))
    own = settings(tmp_path / "parts")
    with pytest.raises(Killed):
        run_loop(Task(stop_at), batches_from, own)
    resumed = Task()
    assert run_loop(resumed, batches_from, own) == stop_at
    assert_equal(resumed.tensors(), whole.tensors())
    again = Task()
    assert run_loop(again, batches_from, own) == STEPS
    for task in (whole, resumed, again):
        task.finish()
    assert_equal(resumed.model.state_dict(), whole.model.state_dict())
    assert_equal(again.model.state_dict(), whole.model.state_dict())


def test_without_a_decay_there_is_no_average():
    task = Task(recipe=RECIPES["small"])
    assert not [name for name in task.tensors() if name.startswith(AVERAGE)]


def test_recipes_of_old_have_none_and_keep_their_json():
    plain = recipe_to_json(RECIPES["small"])
    assert "ema_decay" not in plain
    assert recipe_from_json(plain).ema_decay == 0.0
    asked = json.loads(json.dumps(recipe_to_json(RECIPE)))
    assert asked["ema_decay"] == DECAY
    assert recipe_from_json(asked) == RECIPE


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(DmcpError, match=r"'ema_decay' is .* and must be at least 0 and below 1"):
        dataclasses.replace(RECIPE, ema_decay=decay)
