"""Published weights: fetched from the model's own library, or refused in one sentence."""

from __future__ import annotations

import os
import socket
import time
import urllib.request
from pathlib import Path

import pytest
import torch

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.training import imagenet as module
from dmcp_deploy.training.imagenet import imagenet_tensors, timm_tensors


class Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.target),)


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


@pytest.mark.parametrize("name", ["my.net:build", "resnet1000"])
def test_only_models_of_libraries_have_imagenet_weights(name):
    with pytest.raises(DmcpError, match="torchvision"):
        imagenet_tensors(name)


def test_timms_weights_are_loaded_as_timm_does(tmp_path):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model("densenet121")
    state = {n: t for n, t in model.state_dict().items() if "num_batches" not in n}
    old = {name.replace("norm1.", "norm.1."): t for name, t in state.items()}
    assert old.keys() != state.keys()
    torch.save(old, tmp_path / "old.pth")
    tensors = timm_tensors("densenet121", {"file": str(tmp_path / "old.pth")})
    assert tensors.keys() == model.state_dict().keys()
    assert all(torch.equal(tensors[name], t) for name, t in state.items())


def test_a_timm_model_without_weights_is_told():
    pytest.importorskip("timm")
    with pytest.raises(DmcpError, match="timm has no weights of resnet26t_nope"):
        timm_tensors("resnet26t_nope")


def test_a_cached_download_is_read_without_running_it(proxy, tmp_path):
    proxy(9)
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.save(Malicious(tmp_path / "ran"), cache / "squeezenet1_1-b8a52dc0.pth")
    download_refusal()
    assert not (tmp_path / "ran").exists()
    torch.save({"weight": torch.ones(2)}, cache / "squeezenet1_1-b8a52dc0.pth")
    assert torch.equal(imagenet_tensors("squeezenet1_1")["weight"], torch.ones(2))
