"""Bad input: one sentence, exit code 1 or 2, nothing half-written."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from picture_folders import make_folder, truncate
from tiny_pipeline_net import tiny_pipeline_net
from tiny_runs import asked, refused, snapshot

from dmcp_deploy.training.weights import save_weights


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"model": "mobilnet_v2"}, r"no model 'mobilnet_v2': .*; did you mean mobilenet_v2"),
        ({"model": "no.such.module:net"}, r"'no.such.module:net' cannot be imported"),
        ({"model": "tiny_pipeline_net:tiny_net"}, r"no function 'tiny_net'; did you mean tiny_pi"),
        ({"model": "timm:mobilenetv5_100"}, r"no timm model 'mobilenetv5_100'; did you mean"),
        ({"method": "dmpc"}, r"--method 'dmpc' is unknown: choose one of .*dmcp, .* mean dmcp"),
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
        ({"flops": "4M"}, r"4.0M .*is above the full network: choose one from .*K to 3.0M"),
        ({"flops": "1%"}, r"30.2K .*is below the narrowest network: choose one from .*K to 3.0M"),
        ({"max-steps": 0}, r"--max-steps 0 is too small: it must be at least 1"),
        ({"max-steps": "x"}, r"--max-steps 'x' is not understood: give a whole number"),
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
        ({"train-size": 8}, r"--train-size 8 must lie in 16"),
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
        ('{"serach": {}}', r"has no field 'serach'; did you mean search, search_dropout\?"),
        ('{"train": {"epochs": "three"}}', r"'epochs': 'three' \(a float is needed\) in train"),
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
