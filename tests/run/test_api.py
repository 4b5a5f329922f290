"""Whole runs: what they leave behind, what running them again does, and what options change."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from closeness import assert_same, count_roundings, difference
from tiny_pipeline_net import GROUPS, tiny_pipeline_net
from tiny_runs import asked, call, changed, library, snapshot, succeed
from torch import Tensor, nn

import dmcp_deploy
from dmcp_deploy.bench.record import BenchRecord
from dmcp_deploy.export.proven import ONNX_TOLERANCE
from dmcp_deploy.export.slice import TOLERANCE
from dmcp_deploy.options.run import Compute
from dmcp_deploy.plan import ChannelPlan
from dmcp_deploy.run.context import RunContext
from dmcp_deploy.run.networks import random_network
from dmcp_deploy.run.start import starting_network
from dmcp_deploy.rundir.directory import RunDir
from dmcp_deploy.runtimes.onnxruntime import OnnxSession
from dmcp_deploy.training.weights import load_weights, read_tensors, save_weights

# One worker makes the finished run and has it for all of these tests.
pytestmark = pytest.mark.xdist_group("run")

FILES = {
    "run.json",
    "plan.json",
    "supernet.safetensors",
    "sliced.safetensors",
    "dense.safetensors",
    "model.onnx",
    "original.onnx",
    "bench.json",
    "metrics/search.jsonl",
    "metrics/train.jsonl",
    "checkpoints/search.safetensors",
    "checkpoints/search-shared.safetensors",
    "checkpoints/train.safetensors",
}


def test_a_run_leaves_every_file_and_nothing_else(finished_run: Path) -> None:
    assert set(snapshot(finished_run)) == FILES


def test_the_plan_ends_just_below_the_budget(finished_run: Path) -> None:
    plan = ChannelPlan.load(finished_run / "plan.json")
    assert plan.budget_macs == plan.full_macs // 4
    assert 0.98 <= plan.macs / plan.budget_macs <= 1.0
    widths = [keep.width for keep in plan.groups.values()]
    assert all(width % 8 == 0 for width in widths)
    assert {name: keep.size for name, keep in plan.groups.items()} == GROUPS


def test_equality_is_on_record_and_within_its_tolerances(finished_run: Path) -> None:
    run = RunDir(finished_run)
    assert run.figures("slice")["parity"]["max_rel"] <= TOLERANCE
    for name in ("model", "original"):
        assert run.figures("export")[name]["parity"]["max_rel"] <= ONNX_TOLERANCE


def test_macs_on_record_are_those_of_the_files(finished_run: Path) -> None:
    plan = ChannelPlan.load(finished_run / "plan.json")
    record = BenchRecord.load(finished_run / "bench.json")
    macs = {item.name: item.macs for item in record.measured}
    assert macs == {"original": plan.full_macs, "pruned": plan.macs}


def test_the_record_tells_what_was_asked_and_by_what_it_was_made(finished_run: Path) -> None:
    content = json.loads((finished_run / "run.json").read_text())
    assert content["request"]["budget"] == "25%"
    assert content["request"]["seed"] == 0
    assert content["request"]["data_digest"].startswith("sha256:")
    assert {"dmcp-deploy", "torch", "onnx", "onnxruntime"} <= set(content["versions"])
    assert list(content["stages"]) == ["search", "slice", "train", "export", "bench"]


def test_the_loaded_network_computes_what_the_onnx_file_does(finished_run: Path) -> None:
    network = dmcp_deploy.load(finished_run)
    images = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), OnnxSession(finished_run / "model.onnx") as session:
        logits = network(images).numpy()
        assert difference(session.run(images.numpy()), logits) <= ONNX_TOLERANCE
    assert logits.std(axis=0).max() > 0, "the network tells images apart"


def test_the_loaded_network_is_made_of_the_stock_classes(finished_run: Path) -> None:
    network = dmcp_deploy.load(finished_run)
    plan = ChannelPlan.load(finished_run / "plan.json")
    stem = network.get_submodule("stem.0")
    assert type(network) is type(tiny_pipeline_net())
    assert type(stem) is nn.Conv2d
    assert stem.out_channels == plan.widths()["stem.0"] < 24
    assert not any(module.training for module in network.modules())
    assert sum(p.numel() for p in network.parameters()) == plan.params


def test_run_again_it_recomputes_nothing(finished_run: Path, tiny_folder: Path) -> None:
    before = snapshot(finished_run)
    succeed(*asked("prune", tiny_folder, finished_run, seconds=0.2))
    assert snapshot(finished_run) == before


def test_without_its_network_only_the_training_stage_is_done_again(
    finished_run: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    weights, before = (run / "dense.safetensors").read_bytes(), snapshot(run)
    (run / "dense.safetensors").unlink()
    succeed(*asked("prune", tiny_folder, run, seconds=0.2))
    assert changed(before, snapshot(run)) == {"dense.safetensors", "run.json"}
    assert (run / "dense.safetensors").read_bytes() == weights


def test_without_its_onnx_file_only_the_export_is_done_again(
    finished_run: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    onnx, before = (run / "model.onnx").read_bytes(), snapshot(run)
    (run / "model.onnx").unlink()
    succeed(*asked("prune", tiny_folder, run, seconds=0.2))
    assert changed(before, snapshot(run)) == {"model.onnx", "original.onnx", "run.json"}
    assert (run / "model.onnx").read_bytes() == onnx


def test_without_its_supernet_the_search_ends_where_it_ended(
    finished_run: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    plan, weights = (run / "plan.json").read_bytes(), (run / "supernet.safetensors").read_bytes()
    (run / "supernet.safetensors").unlink()
    succeed(*asked("search", tiny_folder, run))
    assert (run / "plan.json").read_bytes() == plan
    assert (run / "supernet.safetensors").read_bytes() == weights


def test_other_measurements_are_made_without_touching_the_rest(
    finished_run: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    before = snapshot(run)
    succeed(*asked("prune", tiny_folder, run, seconds=0.2, batch=2))
    assert changed(before, snapshot(run)) == {"bench.json", "run.json"}
    assert BenchRecord.load(run / "bench.json").batches == (2,)


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [("seed", 1, "seed: 0 there, 1"), ("epochs", 3, "recipe.train.epochs: 40 there, 3.0")],
)
def test_other_settings_on_the_same_directory_are_refused(
    option: str, value: object, named: str, finished_run: Path, tiny_folder: Path
) -> None:
    before = snapshot(finished_run)
    result = call(*asked("prune", tiny_folder, finished_run, **{option: value}))
    assert result.exit_code == 1
    assert f"holds a run with other settings ({named} asked for)" in result.stderr
    assert snapshot(finished_run) == before


def test_the_same_seed_gives_the_same_plan_and_another_one_other_weights(
    finished_run: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    same = dmcp_deploy.run.search(**library(tiny_folder, tmp_path / "same"))
    other = dmcp_deploy.run.search(**library(tiny_folder, tmp_path / "other", seed=1))
    for name in ("plan.json", "supernet.safetensors"):
        assert same.file(name).read_bytes() == (finished_run / name).read_bytes()
    weights = "supernet.safetensors"
    assert other.file(weights).read_bytes() != same.file(weights).read_bytes()


def test_a_run_without_a_directory_gets_one_of_its_name(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = library(tiny_folder, tmp_path, method="uniform", out=None, flops="30%")
    run = dmcp_deploy.run.search(**options)
    assert run.path == Path("runs/tiny_pipeline_net-tiny_pipeline_net-30-")
    assert ChannelPlan.load(tmp_path / run.path / "plan.json").method == "uniform"


def test_data_that_changed_since_the_start_is_refused(
    finished_run: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(tiny_folder, tmp_path / "data"))
    run = dmcp_deploy.run.search(**library(data, tmp_path / "run", method="uniform"))
    next((data / "train").rglob("*.png")).unlink()
    with pytest.raises(dmcp_deploy.DmcpError, match=r"has changed since the run in .* was begun"):
        dmcp_deploy.train(run.path)


def test_every_command_of_the_chain_works_alone(tiny_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    text = succeed(*asked("search", tiny_folder, run, method="uniform", train_size=24))
    assert text.splitlines()[-1] == str(run / "plan.json")
    assert succeed("slice", run).splitlines()[-1] == str(run / "sliced.safetensors")
    assert succeed("train", run).splitlines()[-1] == str(run / "dense.safetensors")
    assert succeed("export", run, "--batch", 12).splitlines()[-1] == str(run / "model.onnx")
    table = succeed("bench", run, "--batch", 12, "--seconds", 0.2, "--save", tmp_path / "b.json")
    assert table.splitlines()[0].startswith("network ")
    assert (tmp_path / "b.json").read_bytes() == (run / "bench.json").read_bytes()
    with OnnxSession(run / "model.onnx") as session:
        assert session.input_shape == (12, 3, 32, 32), "more than the images of the proof"
    trained = RunDir(run).figures("train")
    assert trained["accuracy"]["image_size"] == 24
    assert trained["deployed_accuracy"]["image_size"] == 32
    assert not (run / "supernet.safetensors").exists(), "uniform scaling trains nothing"


def test_bench_compares_files_with_the_first_of_them(finished_run: Path) -> None:
    files = [finished_run / "model.onnx", finished_run / "original.onnx"]
    record = dmcp_deploy.run.bench(*files, finished_run / "model.onnx", seconds=0.1)
    names = [item.name for item in record.measured]
    assert names == ["model", "original", str(finished_run / "model.onnx")]


def test_markov_sampling_keeps_the_best_of_its_candidates(
    tiny_folder: Path, tmp_path: Path
) -> None:
    run = dmcp_deploy.run.search(**library(tiny_folder, tmp_path / "run", sampling="markov"))
    plan, candidates = ChannelPlan.load(run.file("plan.json")), run.figures("search")["candidates"]
    assert 1 < len(candidates) <= 4  # one for each step at most
    assert plan.macs == min(candidates, key=lambda item: item["loss"])["macs"]
    assert plan.budget_macs is not None
    assert 0.98 <= plan.macs / plan.budget_macs <= 1.0


@pytest.mark.parametrize("align", [1, 16])
def test_widths_are_multiples_of_what_is_asked(
    align: int, tiny_folder: Path, tmp_path: Path
) -> None:
    options = library(tiny_folder, tmp_path / "run", method="uniform", align=align)
    plan = ChannelPlan.load(dmcp_deploy.run.search(**options).file("plan.json"))
    wide = [keep.width for keep in plan.groups.values() if keep.size > align]
    assert plan.align == align
    assert all(width % align == 0 for width in wide)
    assert align > 1 or any(width % 8 for width in wide)
    assert plan.budget_macs is not None
    assert 0.9 <= plan.macs / plan.budget_macs <= 1.0


def test_a_narrower_full_network_is_pruned_and_loaded_as_such(
    tiny_folder: Path, tmp_path: Path
) -> None:
    options = library(tiny_folder, tmp_path / "run", method="uniform", width_mult=0.5)
    run = dmcp_deploy.run.search(**options)
    dmcp_deploy.train(run.path)
    plan = ChannelPlan.load(run.file("plan.json"))
    assert plan.groups["last.0"].size == 64
    network = dmcp_deploy.load(run.path)
    assert sum(p.numel() for p in network.parameters()) == plan.params


# With a learning rate of zero, training leaves the weights that it starts from.
STILL = {"lr_start": 0, "lr": 0, "lr_end": 0, "weight_decay": 0}


@pytest.fixture
def still_training(tmp_path: Path) -> Path:
    recipe = tmp_path / "still.json"
    recipe.write_text(json.dumps({"base": "small", "train": STILL}))
    return recipe


@pytest.mark.parametrize("distill", [False, True])
@pytest.mark.parametrize("init", ["scratch", "sliced"])
def test_the_pruned_network_starts_from_what_is_asked(
    init: str, distill: bool, still_training: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    options = {"recipe": str(still_training), "init": init, "distill": distill}
    run = dmcp_deploy.run.search(**library(tiny_folder, tmp_path / "run", **options))
    dmcp_deploy.train(run.path)
    stem = read_tensors(run.file("dense.safetensors"))["stem.0.weight"]
    context = RunContext.resume(run.path, Compute())
    random = leading(random_network(context).model.state_dict(), len(stem))
    searched = leading(read_tensors(run.file("supernet.safetensors")), len(stem))
    assert not torch.equal(random, searched)
    assert torch.equal(stem, searched if init == "sliced" else random)
    kept = json.loads(run.file("run.json").read_text())["stages"]["train"]["inputs"]
    assert ("supernet.safetensors" in kept) == (init == "sliced")


def leading(tensors: Mapping[str, Tensor], width: int) -> Tensor:
    return tensors["stem.0.weight"][:width]


def test_training_may_finish_at_the_deployed_size(tiny_folder: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "finish.json"
    recipe.write_text(json.dumps({"train_size": 24, "finish_share": 0.5}))
    options = library(tiny_folder, tmp_path / "run", method="uniform", recipe=str(recipe))
    context = RunContext.resume(dmcp_deploy.run.search(**options).path, Compute())
    batches = list(context.data.training_batches(0, 4))
    assert [batch.images.shape[-1] for batch in batches] == [24, 24, 32, 32]
    for start in (1, 3):
        for batch, other in zip(
            batches[start:], context.data.training_batches(start, 4), strict=True
        ):
            assert torch.equal(batch.images, other.images), "the same when resumed"


def test_distillation_trains_the_full_network_beside_the_pruned_one(
    tiny_folder: Path, tmp_path: Path
) -> None:
    options = library(tiny_folder, tmp_path / "run", method="uniform", distill=True)
    run = dmcp_deploy.run.search(**options)
    dmcp_deploy.train(run.path)
    lines = run.file("metrics/train.jsonl").read_text().splitlines()
    assert [json.loads(line).keys() for line in lines] == [{"step", "loss", "distill", "lr"}] * 4
    checkpoint = read_tensors(run.file("checkpoints/train.safetensors"))
    assert checkpoint["model.stem.0.weight"].shape[0] == 24


@pytest.fixture
def trained_weights(tmp_path: Path) -> Path:
    """Weights of the small network, no two channels alike, for other classes than the data's."""
    torch.manual_seed(5)
    model = tiny_pipeline_net(7).train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(16, 3, 32, 32) * 2 + 1)
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.rand_like(parameter))
    save_weights(model, tmp_path / "trained.safetensors")
    return tmp_path / "trained.safetensors"


