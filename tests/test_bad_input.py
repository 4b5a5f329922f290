"""Bad input: one sentence, exit code 1 or 2, nothing half-written."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from picture_folders import make_folder, truncate
from tiny_pipeline_net import tiny_pipeline_net
from tiny_runs import MODEL, asked, call, library, snapshot, succeed

import dmcp_deploy
from dmcp_deploy.training.weights import save_weights

# One worker makes the run without training, and the finished one, for all of these tests.
pytestmark = pytest.mark.xdist_group("run")


def refused(*arguments: object) -> str:
    """Returns the one sentence with which the command line refuses."""
    result = call(*arguments)
    assert result.exit_code in (1, 2), result.stdout
    assert "Traceback" not in result.stderr
    _, _, sentence = result.stderr.rpartition("Error: ")
    sentence = sentence.removesuffix("\n")
    assert "\n" not in sentence
    assert sentence[-1] in ".?"
    # What a library said stands in parentheses, and may be more than one sentence.
    assert not re.search(r"[.?!] [A-Z]", re.sub(r"\(.*\)", "", sentence)), sentence
    return sentence


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"model": "mobilnet_v2"}, r"no model 'mobilnet_v2': .*; did you mean mobilenet_v2"),
        ({"model": "no.such.module:net"}, r"'no.such.module:net' cannot be imported"),
        ({"model": "tiny_pipeline_net:tiny_net"}, r"no function 'tiny_net'; did you mean tiny_pi"),
        ({"model": "timm:mobilenetv5_100"}, r"no timm model 'mobilenetv5_100'; did you mean"),
        ({"method": "dmpc"}, r"--method 'dmpc' is unknown: choose one of dmcp, .* mean dmcp\?"),
        ({"sampling": "expect"}, r"--sampling 'expect' is unknown.* did you mean expected\?"),
        ({"init": "zero"}, r"--init 'zero' is unknown: choose one of scratch, sliced\."),
        ({"precision": "fp8"}, r"precision 'fp8' is unknown: choose one of auto, fp32, bf16"),
        ({"recipe": "dmeo"}, r"no recipe 'dmeo': .*; did you mean demo\?"),
        ({"device": "tpu"}, r"device 'tpu' is unknown"),
        ({"device": "cuda:77"}, r"device cuda:77 was asked for, and torch finds \d+ CUDA"),
        ({"flops": "0"}, r"FLOPs budget '0' must be above zero"),
        ({"flops": "abc"}, r"FLOPs budget 'abc' is not understood"),
        ({"flops": "-5M"}, r"FLOPs budget '-5M' is not understood"),
        ({"flops": "150%"}, r"FLOPs budget '150%' is above 100%"),
        ({"flops": "4M"}, r"4.0M is above the full network: choose one from .*K to 3.0M"),
        ({"flops": "1%"}, r"30.2K is below the narrowest network: choose one from .*K to 3.0M"),
        ({"max-steps": 0}, r"--max-steps 0 is too small: it must be at least 1"),
        ({"max-steps": "x"}, r"--max-steps.*'x' is not a valid integer"),
        ({"batch-size": 0}, r"'batch_size' is 0 and must be at least 1"),
        ({"batch-size": 49}, r"batch size 49 is larger than the 48 training pictures"),
        ({"epochs": 0}, r"'epochs' is 0.0 and must be above 0"),
        ({"search-epochs": -1}, r"'epochs' is -1.0 and must be above 0"),
        ({"align": 0}, r"--align '0' is not understood: give auto or a number"),
        ({"align": "x"}, r"--align 'x' is not understood: give auto or a number"),
        ({"batch": "x"}, r"--batch 'x' is not understood: give numbers such as 1,8"),
        ({"batch": "1,0"}, r"--batch '1,0' is not understood"),
        ({"seconds": 0}, r"--seconds 0 must be above zero"),
        ({"threads": -1}, r"--threads -1 is too small"),
        ({"workers": -1}, r"--workers -1 is too small"),
        ({"checkpoint-seconds": -1}, r"--checkpoint-seconds -1"),
        ({"seed": -1}, r"--seed -1 must lie in 0\.\."),
        ({"width-mult": 0}, r"width multiplier 0 must be above zero"),
        ({"width-mult": "nan"}, r"width multiplier nan must be above zero"),
        ({"width-mult": 2}, r"--width-mult must be at most 1, not 2"),
        ({"input-size": 8}, r"--input-size 8 is too small: it must be at least 16"),
        ({"train-size": 8}, r"--train-size 8 is too small: it must be at least 16"),
        ({"model": "inception_v3", "input-size": 64}, r"does not run on a 3x64x64 input"),
        ({"model": "alexnet", "input-size": 64, "train-size": 32}, r"does not train on batches"),
        ({"weights": "no/such.safetensors"}, r"There is no weights file .*no/such.safetensors"),
        ({"data": "no/such/folder"}, r"neither a folder nor a data set 'no/such/folder'"),
        ({"data": "elvp"}, r"neither a folder nor a data set 'elvp'.*; did you mean elpv\?"),
    ],
)
def test_a_bad_option_is_refused_before_anything_is_written(
    options: dict[str, Any], named: str, tiny_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    sentence = refused(*asked("prune", tiny_folder, out, **options))
    assert re.search(named, sentence), sentence
    assert not list(tmp_path.iterdir())


def no_val(data: Path) -> Path:
    shutil.rmtree(data / "val")
    return data


def empty_class(data: Path) -> Path:
    for picture in (data / "train" / "dog").iterdir():
        picture.unlink()
    return data


def class_in_train_alone(data: Path) -> Path:
    shutil.rmtree(data / "val" / "owl")
    return data


def corrupt_training_picture(data: Path) -> Path:
    truncate(data / "train" / "owl" / "003.png")
    return data


def corrupt_validation_picture(data: Path) -> Path:
    truncate(data / "val" / "cat" / "001.png")
    return data


def a_file(data: Path) -> Path:
    return data / "train" / "cat" / "000.png"


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (no_val, r"has no val/ in it, it holds train/"),
        (empty_class, r"class folder .*train/dog holds no pictures"),
        (class_in_train_alone, r"val lacks the class folder 'owl'"),
        (corrupt_training_picture, r"picture .*train/owl/003.png cannot be read"),
        (corrupt_validation_picture, r"picture .*val/cat/001.png cannot be read"),
        (a_file, r"000.png' is a file: give a folder"),
    ],
)
def test_bad_pictures_are_refused_before_anything_is_written(
    damage: Callable[[Path], Path], named: str, tmp_path: Path
) -> None:
    data = damage(make_folder(tmp_path / "data"))
    sentence = refused(*asked("prune", data, tmp_path / "run", batch_size=4))
    assert re.search(named, sentence), sentence
    assert not (tmp_path / "run").exists()


def garbage(path: Path) -> None:
    path.write_bytes(b"no weights at all")


def cut_off(path: Path) -> None:
    save_weights(tiny_pipeline_net(3), path)
    truncate(path)


def of_another_network(path: Path) -> None:
    save_weights(torch.nn.Conv2d(3, 8, 3), path)


def without_a_layer(path: Path) -> None:
    model = tiny_pipeline_net(3)
    del model.last
    save_weights(model, path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize(
    ("make", "named"),
    [
        (garbage, r"weights file .*(is damaged|cannot be read as plain tensors)"),
        (cut_off, r"weights file .*(is damaged|cannot be read as plain tensors)"),
        (of_another_network, r"does not fit the network|cannot be read as plain tensors"),
        (without_a_layer, r"does not fit the network: it lacks last|cannot be read"),
    ],
)
def test_bad_weights_are_refused_before_anything_is_written(
    make: Callable[[Path], None], named: str, suffix: str, tiny_folder: Path, tmp_path: Path
) -> None:
    weights = tmp_path / f"given{suffix}"
    make(weights)
    out = tmp_path / "run"
    sentence = refused(*asked("prune", tiny_folder, out, weights=weights))
    assert re.search(named, sentence), sentence
    assert not out.exists()


def test_a_torch_file_that_would_run_code_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    torch.save(tiny_pipeline_net(3), tmp_path / "model.pth")
    out = tmp_path / "run"
    sentence = refused(*asked("prune", tiny_folder, out, weights=tmp_path / "model.pth"))
    assert "cannot be read as plain tensors (Unsupported global: GLOBAL tiny_pip" in sentence
    assert not out.exists()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("{", r"cannot be read as JSON"),
        ("[]", r"must be a JSON object"),
        ('{"epochs": 3}', r"has no field 'epochs'"),
        ('{"serach": {}}', r"has no field 'serach'; did you mean search\?"),
        ('{"train": {"epochs": "three"}}', r"has 'three' for 'epochs': a float is needed"),
        ('{"base": "large"}', r"starts from 'large'"),
        ('{"min_width": 2}', r"'min_width' is 2 and must be"),
    ],
)
def test_a_bad_recipe_is_refused(
    content: str, named: str, tiny_folder: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.json"
    recipe.write_text(content)
    sentence = refused(*asked("prune", tiny_folder, tmp_path / "run", recipe=recipe))
    assert re.search(named, sentence), sentence
    assert not (tmp_path / "run").exists()


def test_out_that_is_a_file_is_refused_and_kept(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("text")
    assert "run is not a folder" in refused(*asked("prune", tiny_folder, tmp_path / "run"))
    assert (tmp_path / "run").read_text() == "text"


def test_out_that_holds_other_files_is_refused_and_kept(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("text")
    assert "holds files, and no run" in refused(*asked("prune", tiny_folder, tmp_path))
    assert set(snapshot(tmp_path)) == {"thesis.tex"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_out_that_cannot_be_written_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "Permission denied" in refused(*asked("prune", tiny_folder, tmp_path / "run"))
    tmp_path.chmod(0o700)
    assert not list(tmp_path.iterdir())


def test_out_on_a_file_system_that_takes_no_files_is_refused(tiny_folder: Path) -> None:
    assert "Cannot write /proc/" in refused(*asked("prune", tiny_folder, Path("/proc/dmcp-run")))


@pytest.fixture(scope="session")
def planned_run(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has a plan and nothing else; not to be changed."""
    out = tmp_path_factory.mktemp("runs") / "planned"
    return dmcp_deploy.search(**library(tiny_folder, out, method="uniform")).path


