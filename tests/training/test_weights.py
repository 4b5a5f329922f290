from __future__ import annotations

import os
import pickle
import socket
import time
import urllib.request
from pathlib import Path

import pytest
import torch
from torch import nn

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.training import weights as module
from dmcp_deploy.training.weights import (
    imagenet_tensors,
    load_pretrained,
    load_weights,
    read_tensors,
    save_weights,
)


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
        read_tensors(path)
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
    else:
        torch.save(model.state_dict(), path)
    load_weights(other, read_tensors(path), str(path))
    assert_same(model, other)


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_weights_of_other_trainers_are_unwrapped(key, tmp_path):
    model, other = network(), network()
    nn.init.normal_(model[0].weight)
    parallel = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    path = tmp_path / "checkpoint.pth"
    torch.save({key: parallel, "epoch": 7, "optimizer": {"lr": 0.1}}, path)
    load_weights(other, read_tensors(path), str(path))
    assert_same(model, other)


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


def test_a_classifier_for_other_classes_is_left_out():
    model, trained = network(classes=3), network(classes=1000)
    head = model[4].weight.clone()
    assert load_pretrained(model, trained.state_dict(), "w.pth") == ["4.weight", "4.bias"]
    assert torch.equal(model[4].weight, head)
    assert torch.equal(model[0].weight, trained[0].weight)


def test_weights_that_fit_are_loaded_whole():
    model, trained = network(), network()
    nn.init.normal_(trained[4].weight)
    assert load_pretrained(model, trained.state_dict(), "w.pth") == []
    assert_same(model, trained)


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
    for load in (load_weights, load_pretrained):
        model = network()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with pytest.raises(DmcpError) as caught:
            load(model, tensors, "w.pth")
        assert f"w.pth does not fit the network: {complaint}" in str(caught.value)
        assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)


def test_counters_of_batch_norms_may_be_missing():
    tensors = {k: v for k, v in network().state_dict().items() if "num_batches" not in k}
    load_weights(network(), tensors, "old.pth")


def test_a_classifier_of_other_classes_does_not_fit_entirely():
    with pytest.raises(DmcpError, match=r"4.weight is \[1000, 8\]"):
        load_weights(network(10), network(1000).state_dict(), "w.pth")


@pytest.fixture
def proxy(monkeypatch, tmp_path):
    """Sends every download to a port of this machine, with an empty cache."""

    def use(port: int) -> None:
        # urllib reads the environment once and keeps what it made of it.
        monkeypatch.setattr(urllib.request, "_opener", None)
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return use


def download_refusal() -> str:
    with pytest.raises(DmcpError) as caught:
        imagenet_tensors("squeezenet1_1")
    text = str(caught.value)
    assert "pass the file with --weights" in text
    assert "https://download.pytorch.org/models/squeezenet1_1" in text
    return text


def test_without_a_network_imagenet_weights_are_to_be_fetched_elsewhere(proxy, capsys):
    proxy(9)
    start = time.monotonic()
    download_refusal()
    assert time.monotonic() - start < 20
    assert capsys.readouterr().out == ""


def test_a_network_that_keeps_silent_is_not_waited_for(proxy, monkeypatch):
    monkeypatch.setattr(module, "_DOWNLOAD_TIMEOUT_S", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        proxy(silent.getsockname()[1])
        start = time.monotonic()
        assert "timed out" in download_refusal()
        assert time.monotonic() - start < 10
    assert socket.getdefaulttimeout() is None
    assert module._DOWNLOAD_TIMEOUT_S < 20


@pytest.mark.parametrize("name", ["timm:resnet18", "my.net:build", "resnet1000"])
def test_only_torchvisions_models_have_imagenet_weights(name):
    with pytest.raises(DmcpError, match="torchvision"):
        imagenet_tensors(name)


def test_a_cached_download_is_read_without_running_it(proxy, tmp_path):
    proxy(9)
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.save(Malicious(tmp_path / "ran"), cache / "squeezenet1_1-b8a52dc0.pth")
    download_refusal()
    assert not (tmp_path / "ran").exists()
    torch.save({"weight": torch.ones(2)}, cache / "squeezenet1_1-b8a52dc0.pth")
    assert torch.equal(imagenet_tensors("squeezenet1_1")["weight"], torch.ones(2))
