"""Every format of published plans is told by its content and read; what is wrong is named."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
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
    resnet50_dict,
    resnet50_units,
    save_npy,
)

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.published.formats import read_published
from dmcp_deploy.published.widths import LayerWidth

SHAPES = "stem.weight:[24, 3, 3, 3]***bn.weight:[24]***bn.num_batches_tracked:[]***fc.bias:[10]"
UNIT = "backbone.conv1_(0, 64)_64"


def written(folder: Path, content: str | bytes) -> Path:
    path = folder / "plan"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def outputs(path: Path, form: str | None = None) -> list[int | None]:
    return [layer.outputs for layer in read_published(path, form).layers]


def test_the_authors_mobilenet_is_read_block_by_block(tmp_path: Path) -> None:
    plan = read_published(save_npy(tmp_path / "sample.npy", mobilenet_dict(DMCP_MOBILENET)))
    assert plan.form == "npy"
    assert plan.complete
    assert len(plan.layers) == 52
    assert plan.layers[:6] == (
        LayerWidth("conv1", 9),
        LayerWidth("0.conv2", 9, 9),
        LayerWidth("0.conv3", 10, 9),
        LayerWidth("1.conv1", 36, 10),
        LayerWidth("1.conv2", 36, 36),
        LayerWidth("1.conv3", 16, 36),
    )
    assert plan.layers[-1] == LayerWidth("conv_last", 1280, 192)
    # Blocks are numbered by text: "10" comes after "9", and not after "1".
    assert plan.order is not None
    assert plan.order.index(("10.conv1",)) == plan.order.index(("9.conv3",)) + 1


def test_the_authors_resnet_is_read_under_the_names_of_torchvision(tmp_path: Path) -> None:
    plan = read_published(save_npy(tmp_path / "sample.npy", resnet50_dict(DMCP_RESNET50)))
    assert plan.order is None
    assert plan.layers[0] == LayerWidth("conv1", 52)
    assert plan.layers[3] == LayerWidth("layer1.0.conv3", 106, 22)
    assert plan.layers[-1] == LayerWidth("fc", None, 2048)
    assert len(plan.layers) == 1 + 3 * 16 + 1


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("number", [int, np.int64, np.int32, float])
def test_what_other_releases_of_numpy_wrote_is_read_alike(
    protocol: int, number: Any, tmp_path: Path
) -> None:
    def converted(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: converted(item) for key, item in value.items()}
        return tuple(map(number, value)) if isinstance(value, tuple) else number(value)

    content = np.array(converted(resnet50_dict(DMCP_RESNET50)), dtype=object)
    path = tmp_path / "old.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, np.lib.format.header_data_from_array_1_0(content)
        )
        pickle.dump(content, file, protocol=protocol)
    assert read_published(path) == read_published(
        save_npy(tmp_path / "new.npy", resnet50_dict(DMCP_RESNET50))
    )


def test_mmrazors_units_are_read_with_their_sizes(tmp_path: Path) -> None:
    path = written(tmp_path, mutator(mobilenet_units(DMCP_MOBILENET, MOBILENET_SIZES)))
    plan = read_published(path)
    assert (plan.form, plan.complete, plan.head) == ("mmrazor", True, "head.fc")
    assert plan.layers[:2] == (
        LayerWidth("conv1.conv", 9, size=32),
        LayerWidth("layer1.0.conv.1.conv", 10, size=16),
    )
    assert plan.order is not None
    assert len(plan.order) == 52
    assert plan.order[2] == ("layer1.0.conv.1.conv", "layer1.0.conv.1.bn")
    assert outputs(path) == list(DMCP_MOBILENET)


def test_mmrazors_units_alone_and_mapped_to_numbers_are_read(tmp_path: Path) -> None:
    alone = resnet50_units(DMCP_RESNET50)
    assert outputs(written(tmp_path, json.dumps(alone))) == list(DMCP_RESNET50)
    numbers = {name: unit["choice"] for name, unit in alone.items()}
    plan = read_published(written(tmp_path, json.dumps(numbers)))
    assert [layer.outputs for layer in plan.layers] == list(DMCP_RESNET50)
    assert not plan.complete


@pytest.mark.parametrize(
    ("choice", "settings", "width"),
    [
        (0.640625, {"divisor": 1}, 41),
        (1.0, {"divisor": 1}, 64),
        (0.001, {"divisor": 1}, 1),
        (0.999, {"divisor": 1}, 63),
        (0.58, {"divisor": 8}, 40),  # 37 of 64, rounded to the nearest multiple
        (0.5625, {"divisor": 8}, 40),  # 36: halves are rounded up
        (0.55, {"divisor": 8}, 32),
        (0.55, {"divisor": 8, "min_ratio": 0.95}, 40),  # 32 is less than 0.95 of 35
        (0.02, {"divisor": 8}, 8),
        (0.02, {"divisor": 8, "min_value": 16}, 16),
    ],
)
def test_shares_of_channels_are_rounded_as_mmrazor_rounds_them(
    choice: float, settings: dict[str, float], width: int, tmp_path: Path
) -> None:
    unit = {"init_args": {"num_channels": 64, **settings}, "choice": choice}
    assert outputs(written(tmp_path, json.dumps({UNIT: unit}))) == [width]


@pytest.mark.parametrize("old", [False, True])
def test_mmrazors_subnet_files_are_read_in_any_order(old: bool, tmp_path: Path) -> None:
    text = mobilenet_subnet(AUTOSLIM_MOBILENET, MOBILENET_SIZES, old)
    assert text.index("conv2.conv") < text.index("layer1.0.conv")
    plan = read_published(written(tmp_path, text))
    layers = {layer.name: layer for layer in plan.layers}
    assert plan.complete
    assert layers["conv2.conv"] == LayerWidth("conv2.conv", 1920, 280, 1280)
    assert layers["layer7.0.conv.0.bn"].outputs == 1440
    assert plan.order is not None
    assert len(plan.order) == 52
    assert plan.order[-1] == ("conv2.conv", "conv2.bn")


def test_timms_shapes_are_read_layer_by_layer(tmp_path: Path) -> None:
    plan = read_published(written(tmp_path, SHAPES + "***layer1_2_conv3_M.weight:[256, 26]\n"))
    assert plan.form == "timm"
    assert plan.layers == (LayerWidth("stem", 24, 3), LayerWidth("bn", 24))


def test_a_byte_order_mark_and_blank_lines_do_no_harm(tmp_path: Path) -> None:
    units = json.dumps(resnet50_units(DMCP_RESNET50))
    assert outputs(written(tmp_path, "\ufeff\n" + units)) == list(DMCP_RESNET50)
    assert outputs(written(tmp_path, "\ufeff" + SHAPES)) == [24, 24]
    yaml = "---\n# a subnet\n\nbackbone.a.conv:  # its name\n  out_channels: 5\n\n"
    assert outputs(written(tmp_path, yaml)) == [5]


def unit(**changes: Any) -> str:
    return json.dumps({UNIT: {"init_args": {}, "choice": 52, **changes}})


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("", "is empty"),
        ("  \n", "is empty"),
        ("hello", "in none of the formats npy, mmrazor, timm"),
        (b"PK\x03\x04\x00", "in none of the formats"),
        (b"\x80\x04}.", "in none of the formats"),
        ("x" * (1 << 20) + "x", "larger than 1048576 bytes"),
        ("{", "not readable as JSON"),
        ("[" * 100_000, "not readable as JSON"),
        ("[1, 2]", "holds [1, 2] where MMRazor writes a mapping"),
        ("{}", "names no channel units"),
        ('{"channel_unit_cfg": []}', "names no channel units"),
        ('{"channel_unit_cfg": {"units": "file.json"}}', "names no channel units"),
        ('{"kind": "plan", "schema_version": 1}', "file of dmcp-deploy already"),
        ('{"a b": {"out_channels": 1}}', "'a b' is {'out_channels': 1}, and no layer's"),
        ('{"a": {}}', "'a' does not say how many channels"),
        ('{"a.mutable_out_channels": {}}', None),
        ('{"a": {"out_channels": "8"}}', "a is '8', and a number of channels is a whole one"),
        (unit(choice="52"), f"{UNIT} is '52'"),
        (unit(choice=0), f"{UNIT} is 0"),
        (unit(choice=-4), f"{UNIT} is -4"),
        (unit(choice=True), f"{UNIT} is True"),
        (unit(choice=None), f"{UNIT} is None"),
        (unit(choice=1.5), "is 1.5, and a share of the channels lies above 0"),
        (unit(choice=float("nan")), "is nan, and a share"),
        (unit(choice=0.5, init_args={"divisor": 0}), "divisor is 0"),
        (json.dumps({UNIT: {"init_args": {}}}), "has no choice, so it is a search space"),
        (json.dumps({"a": 0}), "a is 0, and a number of channels"),
        (json.dumps({"a": 1, "b": "all"}), "b is 'all', and a number of channels"),
        (json.dumps({UNIT: 5, "other": 5}), "'other' is not named as MMRazor names its units"),
        (json.dumps({"a_(0, 4)_8": 2}), "is a part of a layer"),
        (json.dumps({"a_(4, 8)_8": 2}), "is a part of a layer"),
        (json.dumps({"a_(0, 0)_0": 2}), "a_(0, 0)_0 is 0"),
        (json.dumps({"a_(0, " + "9" * 5000 + ")_8": 2}), "no layer's channels"),
        ('{"a": ' + "9" * 5000 + "}", "a number begins with 999999999999999999"),
        (json.dumps({"layer" + "9" * 5000 + ".0.conv.0.conv": {"out_channels": 0}}), "is 0, and"),
        ("a:\n", "'a' does not say"),
        ("a:\n\tout_channels: 5\n", "line 2 is"),
        ("a:\n  out_channels: five\n", "line 2 is"),
        ("a:\n  - 5\n", "line 2 is"),
        ("a:\nb\n", "line 2 is 'b'"),
        ("a:\n  b:\n    c: 1\n", "line 2 is"),
        ("a.weight:[24", "'a.weight:[24' where timm writes a name and a shape"),
        ("a.weight:[24]***", "'' where timm writes"),
        ("a.weight:[24]*b.weight:[2]", "where timm writes"),
        ("a.weight:[0, 3]", "a.weight is 0"),
        ("a.weight:[99999999999999999999999]", "where timm writes a name and a shape"),
        ("a.bias:[24]", "names no weight"),
        (b"a.weight:[24]\xff", "is no text"),
        (b'{"a": "\xff"}', "is no text"),
        (b"\x93NUMPY", "no header of a .npy file"),
        (b"\x93NUMPY\x01\x00\xff\xff{}", "no header of a .npy file"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(
    content: str | bytes, named: str | None, tmp_path: Path
) -> None:
    path = written(tmp_path, content)
    if named is None:
        assert outputs(path) == [None]
        return
    with pytest.raises(DmcpError) as caught:
        read_published(path)
    assert named in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (np.zeros(3), "an array of type '<f8' and shape (3,)"),
        (np.array([{}, {}]), "an array of type '|O' and shape (2,)"),
        ([1], "an array of type '<i8' and shape (1,)"),
        (np.array(None), "holds None where the authors save a dictionary"),
        ({}, "has the keys []"),
        ({"conv1": 3, "fc": 4}, "has the keys ['conv1', 'fc']"),
        ({"conv_last": (1, 2)}, "conv1 is None"),
        ({"conv1": 3, "conv_last": 5}, "conv_last is 5 where the authors write (inputs, outputs)"),
        ({"conv1": 3, "conv_last": (1, 2, 3)}, "conv_last is (1, 2, 3)"),
        ({"conv1": 3, "conv_last": (1, 2), "x": {}}, "in the dictionary there is {'x': {}}"),
        ({"conv1": 3, "conv_last": (1, 2), "9" * 9: {}}, "in the dictionary there is"),
        ({"conv1": 3, "conv_last": (1, 2), "0": {"bn": 1}}, "in the dictionary there is"),
        ({"conv1": 3, "conv_last": (1, 2), "0": {"conv2": (1, 0)}}, "0.conv2 is 0"),
        ({"conv1": 3, "conv_last": (1, 2), "0": {"conv2": (1.5, 1)}}, "0.conv2 is 1.5"),
        ({"conv1": 3, "layer1": 7}, "in layer1 there is 7"),
        ({"conv1": 3, "layer1": {"0": {"conv1": (3, float("inf"))}}}, "layer1.0.conv1 is inf"),
        ({"conv1": 3, "layer1": {}}, "fc is None"),
    ],
)
def test_what_is_wrong_with_a_dictionary_is_said(content: Any, named: str, tmp_path: Path) -> None:
    path = save_npy(tmp_path / "sample.npy", content)
    with pytest.raises(DmcpError) as caught:
        read_published(path)
    assert named in str(caught.value)
    assert str(caught.value).startswith(f"{path} is not a plan in the format npy: ")


def test_a_format_can_be_forced(tmp_path: Path) -> None:
    path = written(tmp_path, SHAPES)
    assert outputs(path, "timm") == outputs(path)
    for form, named in (("npy", "no header"), ("mmrazor", "line 1 is"), ("tim", "mean timm?")):
        with pytest.raises(DmcpError) as caught:
            read_published(path, form)
        assert named in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DmcpError, match=r"There is no file .*/none\."):
        read_published(tmp_path / "none")
    with pytest.raises(DmcpError, match=r"is a folder: name the file in it"):
        read_published(tmp_path)
    with pytest.raises(DmcpError, match=r"Cannot read .*: Not a directory\."):
        read_published(written(tmp_path, "x") / "inside")