@pytest.fixture
def run(planned_run: Path, tmp_path: Path) -> Path:
    """A run that has a plan and nothing else."""
    return Path(shutil.copytree(planned_run, tmp_path / "run"))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("stage", ["slice", "train", "export"])
@pytest.mark.parametrize("there", [False, True])
def test_a_stage_on_no_run_is_refused(stage: str, there: bool, tmp_path: Path) -> None:
    folder = tmp_path if there else tmp_path / "absent"
    named = "holds no run (no run.json)" if there else f"There is no run directory {folder}"
    assert named in refused(stage, folder)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stage", ["slice", "train", "export"])
def test_a_stage_without_a_plan_is_refused(stage: str, run: Path) -> None:
    (run / "plan.json").unlink()
    before = snapshot(run)
    assert "has no plan.json yet: run search first" in refused(stage, run)
    assert snapshot(run) == before


def test_export_before_training_is_refused(run: Path) -> None:
    before = snapshot(run)
    assert "has no dense.safetensors yet: run train first" in refused("export", run)
    with pytest.raises(dmcp_deploy.DmcpError, match=r"has no dense\.safetensors yet"):
        dmcp_deploy.load(run)
    assert snapshot(run) == before


def test_bench_before_export_is_refused(run: Path) -> None:
    before = snapshot(run)
    assert "has no model.onnx yet: run export first" in refused("bench", run)
    assert snapshot(run) == before


