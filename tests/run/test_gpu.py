"""The whole chain on a CUDA device."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from closeness import assert_same
from tiny_runs import asked, succeed

from dmcp_deploy.export.proven import ONNX_TOLERANCE
from dmcp_deploy.export.slice import TOLERANCE
from dmcp_deploy.plan import ChannelPlan
from dmcp_deploy.rundir.directory import RunDir


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_on_cuda_meets_its_budget_with_equal_outputs(
    tiny_folder: Path, tmp_path: Path, precision: str
) -> None:
    out = tmp_path / "run"
    words = asked("prune", tiny_folder, out, device="cuda", precision=precision, seconds=0.2)
    succeed(*words)
    run, plan = RunDir(out), ChannelPlan.load(out / "plan.json")
    assert plan.budget_macs is not None
    assert 0.98 <= plan.macs / plan.budget_macs <= 1.0
    assert run.figures("slice")["parity"]["max_rel"] <= TOLERANCE
    assert run.figures("export")["model"]["parity"]["max_rel"] <= ONNX_TOLERANCE
    assert run.request().precision == precision


@pytest.mark.gpu
def test_a_supernet_runs_narrow_on_cuda() -> None:
    from dmcp_deploy.network.models import build_network
    from dmcp_deploy.network.supernet import Supernet
    from dmcp_deploy.plan import NetworkSpec

    network = build_network(NetworkSpec("resnet18", input_shape=(3, 64, 64)))
    supernet = Supernet(network).cuda().eval()
    widths = {group.name: group.size // 2 for group in network.prunable}
    images = torch.randn(2, 3, 64, 64, device="cuda")
    with torch.no_grad():
        logits = supernet(images, widths)
    assert logits.is_cuda
    assert logits.shape == (2, 1000)


@pytest.mark.gpu
@pytest.mark.parametrize("binding", ["cuda-python", "pycuda"])
def test_the_device_layer_copies_times_and_frees(binding: str) -> None:
    from dmcp_deploy.machine.cuda.device import open_device
    from dmcp_deploy.machine.cuda.report import probe_devices

    installed = {found.name for found in probe_devices().bindings if found.version}
    if binding not in installed:
        pytest.skip(f"{binding} is not installed")
    sent = np.arange(1 << 20, dtype=np.float32)
    for _ in range(3):
        with open_device(binding) as device:
            host, back = device.pinned(sent.shape), device.pinned(sent.shape)
            host[...] = sent
            buffer, start, end = device.alloc(host.nbytes), device.event(), device.event()
            device.record(start)
            device.copy_in(buffer, host)
            device.copy_out(back, buffer)
            device.record(end)
            assert device.elapsed_ms(start, end) > 0
            assert (back == sent).all()
            if device.supports_graphs:
                back[...] = 0
                graph = device.capture(lambda b=back, m=buffer, d=device: d.copy_out(b, m))
                assert (back == 0).all()
                graph.launch()
                device.synchronize()
                assert (back == sent).all()


@pytest.mark.gpu
@pytest.mark.parametrize("runtime", ["tensorrt", "tensorrt-rtx"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_engine_computes_what_its_onnx_file_does(
    tmp_path: Path, runtime: str, precision: str
) -> None:
    from tiny_onnx import write_tiny_net

    from dmcp_deploy.export.engine import EngineOptions, Origin, build_engine
    from dmcp_deploy.export.precisions import convert, precision_path
    from dmcp_deploy.runtimes.tensorrt import EngineSession
    from dmcp_deploy.runtimes.trt_flavours import find_flavour

    flavour = find_flavour(runtime)
    pytest.importorskip(flavour.module)
    major, minor = torch.cuda.get_device_capability()
    if flavour.targets and f"sm{major}{minor}" not in flavour.targets:
        pytest.skip(f"{runtime} does not support sm{major}{minor}")
    net = write_tiny_net(tmp_path / "net.onnx", width=64)
    source = precision_path(net.path, tmp_path, precision)
    convert(net.path, source, precision, None)
    options = EngineOptions(runtime, batches=(1, 4, 8))
    engine, _ = build_engine(source, tmp_path, options, Origin(net.macs, net.params))
    with EngineSession(engine) as session:
        for batch in (1, 8, 3):
            images = np.random.default_rng(batch).standard_normal((batch, 3, 16, 16))
            images = images.astype(np.float32)
            truth = net.logits(images)
            # In FP16 images, weights, maps, features and logits are rounded; sums are FP32.
            roundings = net.roundings if precision == "fp32" else 6
            assert_same(session.run(images), truth, precision=precision, roundings=roundings)
