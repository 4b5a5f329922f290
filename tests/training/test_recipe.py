from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.training.recipe import (
    RECIPES,
    Recipe,
    Schedule,
    load_recipe,
    recipe_from_json,
    recipe_to_json,
)


def written(folder: Path, content: object) -> str:
    path = folder / "mine.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def message(name: str) -> str:
    with pytest.raises(DmcpError) as caught:
        load_recipe(name)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_loaded_by_their_name(name):
    assert load_recipe(name) is RECIPES[name]
    assert load_recipe(name).name == name


@pytest.mark.parametrize("steps", [2, 10, 1000])
@pytest.mark.parametrize(
    "schedule", [s for recipe in RECIPES.values() for s in (recipe.search, recipe.train)]
)
def test_schedules_meet_their_end_points(schedule, steps):
    warmup = round(schedule.warmup * steps)
    first = schedule.lr_start if warmup else schedule.lr
    assert schedule.lr_at(0, steps) == pytest.approx(first)
    assert schedule.lr_at(warmup, steps) == pytest.approx(schedule.lr)
    assert schedule.lr_at(steps - 1, steps) == pytest.approx(schedule.lr_end)


def test_a_schedule_rises_by_a_line_and_falls_by_a_cosine():
    schedule = Schedule(1, 1, lr_start=0.2, lr=1.0, lr_end=0.0, warmup=0.25, weight_decay=0.0)
    rates = [schedule.lr_at(step, 17) for step in range(17)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[10] == pytest.approx(0.5)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[7] == pytest.approx((1 + 2**-0.5) / 2)


def test_a_single_step_takes_the_main_rate():
    assert RECIPES["demo"].train.lr_at(0, 1) == RECIPES["demo"].train.lr


def test_a_file_states_what_differs_from_its_base(tmp_path):
    content = {"base": "demo", "alpha_lr": 0.25, "train": {"epochs": 0.5, "batch_size": 7}}
    recipe = load_recipe(written(tmp_path, content))
    demo = RECIPES["demo"]
    expected = replace(
        demo, name="mine", alpha_lr=0.25, train=replace(demo.train, epochs=0.5, batch_size=7)
    )
    assert recipe == expected


def test_a_file_without_a_base_starts_from_small(tmp_path):
    assert load_recipe(written(tmp_path, {})) == replace(RECIPES["small"], name="mine")


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_survive_json(name):
    recipe = replace(RECIPES[name], train_size=64, transition="sigmoid")
    for one in (RECIPES[name], recipe):
        assert recipe_from_json(json.loads(json.dumps(recipe_to_json(one)))) == one


def test_recipes_of_older_runs_stand_for_what_was_done_then():
    older = {"name": "small", "search": {"epochs": 3}}
    recipe = recipe_from_json(older)
    assert recipe.dropout
    assert recipe.search_dropout
    assert not recipe.own_fan_in
    assert recipe.color_jitter == ()
    assert recipe.augmentation is None
    written = recipe_to_json(recipe)
    assert not written.keys() & {"dropout", "search_dropout", "own_fan_in", "color_jitter"}
    assert not written.keys() & {"augmentation", "resizing"}
    assert recipe_from_json(written) == recipe


def test_unknown_names_are_told_what_is_near():
    text = message("demmo")
    assert "did you mean demo" in text
    assert "imagenet-resnet" in text


@pytest.mark.parametrize(
    ("content", "near"),
    [
        ({"alpha_rl": 0.5}, "alpha_lr"),
        ({"search": {"epoch": 3}}, "epochs"),
        ({"train": {"batchsize": 3}}, "batch_size"),
    ],
)
def test_unknown_fields_are_told_what_is_near(content, near, tmp_path):
    text = message(written(tmp_path, content))
    assert "has no field" in text
    assert f"did you mean {near}" in text


@pytest.mark.parametrize(
    "content",
    [
        {"alpha_lr": "fast"},
        {"alpha_lr": None},
        {"alpha_lr": True},
        {"candidates": 2.5},
        {"transition": 1},
        {"name": 3},
        {"train_size": 96.5},
        {"search": {"batch_size": "64"}},
        {"search": {"batch_size": 6.4}},
        {"search": {"epochs": [1]}},
        {"dropout": 0.2},
        {"color_jitter": 0.2},
        {"search": 3},
        {"train": None},
    ],
)
def test_values_of_a_wrong_type_are_shown(content, tmp_path):
    text = message(written(tmp_path, content))
    value = next(iter(content.values()))
    shown = next(iter(value.values())) if isinstance(value, dict) else value
    assert repr(shown) in text


@pytest.mark.parametrize(
    ("content", "allowed"),
    [
        ({"transition": "relu"}, "one of exp, sigmoid"),
        ({"sample_schedule": "two"}, "one of one, all"),
        ({"augmentation": "flips"}, "one of imagenet, crop, shift, turns, none"),
        ({"resizing": "pad"}, "one of crop, squash"),
        ({"random_end": 1.5}, "at most 1"),
        ({"search_label_smoothing": 1.0}, "below 1"),
        ({"alpha_lr_end": -0.1}, "at least 0"),
        ({"architecture_share": 1.5}, "at most 1"),
        ({"label_smoothing": 1.0}, "below 1"),
        ({"candidates": 0}, "at least 1"),
        ({"search": {"warmup": 1.0}}, "below 1"),
        ({"search": {"batch_size": 0}}, "at least 1"),
        ({"search": {"epochs": 0}}, "above 0"),
        ({"train": {"lr": -0.1}}, "at least 0"),
        ('{"alpha_lr": NaN}', "at least 0"),
        ({"color_jitter": [0.2, 0.2, 0.2]}, "four numbers"),
        ({"color_jitter": [0.2, 0.2, 0.2, 0.6]}, "hue from 0 to 0.5"),
        ({"color_jitter": [0.2, -0.2, 0.2, 0.1]}, "from 0 to 1"),
    ],
)
def test_values_out_of_range_are_told_the_range(content, allowed, tmp_path):
    text = message(written(tmp_path, content))
    assert "mine.json" in text
    assert allowed in text


@pytest.mark.parametrize("content", ["{", "[1, 2]", "nothing", '"demo"'])
def test_files_that_are_no_object_are_refused(content, tmp_path):
    assert "mine.json" in message(written(tmp_path, content))


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "mine.json"
    path.write_bytes(b"\xff\xfe\x00")
    assert "cannot be read as JSON" in message(str(path))


@pytest.mark.parametrize("base", ["tiny", "mine.json", 3, None])
def test_a_base_is_one_of_the_named_recipes(base, tmp_path):
    text = message(written(tmp_path, {"base": base}))
    assert repr(base) in text
    assert "imagenet-mobilenet" in text


def test_what_python_code_states_is_checked_too():
    with pytest.raises(DmcpError, match="'recalibration_batches' is 0"):
        replace(RECIPES["small"], recalibration_batches=0)


def test_recipes_need_no_torch():
    code = "import sys, dmcp_deploy.training.recipe; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_field_has_a_type_that_files_may_state(tmp_path):
    whole = recipe_to_json(RECIPES["imagenet-resnet"])
    assert load_recipe(written(tmp_path, whole)) == RECIPES["imagenet-resnet"]
    assert isinstance(load_recipe(written(tmp_path, whole)), Recipe)


@pytest.mark.parametrize(
    ("name", "part", "steps"),
    [
        ("imagenet-mobilenet", "search", 1000),
        ("imagenet-mobilenet", "train", 1250),
        ("imagenet-resnet", "search", 0),
        ("imagenet-resnet", "train", 1250),
    ],
)
def test_warm_ups_on_imagenet_have_the_steps_of_the_release(name, part, steps):
    schedule = getattr(RECIPES[name], part)
    length = round(schedule.epochs * (1_281_167 // (8 * schedule.batch_size)))
    assert round(schedule.warmup * length) == pytest.approx(steps, rel=0.002)


OLD_RUN = Path(__file__).parents[1] / "artifacts" / "release_0_1_0" / "run" / "run.json"


def test_recipes_of_older_runs_stay_what_they_were():
    content = json.loads(OLD_RUN.read_text())["request"]["recipe"]
    recipe = recipe_from_json(content)
    assert recipe_to_json(recipe) == content
    assert (recipe.candidates, recipe.sample_schedule, recipe.alpha_lr_end) == (5, "one", 0.0)
    # Then the chance of a random network decayed by absolute steps, in a short search not at all.
    assert recipe.random_chance(0, 1.0) == 1.0
    assert recipe.smoothing_in_search == recipe.label_smoothing == 0.1


def test_the_choices_of_the_release_are_a_file_away(tmp_path):
    release = {
        "base": "imagenet-resnet",
        "transition": "sigmoid",
        "sample_schedule": "all",
        "search_label_smoothing": None,
        "alpha_lr_end": 0.1,
    }
    recipe = load_recipe(written(tmp_path, release))
    assert {name: getattr(recipe, name) for name in release.keys() - {"base"}} == {
        name: value for name, value in release.items() if name != "base"
    }
    assert recipe_from_json(json.loads(json.dumps(recipe_to_json(recipe)))) == recipe