def of_another_model(plan: dict[str, Any]) -> None:
    plan["model"]["name"] = "resnet18"


def of_other_classes(plan: dict[str, Any]) -> None:
    plan["model"]["num_classes"] = 1000


def without_a_group(plan: dict[str, Any]) -> None:
    del plan["groups"]["last.0"]


def with_a_foreign_group(plan: dict[str, Any]) -> None:
    plan["groups"]["layer1.0"] = {"size": 8, "keep": 4}


def too_wide(plan: dict[str, Any]) -> None:
    plan["groups"]["stem.0"]["keep"] = 25


def with_wrong_params(plan: dict[str, Any]) -> None:
    plan["params"] += 1


def without_its_macs(plan: dict[str, Any]) -> None:
    del plan["macs"]


def of_a_newer_release(plan: dict[str, Any]) -> None:
    plan["schema_version"] = 99


@pytest.mark.parametrize("stage", ["slice", "train"])
@pytest.mark.parametrize(
    ("change", "named"),
    [
        (of_another_model, r"is a plan of resnet18 x1 for 3 classes .* and the run is of tiny"),
        (of_other_classes, r"is a plan of .* for 1000 classes on 3x32x32 inputs, and the run"),
        (without_a_group, r"does not fit .*group 'last.0' has no channels in the plan"),
        (with_a_foreign_group, r"does not fit .*group 'layer1.0' has 8 channels in the plan and"),
        (too_wide, r"is not valid: group 'stem.0': A group of 24 channels cannot keep 25"),
        (with_wrong_params, r"The sliced network has \d+ parameters, and its plan \d+"),
        (without_its_macs, r"lacks or misstates 'macs'"),
        (of_a_newer_release, r"has schema version 99, and this release reads 1"),
    ],
)
def test_a_plan_that_is_not_the_runs_is_refused(
    change: Callable[[dict[str, Any]], None], named: str, stage: str, run: Path
) -> None:
    plan = json.loads((run / "plan.json").read_text())
    change(plan)
    (run / "plan.json").write_text(json.dumps(plan))
    before = snapshot(run)
    sentence = refused(stage, run)
    assert re.search(named, sentence), sentence
    assert snapshot(run) == before


