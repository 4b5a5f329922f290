"""The whole chain on a CUDA device."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_runs import asked, succeed

from dmcp_deploy.plan import ChannelPlan
from dmcp_deploy.rundir import RunDir


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
    assert run.figures("slice")["parity"]["max_rel"] <= 1e-5
    assert run.figures("export")["model"]["parity"]["max_rel"] <= 1e-4
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
