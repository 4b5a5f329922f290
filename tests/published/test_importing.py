"""Published plans become plans of networks known by name, with the published multiply-adds."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from published_plans import (
    AUTOSLIM_MOBILENET,
    DMCP_MOBILENET,
    DMCP_RESNET50,
    MOBILENET_SIZES,
    mobilenet_dict,
    mobilenet_subnet,
    mobilenet_units,
    mutator,
    resnet18_dict,
    resnet50_dict,
    resnet50_units,
    save_npy,
    units,
)
from tiny_runs import call, refused, snapshot, succeed

from dmcp_deploy.plan import ChannelPlan, NetworkSpec
from dmcp_deploy.rundir.directory import RunDir
from dmcp_deploy.rundir.request import RunRequest

#: Sizes of the MobileNetV2 of width 1.5, by the same rule of rounding in all libraries.
WIDE_SIZES = (
    *(48, 24, 144, 40, 240, 240, 48, 288, 288, 288, 96, 576, 576, 576, 576, 144, 864, 864, 864),
    *(240, 1440, 1440, 1440, 480, 1920),
)
#: The stem, then each stage's own width and both inner widths.
RESNET18 = resnet18_dict([(48, 30, 41), (97, 64, 128), (201, 99, 7), (512, 300, 299)], stem=48)

needs_timm = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="no package timm")


def text_file(folder: Path, text: str) -> Path:
    path = folder / "published.txt"
    path.write_text(text)
    return path


def imported(path: Path, *options: object) -> ChannelPlan:
    out = path.with_name("plan.json")
    assert succeed("plan", "import", path, "--out", out, *options).splitlines()[-1] == str(out)
    return ChannelPlan.load(out)


def dmcp_mobilenet_npy(folder: Path) -> Path:
    return save_npy(folder / "sample.npy", mobilenet_dict(DMCP_MOBILENET))


def dmcp_mobilenet_json(folder: Path) -> Path:
    return text_file(folder, mutator(mobilenet_units(DMCP_MOBILENET, MOBILENET_SIZES)))


@pytest.mark.parametrize(
    "publish", [dmcp_mobilenet_json, pytest.param(dmcp_mobilenet_npy, marks=pytest.mark.slow)]
)
def test_the_dmcp_mobilenet_plan_has_its_published_multiply_adds(
    publish: Callable[[Path], Path], tmp_path: Path
) -> None:
    plan = imported(publish(tmp_path), "--model", "mobilenet_v2", "--width-mult", 1.5)
    assert list(plan.widths().values()) == list(DMCP_MOBILENET)
    assert tuple(keep.size for keep in plan.groups.values()) == WIDE_SIZES
    assert (plan.macs, plan.full_macs) == (85_424_809, 672_832_704)
    assert (plan.budget_macs, plan.align, plan.seed) == (None, 1, 0)
    assert plan.method in ("imported:npy", "imported:mmrazor")


@pytest.mark.slow
@pytest.mark.parametrize("form", ["npy", "mmrazor"])
@pytest.mark.parametrize("model", ["resnet50", pytest.param("timm:resnet50", marks=needs_timm)])
def test_the_dmcp_resnet50_plan_has_its_published_multiply_adds(
    form: str, model: str, tmp_path: Path
) -> None:
    if form == "npy":
        path = save_npy(tmp_path / "sample.npy", resnet50_dict(DMCP_RESNET50))
    else:
        path = text_file(tmp_path, mutator(resnet50_units(DMCP_RESNET50)))
    plan = imported(path, "--model", model)
    assert list(plan.widths().values()) == list(DMCP_RESNET50)
    assert (plan.macs, plan.full_macs) == (2_194_130_032, 4_089_184_256)


@pytest.mark.slow
@pytest.mark.parametrize("old", [False, True])
def test_autoslims_smallest_mobilenet_has_its_published_cost(old: bool, tmp_path: Path) -> None:
    text = mobilenet_subnet(AUTOSLIM_MOBILENET, WIDE_SIZES, old)
    plan = imported(text_file(tmp_path, text), "--model", "mobilenet_v2", "--width-mult", 1.5)
    assert list(plan.widths().values()) == list(AUTOSLIM_MOBILENET)
    # 207M multiply-adds by its authors, 4.13M parameters by MMRazor.
    assert (plan.macs, plan.params) == (206_767_048, 4_125_104)
    assert plan.align == 8


def test_the_authors_resnet18_is_tied_as_the_network_is(tmp_path: Path) -> None:
    plan = imported(save_npy(tmp_path / "sample.npy", RESNET18), "--model", "resnet18")
    assert plan.widths() == {
        **{"conv1": 48, "layer1.0.conv1": 30, "layer1.1.conv1": 41},
        **{"layer2.0.conv1": 64, "layer2.0.conv2": 97, "layer2.1.conv1": 128},
        **{"layer3.0.conv1": 99, "layer3.0.conv2": 201, "layer3.1.conv1": 7},
        **{"layer4.0.conv1": 300, "layer4.0.conv2": 512, "layer4.1.conv1": 299},
    }


def test_shares_of_some_layers_leave_the_others_whole(tmp_path: Path) -> None:
    rows = [("layer1.0.conv1", 0.640625, 64), ("layer4.1.conv1", 0.5, 512)]
    choices = {name: unit["choice"] for name, unit in units(rows).items()}
    plan = imported(text_file(tmp_path, json.dumps(choices)), "--model", "resnet18")
    narrowed = {n: (k.width, k.size) for n, k in plan.groups.items() if k.width < k.size}
    assert narrowed == {"layer1.0.conv1": (41, 64), "layer4.1.conv1": (256, 512)}


@pytest.mark.slow
@needs_timm
def test_timms_own_file_gives_timms_own_pruned_network(tmp_path: Path) -> None:
    import timm
    import timm.models

    from dmcp_deploy.network.models import build_network
    from dmcp_deploy.network.slicing import slice_network

    shapes = Path(timm.models.__file__).parent / "_pruned" / "efficientnet_b1_pruned.txt"
    out = tmp_path / "plan.json"
    succeed("plan", "import", shapes, "--model", "timm:efficientnet_b1", "--out", out)
    plan = ChannelPlan.load(out)
    dense = slice_network(build_network(plan.network), plan.groups)
    theirs = timm.create_model("efficientnet_b1_pruned", pretrained=False)
    ours = {name: tensor.shape for name, tensor in dense.state_dict().items()}
    assert ours == {name: tensor.shape for name, tensor in theirs.state_dict().items()}
    assert plan.params == sum(p.numel() for p in theirs.parameters())


@pytest.mark.slow
@needs_timm
def test_a_mobilenet_by_another_librarys_names_is_found_by_its_order(tmp_path: Path) -> None:
    narrow = [max(1, width // 2) for width in MOBILENET_SIZES]
    path = save_npy(tmp_path / "sample.npy", mobilenet_dict(narrow))
    plans = [imported(path, "--model", name) for name in ("mobilenet_v2", "timm:mobilenetv2_100")]
    assert plans[0].macs == plans[1].macs
    assert [list(plan.widths().values()) for plan in plans] == [narrow, narrow]


def slow(*values: object) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


def without(content: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key not in keys}


def with_conv(content: dict[str, Any], place: str, pair: tuple[int, int]) -> dict[str, Any]:
    stage, block, name = place.split(".")
    blocks = {**content[stage], block: {**content[stage][block], name: pair}}
    return {**content, stage: blocks}


@pytest.mark.parametrize(
    ("content", "model", "named"),
    [
        (
            with_conv(RESNET18, "layer1.1.conv2", (41, 47)),
            "resnet18",
            "layer1.1.conv2 keeps 47 channels, and conv1, whose channels are the same ones, keeps"
            " 48.",
        ),
        (mobilenet_dict(DMCP_MOBILENET), "mobilenet_v2", "13.conv1 keeps 693 channels, and"),
        slow(mobilenet_dict(DMCP_MOBILENET), "resnet18", "52 convolutions, and resnet18 has 20"),
        slow(RESNET18, "mobilenet_v2", "'conv1' is no layer of mobilenet_v2"),
        slow(RESNET18, "resnet34", "it says nothing of layer1.2.conv1, "),
        slow(resnet50_dict(DMCP_RESNET50), "resnet18", "'layer1.0.conv3' is no layer of resnet18"),
        slow(without(RESNET18, "layer4"), "resnet18", "it says nothing of layer4.0.conv1"),
        slow(without(mobilenet_dict(DMCP_MOBILENET), "16"), "mobilenet_v2", "49 convolutions"),
        slow(
            with_conv(RESNET18, "layer2.1.conv1", (96, 128)),
            "resnet18",
            "layer2.1.conv1 reads 96 channels, and by what the other layers keep it reads 97.",
        ),
        slow(
            with_conv(RESNET18, "layer3.1.conv1", (201, 257)),
            "resnet18",
            "layer3.1.conv1 keeps 257 channels, and layer3.1.conv1 has 256 (",
        ),
        slow({**RESNET18, "fc": 511}, "resnet18", "fc reads 511 channels, and by what"),
    ],
)
def test_a_plan_that_does_not_fit_its_network_is_refused(
    content: dict[str, Any], model: str, named: str, tmp_path: Path
) -> None:
    path = save_npy(tmp_path / "sample.npy", content)
    out = tmp_path / "plan.json"
    sentence = refused("plan", "import", path, "--model", model, "--out", out)
    assert sentence.startswith(f"The plan in {path} does not fit {model} x1: ")
    assert named in sentence
    assert not out.exists()


@pytest.mark.slow
def test_sizes_of_another_network_are_refused(tmp_path: Path) -> None:
    options = ("--model", "mobilenet_v2", "--out", tmp_path / "plan.json")
    wide = text_file(tmp_path, mutator(mobilenet_units(AUTOSLIM_MOBILENET, WIDE_SIZES)))
    sentence = refused("plan", "import", wide, *options)
    assert "conv1.conv of the full network it describes has 48 channels, and" in sentence
    odd = (33, *MOBILENET_SIZES[1:])
    path = text_file(tmp_path, mutator(mobilenet_units(DMCP_MOBILENET, odd)))
    sentence = refused("plan", "import", path, *options, "--width-mult", 1.5)
    assert "has 33 channels, and features.0.0 has 48" in sentence


class Command:
    def __init__(self, command: str) -> None:
        self._command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self._command,)


def test_a_file_that_would_run_a_command_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    path = save_npy(tmp_path / "sample.npy", {**RESNET18, "conv1": Command(f"touch {trace}")})
    before = snapshot(tmp_path)
    sentence = refused("plan", "import", path, "--model", "resnet18", "--out", tmp_path / "p.json")
    assert "asks for 'posix.system'" in sentence
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--model", "mobilenet"], "no model 'mobilenet': .* did you mean mobilenet_v2"),
        ([], "Missing option '--model'"),
        (["--model", "resnet18", "--format", "nyp"], "--format 'nyp' is unknown: .* mean npy?"),
        (["--model", "resnet18", "--format", "timm"], "is not a plan in the format timm: it is no"),
        (["--model", "resnet18", "--width-mult", "0"], "width multiplier 0 must be above zero"),
        (["--model", "resnet18", "--classes", "-1"], "--classes -1 is too small"),
        (["--model", "resnet18", "--input-size", "0"], "--input-size 0 is too small"),
    ],
)
def test_mistakes_of_typing_are_told(options: list[str], named: str, tmp_path: Path) -> None:
    path = save_npy(tmp_path / "sample.npy", RESNET18)
    sentence = refused("plan", "import", path, "--out", tmp_path / "plan.json", *options)
    assert re.search(named.replace("?", r"\?"), sentence), sentence
    assert not (tmp_path / "plan.json").exists()


def test_a_plan_does_not_take_the_place_of_its_source(tmp_path: Path) -> None:
    path = save_npy(tmp_path / "sample.npy", RESNET18)
    sentence = refused("plan", "import", path, "--model", "resnet18", "--out", path)
    assert sentence == f"The plan cannot take the place of {path}: give another --out."


def test_a_plan_of_another_network_does_not_take_the_place_of_a_runs(tmp_path: Path) -> None:
    network = NetworkSpec("resnet18", num_classes=3)
    request = RunRequest(
        **{"network": network, "budget": "50%", "method": "uniform", "sampling": "expected"},
        **{"align": 8, "data": "d", "data_digest": "d", "weights": None, "weights_digest": None},
        **{"recipe": {}, "seed": 0, "init": "scratch", "distill": False, "precision": "fp32"},
        max_steps=None,
    )
    RunDir(tmp_path / "run").begin(request)
    path = save_npy(tmp_path / "sample.npy", RESNET18)
    words = ("plan", "import", path, "--model", "resnet18", "--out", tmp_path / "run" / "plan.json")
    assert refused(*words) == (
        f"The run in {tmp_path}/run is of resnet18 x1, 3 classes, input 3x224x224, and the plan"
        " would be of resnet18 x1, 1000 classes, input 3x224x224."
    )
    succeed(*words, "--classes", 3)
    assert ChannelPlan.load(tmp_path / "run" / "plan.json").network == network


def test_commands_under_plan_are_named_when_one_is_misspelt() -> None:
    sentence = refused("plan", "improt", "x.npy")
    assert sentence.startswith(
        "There is no command 'improt': choose one of align, diff, import, show"
    )
    assert "did you mean import" in sentence
    assert "import" in call("plan", "--help").stdout


@pytest.mark.parametrize(
    ("layers", "complaint"),
    [
        (
            {"layer1.0.relu": 8},
            "'layer1.0.relu' has no channels of its own: name the layer in front",
        ),
        ({"layer1.0.conv1": 8, "fc": 9}, "fc keeps 9 channels, and these are the 1000 classes"),
        ({"layer1.0.conv1": 8.5}, "not a plan in the format json: layer1.0.conv1 is 8.5"),
        ({"layer1.0.conv1": -8}, "not a plan in the format json: layer1.0.conv1 is -8"),
    ],
)
def test_layers_and_channels_that_say_nothing_are_refused(tmp_path, layers, complaint):
    path = text_file(tmp_path, json.dumps(layers))
    out = tmp_path / "out" / "plan.json"
    assert complaint in refused("plan", "import", path, "--model", "resnet18", "--out", out)
    assert not out.exists()