def test_a_damaged_plan_is_refused_by_every_command_that_reads_it(
    run: Path, tiny_folder: Path
) -> None:
    truncate(run / "plan.json")
    before = snapshot(run)
    for words in (
        ["slice", run],
        ["train", run],
        ["export", run],
        asked("prune", tiny_folder, run, method="uniform"),
        ["flops", "--model", MODEL, "--plan", run / "plan.json"],
    ):
        assert "plan.json is not readable as the JSON of a plan" in refused(*words)
    assert snapshot(run) == before


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"schema_version": 2}, r"run.json has schema version 2, and this release reads 1"),
        ({"kind": "plan"}, r"run.json is not a run file: its kind is 'plan'"),
        ({"request": {}}, r"run.json lacks or misstates"),
        ({"stages": []}, r"run.json lacks or misstates its stages"),
    ],
)
def test_a_run_of_another_release_or_kind_is_refused(
    changes: dict[str, Any], named: str, run: Path, tiny_folder: Path
) -> None:
    edit(run / "run.json", **changes)
    before = snapshot(run)
    for words in (["train", run], asked("prune", tiny_folder, run, method="uniform")):
        sentence = refused(*words)
        assert re.search(named, sentence), sentence
    assert snapshot(run) == before


def test_a_truncated_record_of_the_run_is_refused(run: Path) -> None:
    truncate(run / "run.json")
    assert "run.json is not readable as the JSON of a run" in refused("train", run)


def test_a_truncated_checkpoint_is_refused(run: Path) -> None:
    succeed("train", run)
    (run / "dense.safetensors").unlink()
    truncate(run / "checkpoints" / "train.safetensors")
    before = snapshot(run)
    sentence = refused("train", run)
    assert re.search(r"checkpoint .* is damaged .*: delete it to start this stage again", sentence)
    assert snapshot(run) == before
    (run / "checkpoints" / "train.safetensors").unlink()
    succeed("train", run)


def test_a_checkpoint_of_another_run_is_refused(
    run: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    other = library(tiny_folder, tmp_path / "other", method="uniform", seed=1)
    dmcp_deploy.train(dmcp_deploy.search(**other).path)
    shutil.copytree(tmp_path / "other" / "checkpoints", run / "checkpoints")
    assert "belongs to a run with other settings" in refused("train", run)
    assert not (run / "dense.safetensors").exists()


@pytest.mark.parametrize("largest_bytes", [50_000, 20_000, 100])
def test_a_full_disk_is_told_and_leaves_whole_files(largest_bytes: int, run: Path) -> None:
    before = set(snapshot(run))
    with file_size_limit(largest_bytes):
        sentence = refused("train", run)
    assert re.search(r"Cannot write .*(safetensors|jsonl|json): .*File too large", sentence)
    assert set(snapshot(run)) - before <= {"metrics/train.jsonl"}
    succeed("train", run)


@contextmanager
def file_size_limit(largest_bytes: int) -> Iterator[None]:
    """Makes every file that grows beyond a size fail as a full disk does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_truncated_weights_of_the_pruned_network_are_refused(run: Path) -> None:
    succeed("train", run)
    truncate(run / "dense.safetensors")
    assert "dense.safetensors is damaged" in refused("export", run)
    assert not (run / "model.onnx").exists()


@pytest.mark.parametrize("stage", ["slice", "export"])
def test_a_truncated_supernet_is_refused(stage: str, finished_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    truncate(run / "supernet.safetensors")
    (run / "model.onnx").unlink()
    before = snapshot(run)
    assert "supernet.safetensors is damaged" in refused(stage, run)
    assert snapshot(run) == before


def test_a_missing_supernet_is_refused(finished_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    (run / "supernet.safetensors").unlink()
    assert re.search(r"supernet.safetensors is missing: run search again", refused("slice", run))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--batch", "x"], r"--batch 'x' is not understood: give dynamic or a number"),
        (["--batch", "0"], r"--batch '0' is not understood: give dynamic or a number"),
        (["--batch", "1,2"], r"--batch '1,2' is not understood: give dynamic or a number"),
        (["--opset", "9"], r"opset is 9, and the exporter writes 18 or newer"),
    ],
)
def test_a_bad_export_is_refused_and_keeps_the_files(
    arguments: list[str], named: str, finished_run: Path
) -> None:
    before = snapshot(finished_run)
    sentence = refused("export", finished_run, *arguments)
    assert re.search(named, sentence), sentence
    assert snapshot(finished_run) == before


def test_bench_of_no_onnx_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no network")
    assert "There is no ONNX file" in refused("bench", tmp_path / "absent.onnx")
    assert "cannot be loaded as ONNX" in refused("bench", tmp_path / "text.onnx")
    assert refused("bench").startswith("Missing argument")


def test_bench_of_files_outside_a_run_is_refused_before_it_measures(
    finished_run: Path, tmp_path: Path
) -> None:
    for name in ("model.onnx", "original.onnx"):
        shutil.copy(finished_run / name, tmp_path / name)
    assert "holds no run (no run.json)" in refused("bench", tmp_path)
    assert set(snapshot(tmp_path)) == {"model.onnx", "original.onnx"}
