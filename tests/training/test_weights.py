from __future__ import annotations

import argparse
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from weight_nets import Aliased, Noted, Versioned

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.training.recipe import RECIPES
from dmcp_deploy.training.task import TrainedWeights
from dmcp_deploy.training.weight_files import split_source, stored_weights
from dmcp_deploy.training.weights import load_weights, read_tensors, save_weights


def network(classes: int = 10, width: int = 8) -> nn.Module:
    torch.manual_seed(classes)
    return nn.Sequential(
        nn.Conv2d(3, width, 3),
        nn.BatchNorm2d(width),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, classes),
    ).to(memory_format=torch.channels_last)


def refusal(path: Path) -> str:
    with pytest.raises(DmcpError) as caught:
        stored_weights(path)
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    return text


def assert_same(left: nn.Module, right: nn.Module) -> None:
    ours, theirs = left.state_dict(), right.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
def test_weights_survive_a_file(suffix, tmp_path):
    model, other = network(), network()
    nn.init.normal_(model[0].weight)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_weights(model, path, {"note": "mine"})
        load_weights(other, read_tensors(path), str(path))
        assert_same(model, other)
    else:
        torch.save(model.state_dict(), path)
    (stored,) = stored_weights(path)
    assert stored.place == ""
    load_weights(other, stored.tensors, str(path))
    assert_same(model, other)


def test_every_place_with_tensors_is_listed_and_optimisers_are_passed_over(tmp_path):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.zeros(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    content = {
        "epoch": 7,
        "optimizer": optimizer.state_dict(),
        "states": {"net": model.state_dict(), "n": torch.tensor(3)},
    }
    path = tmp_path / "checkpoint.pth"
    torch.save(content, path)
    stored = {each.place: each.tensors for each in stored_weights(path)}
    assert stored.keys() == {"states", "states.net"}
    assert stored["states"].keys() == {"n"}
    assert stored["states.net"].keys() == model.state_dict().keys()
    assert stored["states.net"]._metadata == model.state_dict()._metadata


def test_what_trainers_save_beside_weights_is_no_reason_to_refuse_them(tmp_path):
    state, path = network().state_dict(), tmp_path / "last.pth"
    content = {
        "args": argparse.Namespace(lr=0.1, out=tmp_path, classes=["a"]),
        "best": np.float64(0.9),
        "history": np.arange(6.0).reshape(2, 3),
        "counts": {"epoch": np.int64(3), "names": np.array(["x", "y"])},
        "models": [state, {name: 2 * tensor for name, tensor in state.items()}],
    }
    torch.save(content, path)
    stored = stored_weights(path)
    assert [each.place for each in stored] == ["models.0", "models.1"]
    assert torch.equal(stored[1].tensors["0.weight"], 2 * state["0.weight"])
    assert argparse.Namespace not in torch.serialization.get_safe_globals(), "allowed here alone"


def test_a_source_names_a_file_or_a_place_in_it(tmp_path):
    path = tmp_path / "w.pth"
    path.touch()
    assert split_source(str(path)) == (path, "")
    assert split_source(f"{path}:model.ema") == (path, "model.ema")
    with pytest.raises(DmcpError, match="no weights file"):
        split_source(f"{tmp_path / 'other.pth'}:model")


class Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("new_format", [True, False])
def test_pickled_code_is_refused_and_never_runs(new_format, tmp_path):
    target, path = tmp_path / "ran", tmp_path / "weights.pth"
    content = {"weight": torch.zeros(2), "extra": Malicious(target)}
    torch.save(content, path, _use_new_zipfile_serialization=new_format)
    assert "plain tensors" in refusal(path)
    path.write_bytes(pickle.dumps(Malicious(target), protocol=2))
    assert "plain tensors" in refusal(path)
    assert not target.exists()


def test_the_malicious_file_would_have_run(tmp_path):
    target, path = tmp_path / "ran", tmp_path / "weights.pth"
    torch.save(Malicious(target), path)
    torch.load(path, weights_only=False)
    assert target.exists()


def test_a_whole_pickled_model_is_refused(tmp_path):
    path = tmp_path / "model.pth"
    torch.save(network(), path)
    assert "state_dict()" in refusal(path)


@pytest.mark.parametrize(
    "content", [[torch.zeros(2)], {"a": 1}, torch.zeros(3), {"model": {"a": 2}}]
)
def test_what_is_no_state_dict_is_refused(content, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    assert "no state dict" in refusal(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.95])
def test_truncated_files_are_refused(suffix, share, tmp_path):
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_weights(network(), path)
    else:
        torch.save(network().state_dict(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refusal(path)


@pytest.mark.parametrize("content", [b"", b"{}", b"hello", b"\x80\x02.", b"PK\x03\x04", bytes(64)])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_other_files_are_refused(suffix, content, tmp_path):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    refusal(path)


def test_absent_files_and_folders_are_refused(tmp_path):
    assert "no weights file" in refusal(tmp_path / "none.safetensors")
    assert "no weights file" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"0.weight": torch.zeros(9, 3, 3, 3)}, "0.weight is [9, 3, 3, 3] where [8, 3, 3, 3]"),
        ({"0.weight": None}, "it lacks 0.weight"),
        ({"7.weight": torch.zeros(1)}, "the network has no 7.weight"),
        ({"4.scale": torch.zeros(1)}, "the network has no 4.scale"),
        ({"4.weight": torch.zeros(10, 9)}, "4.weight is [10, 9] where [10, 8]"),
    ],
)
def test_a_misfit_is_named(change, complaint):
    tensors = {**network().state_dict(), **change}
    tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(DmcpError) as caught:
        load_weights(model, tensors, "w.pth")
    assert f"w.pth does not fit the network: {complaint}" in str(caught.value)
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)