def test_given_weights_are_sorted_and_compute_the_same(
    trained_weights: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"weights": str(trained_weights), "method": "uniform"}
    run = dmcp_deploy.run.search(**library(tiny_folder, tmp_path / "run", **options))
    network = starting_network(RunContext.resume(run.path, Compute()))[0].model.eval()
    given = tiny_pipeline_net(3)
    tensors = read_tensors(trained_weights)
    head = {name: tensor for name, tensor in network.state_dict().items() if "classifier" in name}
    load_weights(given, {**tensors, **head}, "test")
    order = torch.argsort(-strength(given), stable=True)
    # The head is new, for three classes: it is read in the sorted order of the features.
    given.get_parameter("classifier.weight").data[:, order] = head["classifier.weight"]
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert_same(network(images), given.eval()(images), roundings=count_roundings(given))
    assert not torch.equal(network.state_dict()["last.0.weight"], tensors["last.0.weight"])
    assert (strength(network).diff() <= 0).all()


def strength(model: nn.Module) -> Tensor:
    """Returns the L1 norm of each filter of the last convolution."""
    return model.get_parameter("last.0.weight").detach().abs().flatten(1).sum(1)


def test_given_weights_reach_the_pruned_network_by_slicing_alone(
    trained_weights: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"weights": str(trained_weights), "method": "uniform"}
    run = dmcp_deploy.run.search(**library(tiny_folder, tmp_path / "run", **options))
    dmcp_deploy.slice(run.path)
    first = starting_network(RunContext.resume(run.path, Compute()))[0].model.state_dict()
    stem = read_tensors(run.file("sliced.safetensors"))["stem.0.weight"]
    assert torch.equal(stem, leading(first, len(stem)))
    assert run.figures("slice")["accuracy"]["images"] == 24


def test_an_unknown_public_name_is_refused() -> None:
    assert set(dmcp_deploy.__all__) <= set(dir(dmcp_deploy))
    with pytest.raises(AttributeError, match="no attribute 'prun'"):
        dmcp_deploy.prun  # noqa: B018
