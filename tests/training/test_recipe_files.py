"""The recipes of the paper's ImageNet table: a file for every row, each one started."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from picture_folders import make_folder
from search_problems import FP32, asked_macs, asked_of, fresh_network, noise_data, paper_network
from tiny_runs import succeed

import dmcp_deploy
from dmcp_deploy.cli.main import main
from dmcp_deploy.data.loader import train_batches
from dmcp_deploy.data.types import Batch
from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.slicing import slice_network
from dmcp_deploy.network.supernet import Supernet
from dmcp_deploy.options.network import DEFAULT_ALIGN
from dmcp_deploy.options.run import Compute, RunOptions
from dmcp_deploy.plan import ChannelPlan, NetworkSpec
from dmcp_deploy.registry import METHODS
from dmcp_deploy.rundir.directory import RunDir
from dmcp_deploy.search.costs.asked import asked_budgets
from dmcp_deploy.search.problem import SearchProblem
from dmcp_deploy.search.run import plan_problem, search_plan
from dmcp_deploy.training.dense import DenseTask, DistillTask
from dmcp_deploy.training.recipe import Recipe, Schedule, load_recipe, recipe_run
from dmcp_deploy.units import parse_budget

FOLDER = Path(dmcp_deploy.__file__).parents[1] / "recipes"
README = FOLDER / "README.md"

GPUS = 8
CLASSES = 1000
SIDE = 32
BATCH = 4
STEPS = 2


@dataclass(frozen=True)
class Row:
    """A row of the table: what is pruned and how, its multiply-adds and its top-1 in percent."""

    method: str
    model: str
    flops: str
    top1: float
    width_mult: float = 1.0
    distill: bool = False

    @property
    def name(self) -> str:
        """Of the row's file, without its ending."""
        method = f"{self.method}_distilled" if self.distill else self.method
        return f"{method}_{self.model}_{self.flops}"

    @property
    def path(self) -> str:
        return str(FOLDER / f"{self.name}.json")


MOBILENET, RESNET = "mobilenet_v2", "resnet50"

BASELINES = (
    Row("uniform", MOBILENET, "300M", 72.3),
    Row("uniform", MOBILENET, "210M", 70.1, 0.75),
    Row("uniform", MOBILENET, "97M", 64.8, 0.5),
    Row("uniform", MOBILENET, "59M", 60.1, 0.35),
    Row("uniform", "resnet18", "1.8G", 70.1),
    Row("uniform", RESNET, "4.1G", 76.6),
    Row("uniform", RESNET, "3.0G", 75.3, 0.85),
    Row("uniform", RESNET, "2.3G", 74.6, 0.75),
    Row("uniform", RESNET, "1.1G", 71.9, 0.5),
    Row("uniform", RESNET, "278M", 63.5, 0.25),
)
PRUNED = (
    Row("metapruning", MOBILENET, "217M", 71.2, 1.4),
    Row("metapruning", MOBILENET, "87M", 63.8, 1.4),
    Row("metapruning", MOBILENET, "43M", 58.3, 1.4),
    Row("amc", MOBILENET, "211M", 70.8),
    Row("autoslim", MOBILENET, "300M", 74.2, 1.5, distill=True),
    Row("autoslim", MOBILENET, "211M", 73.0, 1.5, distill=True),
    Row("dmcp", MOBILENET, "300M", 73.5, 1.5),
    Row("dmcp", MOBILENET, "211M", 72.2, 1.5),
    Row("dmcp", MOBILENET, "97M", 67.0, 1.5),
    Row("dmcp", MOBILENET, "87M", 66.1, 1.5),
    Row("dmcp", MOBILENET, "59M", 62.7, 1.5),
    Row("dmcp", MOBILENET, "43M", 59.1, 1.5),
    Row("dmcp", MOBILENET, "300M", 74.6, 1.5, distill=True),
    Row("dmcp", MOBILENET, "211M", 73.5, 1.5, distill=True),
    Row("fpgm", "resnet18", "1.04G", 68.4),
    Row("dmcp", "resnet18", "1.04G", 69.2),
    Row("fpgm", RESNET, "2.4G", 75.6),
    Row("sfp", RESNET, "2.4G", 74.6),
    Row("metapruning", RESNET, "3.0G", 76.2),
    Row("metapruning", RESNET, "2.3G", 75.4),
    Row("metapruning", RESNET, "1.1G", 73.4),
    Row("autoslim", RESNET, "3.0G", 76.0, distill=True),
    Row("autoslim", RESNET, "2.0G", 75.6, distill=True),
    Row("autoslim", RESNET, "1.1G", 74.0, distill=True),
    Row("dmcp", RESNET, "2.8G", 76.7),
    Row("dmcp", RESNET, "2.2G", 76.2),
    Row("dmcp", RESNET, "1.1G", 74.0),
    Row("dmcp", RESNET, "278M", 66.4),
)
ROWS = (*BASELINES, *PRUNED)

