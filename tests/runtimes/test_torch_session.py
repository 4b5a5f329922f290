"""A network in torch: the same face as the other runtimes, threads given back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from closeness import assert_same, count_roundings
from torch import nn

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.runtimes.sampler import Clock, make_sampler
from dmcp_deploy.runtimes.torch_session import TorchSession

IMAGE = (3, 16, 16)


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.LazyLinear(5))
    layers(torch.zeros(2, *IMAGE))
    return layers.train()


def session(net: nn.Module, threads: int = 0) -> TorchSession:
    return TorchSession(net, Path("dense.safetensors"), IMAGE, threads, device="cpu")


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def test_logits_are_the_networks_own_in_evaluation_mode(net: nn.Module) -> None:
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with session(net) as opened:
        logits = opened.run(images(3, *IMAGE))
        assert (opened.runtime, opened.input_shape) == ("torch cpu", (None, *IMAGE))
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    with torch.no_grad():
        truth = net.eval()(torch.from_numpy(images(3, *IMAGE))).numpy()
    assert logits.dtype == np.float32
    assert_same(logits, truth, roundings=count_roundings(net))


def test_weights_and_images_are_channels_last(net: nn.Module) -> None:
    with session(net) as opened:
        assert opened._network is not None
        convolution = next(opened._network.children())
        assert convolution.weight.is_contiguous(memory_format=torch.channels_last)
        assert opened._moved(images(2, *IMAGE)).is_contiguous(memory_format=torch.channels_last)


def test_threads_are_set_and_given_back_also_by_two_sessions_at_once(net: nn.Module) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with session(net, 1), session(net, 1):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        with pytest.raises(KeyError), session(net, 1):
            raise KeyError("within")
        assert torch.get_num_threads() == 2
        with session(net):
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_run_on_the_cpu_is_timed_by_the_hosts_clock(net: nn.Module) -> None:
    with session(net) as opened:
        sampler = make_sampler(opened, images(2, *IMAGE), Clock())
        assert sampler.timing == "wall"
        assert 0 < sampler.sample_ms() < 1000
    with pytest.raises(AssertionError, match="closed"):
        sampler.sample_ms()


@pytest.mark.parametrize(
    "x", [images(1, 4, 16, 16), images(3, 16, 16), np.zeros((1, *IMAGE)), images(1, 3, 8, 8)]
)
def test_images_that_do_not_fit_are_one_sentence(net: nn.Module, x: np.ndarray) -> None:
    with session(net) as opened, pytest.raises(DmcpError, match="does not run on") as caught:
        opened.run(x)
    assert "\n" not in str(caught.value)


def test_a_network_that_fails_is_one_sentence_also_as_it_is_timed() -> None:
    broken = nn.Sequential(nn.Flatten(), nn.Linear(7, 5))
    with session(broken) as opened, pytest.raises(DmcpError, match="does not run on") as caught:
        make_sampler(opened, images(1, *IMAGE), Clock())
    assert "\n" not in str(caught.value)


def test_what_is_not_there_is_refused(net: nn.Module) -> None:
    with pytest.raises(DmcpError, match="threads is -1"):
        session(net, -1)
    with pytest.raises(DmcpError, match="--precision 'fp61' is unknown"):
        TorchSession(net, Path("x"), IMAGE, precision="fp61")
    if not torch.cuda.is_available():
        with pytest.raises(DmcpError, match="torch finds no CUDA device here"):
            TorchSession(net, Path("x"), IMAGE, device="cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_run_on_cuda_is_timed_by_events_as_a_graph_and_with_transfers(
    net: nn.Module, precision: str
) -> None:
    x = images(2, *IMAGE)
    with torch.no_grad():
        truth = net.eval()(torch.from_numpy(x)).numpy()
    opened = TorchSession(net, Path("x"), IMAGE, device="cuda", precision=precision)
    with opened:
        # TF32, in which FP32 is multiplied there, has the digits of FP16: images, weights, maps
        # and logits are rounded to them.
        assert_same(opened.run(x), truth, precision="fp16", roundings=6)
        for clock, timing in (
            (Clock(), "events"),
            (Clock(graph=True), "events+graph"),
            (Clock(transfers=True), "wall with transfers"),
        ):
            sampler = make_sampler(opened, x, clock)
            assert sampler.timing == timing
            assert all(0 < sampler.sample_ms() < 1000 for _ in range(5))
