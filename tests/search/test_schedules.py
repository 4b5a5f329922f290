"""What a recipe chooses in stage 2: which networks are drawn at random, and how long."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from search_problems import make_problem, small_network, some_batch

from dmcp_deploy.search.dmcp import DmcpTask
from dmcp_deploy.search.ranking import full_recipe
from dmcp_deploy.search.slimmable import SharedWeights
from dmcp_deploy.training.recipe import RECIPES, Recipe

STEPS = 1000  # the last half of which is stage 2
IMAGENET = 1_281_167  # training images


def is_random(task: DmcpTask, steps: range) -> np.ndarray:
    """Returns whether each random network of some steps was drawn uniformly, [steps, networks].

    At alpha = 0 the Markov process keeps everything, which no uniform draw does.
    """
    full = task._problem.space.full
    drawn = [task._weights.networks(step, partial(task._draw, step))[1:] for step in steps]
    return np.array([[(units != full).any() for units in networks] for networks in drawn])


def task_of(folder, steps: int = STEPS, **changes: object) -> DmcpTask:
    return DmcpTask(make_problem(small_network(), folder, share=0.5, **changes), steps)


def test_all_networks_are_random_in_stage_1(tmp_path):
    for schedule in ("one", "all"):
        assert is_random(task_of(tmp_path, sample_schedule=schedule), range(490, 500)).all()


def test_one_network_is_scheduled_and_the_others_come_from_the_process(tmp_path):
    first, second = is_random(task_of(tmp_path), range(500, 1000)).T
    assert not second.any()
    assert first[:50].mean() > 0.8
    assert 0.2 < first[-50:].mean() < 0.6
    assert first.mean() == pytest.approx((1 - 0.37) / -np.log(0.37), abs=0.09)


def test_all_networks_are_scheduled_each_by_a_chance_of_its_own(tmp_path):
    chances = is_random(task_of(tmp_path, sample_schedule="all"), range(500, 1000)).T
    for one in chances:
        assert one.mean() == pytest.approx((1 - 0.37) / -np.log(0.37), abs=0.09)
    assert (chances[0] != chances[1]).any()


@pytest.mark.parametrize("steps", [6, 100, 50_000])
def test_the_chance_decays_over_the_stage_however_short_it_is(steps, tmp_path):
    asked = []

    def chance(recipe: Recipe, place: int, done: float) -> float:
        asked.append(recipe.random_end**done)
        return 1.0

    task = task_of(tmp_path, steps, random_end=0.25)
    generator = torch.Generator().manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recipe, "random_chance", chance)
        for step in (0, steps // 2 - 1, steps // 2, steps - 1):
            task._draw(step, 0, 0.5, generator)
    assert asked == [1.0, 0.25]  # nothing is asked in stage 1


def test_a_stage_of_one_step_is_random(tmp_path):
    assert is_random(task_of(tmp_path, 2), range(1, 2))[0].tolist() == [True, False]


@pytest.mark.parametrize(("end", "last"), [(1.0, True), (0.0, False)])
def test_the_ends_of_what_may_be_asked(end, last, tmp_path):
    drawn = is_random(task_of(tmp_path, random_end=end), range(500, 1000))[:, 0]
    assert drawn[0]
    assert drawn[1:].all() == drawn[1:].any() == last


def test_over_imagenet_it_is_the_decay_of_the_release():
    for name in ("imagenet-mobilenet", "imagenet-resnet"):
        recipe = RECIPES[name]
        epochs = recipe.architecture_share * recipe.search.epochs
        steps = epochs * (IMAGENET // (8 * recipe.search.batch_size))
        assert recipe.sample_schedule == "all"
        assert recipe.random_chance(1, 1.0) == pytest.approx(0.9999 ** (2 * steps / 10), abs=0.005)


def test_the_rate_of_the_alphas_falls_from_its_start_to_its_end(tmp_path):
    recipe = make_problem(small_network(), tmp_path, alpha_lr_end=0.1).recipe
    assert recipe.alpha_lr_at(0.0) == pytest.approx(0.5)
    assert recipe.alpha_lr_at(0.5) == pytest.approx(0.3)
    assert recipe.alpha_lr_at(1.0) == pytest.approx(0.1)


@pytest.mark.usefixtures("fashion_mnist")
def test_a_search_smooths_labels_by_its_own_share(tmp_path):
    batch = some_batch()
    logits = small_network().model.train()(batch.images)
    for smoothing, wanted in ((None, 0.1), (0.0, 0.0), (0.3, 0.3)):
        network = small_network()
        problem = make_problem(network, tmp_path, search_label_smoothing=smoothing)
        loss = float(F.cross_entropy(logits, batch.labels, label_smoothing=wanted).detach())
        task = DmcpTask(problem, steps=2)
        assert float(task.task_loss(batch).detach()) == pytest.approx(loss, rel=1e-4)
        figures = SharedWeights(problem, 2).step(0, batch)
        assert figures["loss"] == pytest.approx(loss, rel=1e-4)
        assert full_recipe(problem).label_smoothing == wanted
        assert problem.recipe.label_smoothing == 0.1


def test_the_release_smooths_no_labels_in_searches_of_resnets():
    recipe = RECIPES["imagenet-resnet"]
    assert (recipe.smoothing_in_search, recipe.label_smoothing) == (0.0, 0.1)
    assert RECIPES["imagenet-mobilenet"].smoothing_in_search == 0.1