#: Multiply-adds of a full network of some width, at 224 pixels and for 1000 classes.
FULL_MACS = {
    (MOBILENET, 1.5): 672_832_704,
    (MOBILENET, 1.4): 582_195_824,
    (MOBILENET, 1.0): 300_774_272,
    (MOBILENET, 0.75): 209_069_792,
    (MOBILENET, 0.5): 97_131_840,
    (MOBILENET, 0.35): 59_285_808,
    ("resnet18", 1.0): 1_814_073_344,
    (RESNET, 1.0): 4_089_184_256,
    (RESNET, 0.85): 2_967_983_244,
    (RESNET, 0.75): 2_322_677_760,
    (RESNET, 0.5): 1_052_311_552,
    (RESNET, 0.25): 278_085_632,
}

#: Images in a step of all processes: (search, training); None where the search trains nothing.
GLOBAL_BATCH = {
    ("uniform", MOBILENET): (None, 512),
    ("uniform", "resnet18"): (None, 512),
    ("uniform", RESNET): (None, 512),
    ("amc", MOBILENET): (None, 256),
    ("metapruning", MOBILENET): (512, 1024),
    ("metapruning", RESNET): (256, 512),
    ("autoslim", MOBILENET): (2048, 2048),
    ("autoslim", RESNET): (1024, 256),
    ("dmcp", MOBILENET): (512, 512),
    ("dmcp", "resnet18"): (512, 512),
    ("dmcp", RESNET): (512, 512),
    ("fpgm", "resnet18"): (None, 256),
    ("fpgm", RESNET): (None, 256),
    ("sfp", RESNET): (256, 256),
}

SLOW = pytest.mark.slow
each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


def test_every_row_of_the_table_has_a_file_and_every_file_a_row():
    assert len(BASELINES) == 10
    assert len(PRUNED) == 28
    assert {path.stem for path in FOLDER.glob("*.json")} == {row.name for row in ROWS}
    assert len({row.name for row in ROWS}) == len(ROWS)


@each_row
def test_a_file_asks_for_what_its_row_says(row):
    asked = recipe_run(row.path)
    assert asked["model"] == row.model
    assert asked["width_mult"] == row.width_mult
    assert asked["method"] == row.method
    assert asked.get("distill", False) is row.distill
    assert asked["flops"] == ("100%" if row.method == "uniform" else row.flops)
    options = {key: value for key, value in asked.items() if key not in ("model", "flops")}
    _needs_method(row)
    RunOptions(**options)


@each_row
def test_a_file_trains_on_as_many_images_a_step_as_its_release(row):
    recipe = load_recipe(row.path)
    assert recipe.name == row.name
    search, train = GLOBAL_BATCH[row.method, row.model]
    assert search in (None, GPUS * recipe.search.batch_size)
    assert train == GPUS * recipe.train.batch_size


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, id=row.name, marks=SLOW if row.width_mult < 1 else ()) for row in ROWS],
)
def test_the_budget_of_a_row_can_be_met(row, tmp_path):
    problem = problem_of(row, paper_network(row.model, row.width_mult), tmp_path)
    assert problem.accounting.full_macs == FULL_MACS[row.model, row.width_mult]
    stated = parse_budget(row.flops).amount
    if row.method == "uniform":
        assert asked_macs(problem) == problem.accounting.full_macs
        assert math.isclose(asked_macs(problem), stated, rel_tol=0.05)
        assert (problem.uniform_units(problem.limits) == problem.space.full).all()
    else:
        assert asked_macs(problem) == stated
        found = problem.accounting.macs(problem.uniform_units(problem.limits))
        assert 0.98 <= found / asked_macs(problem) <= 1.0


