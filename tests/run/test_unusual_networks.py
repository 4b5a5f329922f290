"""Whole runs of networks out of the common: what is traced is trained, sliced, exported, timed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from picture_folders import make_folder
from tiny_runs import call

from dmcp_deploy.bench.record import BenchRecord
from dmcp_deploy.plan import ChannelPlan

pytestmark = [
    pytest.mark.slow(seconds=12),
    pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning"),
]

ASKED = (
    *("--flops", "75%", "--align", 1, "--input-size", 16, "--batch-size", 8),
    *("--max-steps", 2, "--seconds", 0.2),
)
#: Network -> words that its listing of groups ends with.
NETWORKS = {
    "spread_nets:Transposed": "",
    "spread_nets:TransposedDepthwise": "",
    "spread_nets:TransposedGrouped": "",
    "spread_nets:Lines": "",
    "spread_nets:Volumes": "",
    "spread_nets:Assorted": "",
    "tiny_nets:ChannelsLast": "",
    "tiny_nets:Shuffle": "",
    "constant_nets:Hierarchy": "numbers of channels are written down in split",
    "constant_nets:SelectiveKernel": "numbers of channels are written down in view",
    "constant_nets:HalvesOfGroups": "",
    "constant_nets:SpatialGate": "",
    "constant_nets:StoredFactor": "",
    "attention_nets:HeadsInTheBatch": "numbers of channels are written down in split",
    "dynamic_nets:WithLoss": "",
    "dynamic_nets:HookNormed": "",
    "dynamic_nets:FirstAlone": "its output does not depend on inner.scale, inner.mask.0",
    "dynamic_nets:WithAuxiliary": "in training alone it calls auxiliary",
}


@pytest.fixture(scope="module")
def five_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("five"), classes=("a", "b", "c", "d", "e"))


@pytest.mark.parametrize(
    ("model", "method"),
    [
        *((model, "l1") for model in NETWORKS),
        *((f"spread_nets:{name}", "dmcp") for name in ("Transposed", "Volumes")),
        *((f"constant_nets:{name}", "dmcp") for name in ("SelectiveKernel", "HalvesOfGroups")),
        *((f"dynamic_nets:{name}", "dmcp") for name in ("FirstAlone", "WithAuxiliary")),
    ],
)
def test_a_whole_run(model: str, method: str, five_classes: Path, tmp_path: Path) -> None:
    asked = ("--model", model, "--data", five_classes, "--out", tmp_path, *ASKED)
    told = call("prune", *asked, "--method", method)
    assert told.exit_code == 0, told.stderr
    assert NETWORKS[model] in told.stderr
    plan = ChannelPlan.load(tmp_path / "plan.json")
    assert plan.macs <= 0.75 * plan.full_macs
    measured = BenchRecord.load(tmp_path / "bench.json").measured
    assert {item.name: item.macs for item in measured} == {
        "original": plan.full_macs,
        "pruned": plan.macs,
    }
    stages = json.loads((tmp_path / "run.json").read_text())["stages"]
    assert stages["slice"]["figures"]["parity"]["max_rel"] < 1e-5


@pytest.mark.parametrize("model", [name for name, words in NETWORKS.items() if words])
def test_groups_tells_what_goes_with_the_class(model: str) -> None:
    listed = call("groups", "--model", model, "--classes", 5, "--input-size", 16)
    assert "pruned, it is its traced graph and not its class: " in listed.stdout
    assert NETWORKS[model] in listed.stdout