def test_counters_of_batch_norms_may_be_missing():
    tensors = {k: v for k, v in network().state_dict().items() if "num_batches" not in k}
    load_weights(network(), tensors, "old.pth")


def test_a_classifier_of_other_classes_does_not_fit_entirely():
    with pytest.raises(DmcpError, match=r"4.weight is \[1000, 8\]"):
        load_weights(network(10), network(1000).state_dict(), "w.pth")


def test_a_module_that_looks_at_its_version_reads_what_it_has_written(tmp_path):
    model = Versioned()
    save_weights(model, tmp_path / "w.safetensors")
    other = Versioned()
    load_weights(other, read_tensors(tmp_path / "w.safetensors"), "w")
    assert_same(model, other)
    weights = TrainedWeights(other, RECIPES["small"].train, 3)
    weights.load({name: tensor.clone() for name, tensor in weights.tensors().items()})
    assert_same(model, other)


def test_a_file_tells_the_version_that_it_was_written_by(tmp_path):
    model = Versioned()
    state = model.state_dict()
    state._metadata[""]["version"] = 1  # half of what it is today
    torch.save(state, tmp_path / "w.pth")
    (stored,) = stored_weights(tmp_path / "w.pth")
    other = Versioned()
    load_weights(other, stored.tensors, "w.pth")
    assert torch.equal(other.conv.weight, 2 * model.conv.weight)


@pytest.mark.parametrize("name", ["mnasnet0_5", "mnasnet1_0"])
def test_torchvisions_mnasnets_read_what_they_have_written(name, tmp_path):
    model, other = (torchvision.models.get_model(name, num_classes=3) for _ in range(2))
    save_weights(model, tmp_path / "w.safetensors")
    load_weights(other, read_tensors(tmp_path / "w.safetensors"), "w")
    assert_same(model, other)


def test_what_modules_keep_beside_tensors_is_left_to_them(tmp_path):
    model, other = Noted(3), Noted(3)
    save_weights(model, tmp_path / "w.safetensors")
    load_weights(other, read_tensors(tmp_path / "w.safetensors"), "w")
    assert torch.equal(model.first.weight, other.first.weight)
    weights = TrainedWeights(other, RECIPES["small"].train, 3)
    state = {name: tensor.clone() for name, tensor in weights.tensors().items()}
    nn.init.zeros_(other.first.weight)
    weights.load(state)
    assert torch.equal(model.first.weight, other.first.weight)


def test_a_shared_tensor_may_come_under_one_of_its_names():
    model, other = Aliased(5), Aliased(5)
    state = {k: t for k, t in model.state_dict().items() if not k.startswith("stem.")}
    assert len(state) < len(model.state_dict())
    load_weights(other, state, "w")
    assert_same(model, other)