@pytest.mark.parametrize(
    ("name", "narrowest", "widths"),
    [
        ("dmcp_mobilenet_v2_211M", 1 / 15, 15),
        ("autoslim_distilled_mobilenet_v2_211M", 1 / 6, 11),
        ("autoslim_distilled_resnet50_2.0G", 1 / 6, 11),
        ("metapruning_mobilenet_v2_87M", 0.1, 31),
        ("metapruning_resnet50_2.3G", 0.1, 31),
    ],
)
def test_the_widths_on_offer_are_those_of_the_paper(name, narrowest, widths, tmp_path):
    row = next(row for row in ROWS if row.name == name)
    space = problem_of(row, paper_network(row.model, row.width_mult), tmp_path).space
    largest = space.full.argmax()
    assert space.count[largest] + 1 == widths
    assert space.minimum[largest] / space.full[largest] == pytest.approx(narrowest, abs=0.02)


def test_the_page_lists_every_row_with_the_papers_accuracy():
    listed = re.findall(r"^\| `([^`]+)\.json` \|.*\| ([\d.]+) \|$", README.read_text(), re.M)
    assert [(row.name, f"{row.top1}") for row in ROWS] == listed


def test_the_commands_on_the_page_are_understood(monkeypatch):
    monkeypatch.chdir(FOLDER.parent)
    lines = re.findall(r"^ {4}(.*)$", README.read_text(), re.M)
    starts = ("dmcp-deploy", "torchrun --nproc-per-node 8 -m dmcp_deploy")
    for start in starts:
        assert any(line.startswith(f"{start} prune --recipe") for line in lines)
    for line in lines:
        start = next(start for start in starts if line.startswith(start))
        name, *words = shlex.split(line.removeprefix(start))
        command = main.get_command(click.Context(main), name)
        assert command.make_context(name, words, parent=click.Context(main)).params["flops"]


def test_the_example_on_the_page_searches_as_the_release_does(tmp_path):
    (example,) = re.findall(r"^```json\n(.*?)^```", README.read_text(), re.M | re.S)
    path = tmp_path / "mine.json"
    path.write_text(example)
    recipe = load_recipe(str(path))
    assert recipe.search == load_recipe("imagenet-mobilenet").search
    assert (recipe.transition, recipe.sample_schedule) == ("sigmoid", "all")
    assert (recipe.alpha_lr, recipe.alpha_lr_end) == (0.5, 0.1)


def test_the_page_tells_what_is_built_in():
    told = dict(
        re.findall(r"^\| `(\w+)`(?:, `\w+`)? \| .* \| ([^|]+) \|$", README.read_text(), re.M)
    )
    small, resnet = load_recipe("small"), load_recipe("imagenet-resnet")
    for name in ("transition", "sample_schedule"):
        assert told[name].startswith(f"`{getattr(small, name)}`")
    for name in ("random_end", "budget_weight", "architecture_share", "candidates"):
        assert told[name].startswith(f"{getattr(small, name):g}")
    assert told["alpha_lr"].startswith(f"{small.alpha_lr:g} and {small.alpha_lr_end:g}")
    assert told["recalibration_batches"].startswith(
        f"{small.recalibration_batches}; {resnet.recalibration_batches} "
    )


def test_rows_of_one_method_and_network_differ_in_their_budget_alone():
    kinds = {}
    for row in ROWS:
        budget = ("flops", "width_mult") if row.method == "uniform" else ("flops",)
        asked = {key: value for key, value in recipe_run(row.path).items() if key not in budget}
        same = (asked, replace(load_recipe(row.path), name=""))
        assert kinds.setdefault((row.method, row.model, row.distill), same) == same


#: Searches that take long for what others show as well.
LONG = {
    ("metapruning", RESNET): "most of a minute; MetaPruning searches MobileNetV2 every time",
}
#: Rows that are quick enough for every change of code.
QUICK = ("uniform_mobilenet_v2_59M", "dmcp_distilled_mobilenet_v2_211M")


def rows_to_start() -> list[Any]:
    """Returns one row of each method and network: the others differ in their budget alone."""
    kinds = {(row.method, row.model, row.distill): row for row in ROWS}
    rows = [row for row in kinds.values() if row.name not in QUICK]
    rows += [row for row in ROWS if row.name in QUICK]
    return [pytest.param(row, id=row.name, marks=_marks(row)) for row in rows]


def _marks(row: Row) -> list[pytest.MarkDecorator]:
    reason = LONG.get((row.method, row.model))
    nightly = [pytest.mark.nightly(reason)] if reason else []
    return [*nightly, *([] if row.name in QUICK else [SLOW])]


@pytest.mark.parametrize("row", rows_to_start())
def test_a_row_takes_two_steps_of_search_and_training(row, tmp_path):
    take_two_steps(row, tmp_path)


@SLOW
@pytest.mark.parametrize(
    "name",
    [
        "uniform_resnet18_1.8G",
        pytest.param(
            "autoslim_distilled_mobilenet_v2_211M",
            marks=pytest.mark.nightly("half a minute; another row is started every time"),
        ),
    ],
)
def test_a_row_is_started_by_its_file_alone(name, tmp_path):
    row = next(row for row in ROWS if row.name == name)
    data = make_folder(
        tmp_path / "data", classes=tuple(f"n{k:08d}" for k in range(CLASSES)), train=1, val=1
    )
    out = tmp_path / "run"
    trial = ["--max-steps", STEPS, "--batch-size", BATCH, "--train-size", SIDE]
    succeed("search", "--recipe", row.path, "--data", data, "--out", out, *trial)
    succeed("train", out)
    plan, run = ChannelPlan.load(out / "plan.json"), RunDir(out)
    assert plan.network == NetworkSpec(row.model, row.width_mult)
    assert (plan.method, plan.full_macs) == (row.method, FULL_MACS[row.model, row.width_mult])
    assert 0.98 <= plan.macs / plan.budget_macs <= 1.0
    assert run.figures("train")["steps"] == STEPS
    assert run.request().distill is row.distill
    assert sum(p.numel() for p in dmcp_deploy.load(out).parameters()) == plan.params


def take_two_steps(row: Row, folder: Path) -> None:
    _needs_method(row)
    network = fresh_network(NetworkSpec(row.model, row.width_mult))
    problem = problem_of(row, network, folder)
    align = recipe_run(row.path).get("align", DEFAULT_ALIGN)
    plan, _ = search_plan(row.method, problem, align)
    assert 0.98 <= plan.macs / asked_macs(problem) <= 1.0
    assert all(keep.width % align == 0 for keep in plan.groups.values())

    task = training_of(row, network, plan, problem.recipe)
    before = {name: tensor.clone() for name, tensor in task.tensors().items()}
    figures = [task.step(step, batch) for step, batch in enumerate(batches(problem.recipe))]
    assert len(figures) == STEPS
    assert all(math.isfinite(one["loss"]) for one in figures)
    after = task.tensors()
    assert all(not torch.equal(before[k], after[k]) for k in before if k.endswith("weight"))
    dense = slice_network(network, plan.groups)
    assert sum(p.numel() for p in dense.parameters()) == plan.params


def training_of(row: Row, network: Network, plan: ChannelPlan, recipe: Recipe) -> DenseTask:
    if row.distill:
        return DistillTask(Supernet(network), plan.groups, recipe, STEPS, FP32)
    return DenseTask(slice_network(network, plan.groups), recipe, STEPS, FP32)


def batches(recipe: Recipe) -> Iterator[Batch]:
    size = recipe.train.batch_size
    return train_batches(
        noise_data(CLASSES), image_size=SIDE, batch_size=size, seed=0, start_step=0, steps=STEPS
    )


def problem_of(row: Row, network: Network, folder: Path) -> SearchProblem:
    """Returns a row's search at small images and batches; all else is the file's."""
    asked = recipe_run(row.path)
    recipe = trial_of(load_recipe(row.path))
    budgets, align = asked_budgets(flops=asked["flops"]), asked.get("align", DEFAULT_ALIGN)
    accounting, space, grid, limits = plan_problem(network, budgets, align, recipe)
    return SearchProblem(
        network=network,
        accounting=accounting,
        space=space,
        grid=grid,
        limits=limits,
        data=noise_data(CLASSES),
        recipe=recipe,
        request=asked_of(network.spec, weights=asked.get("weights"), max_steps=STEPS),
        compute=Compute(),
        precision=FP32,
        folder=folder,
    )


def trial_of(recipe: Recipe) -> Recipe:
    search, train = (_small(part) for part in (recipe.search, recipe.train))
    return replace(recipe, search=search, train=train, train_size=SIDE, recalibration_batches=2)


def _small(schedule: Schedule) -> Schedule:
    """Returns a schedule of 4 images a step, its learning rates for as many."""
    share = BATCH / (GPUS * schedule.batch_size)
    rates = {name: share * getattr(schedule, name) for name in ("lr_start", "lr", "lr_end")}
    return replace(schedule, batch_size=BATCH, **rates)


def _needs_method(row: Row) -> None:
    if row.method not in METHODS:
        pytest.skip(f"no method {row.method}")
