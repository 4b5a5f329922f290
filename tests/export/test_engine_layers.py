"""What the releases of TensorRT say of an engine's layers, and what is read from it."""

from __future__ import annotations

import json

import pytest

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.export.engine_layers import (
    Layer,
    confirm_precision,
    count_precisions,
    layers_of_inspector,
    layers_of_log,
)

# As TensorRT-RTX 1.7 writes it, shortened.
LOG = """Layers:
Name: __myl_Cast_myl0_0, LayerType: kgen, Inputs: [ { Name: input, Dimensions: [1,3,16,16], \
Datatype: Float, Format: (Linear) Row major linear format }], Constants: [], Outputs: [ { Name: a, \
Dimensions: [1,3,16,16], Datatype: Half, Format: (NHWC) Channel major format }], TacticName: x
Name: conv_myl0_1, LayerType: correlation, Inputs: [ { Name: a, Dimensions: [1,3,16,16], Datatype: \
Half, Format: (NHWC) }], Constants: [ { Name: w, Dimensions: [8,3,1,1], Datatype: Float, Format: \
(NHWC) }], Outputs: [ { Name: b, Dimensions: [1,8,16,16], Datatype: Half, Format: (NHWC) }]
Name: shape, LayerType: kgen, Inputs: [ { Name: n, Dimensions: [1], Datatype: Int64, Format: x }], \
Constants: [], Outputs: [ { Name: m, Dimensions: [1], Datatype: Int32, Format: x }]
Bindings: input"""


def inspected(*layers: tuple[str, str, str, str], key: str = "Format/Datatype") -> str:
    """Returns an inspector's answer for (name, kind, input's type, output's type)."""
    listed = [
        {"Name": name, "LayerType": kind, "Inputs": [{key: first}], "Outputs": [{key: last}]}
        for name, kind, first, last in layers
    ]
    return json.dumps({"Layers": listed, "Bindings": ["input", "logits"]})


def test_the_layers_of_a_build_log_are_read_with_their_types() -> None:
    assert layers_of_log(["noise", LOG, "more"]) == [
        Layer("__myl_Cast_myl0_0", "kgen", "fp16"),
        Layer("conv_myl0_1", "correlation", "fp16"),
        Layer("shape", "kgen", "other"),
    ]


def test_a_log_without_a_listing_has_no_layers() -> None:
    assert layers_of_log(["Layer: x Host Persistent: 80 bytes"]) == []


@pytest.mark.parametrize(
    ("text", "precision"),
    [
        ("Row major linear FP32", "fp32"),
        ("Float", "fp32"),
        ("Channel major FP16 format where channel % 8 == 0", "fp16"),
        ("Half", "fp16"),
        ("Thirty-two wide channel vectorized row major Int8 format.", "int8"),
        ("Int8", "int8"),
        ("BFloat16", "bf16"),
        ("Channel major BF16 format", "bf16"),
        ("FP8", "fp8"),
        ("Int32", "other"),
        ("UInt8", "other"),
        ("N/A due to dynamic shapes", "other"),
    ],
)
def test_every_release_spells_types_in_its_own_way(text: str, precision: str) -> None:
    assert layers_of_inspector(inspected(("a", "CaskConvolution", text, text)))[0].precision == (
        precision
    )


def test_from_11_on_type_and_layout_stand_apart() -> None:
    text = inspected(("a", "CaskConvolution", "Half", "Half"), key="Datatype")
    assert layers_of_inspector(text) == [Layer("a", "CaskConvolution", "fp16")]


def test_a_layer_counts_as_the_narrowest_of_its_types() -> None:
    text = inspected(("a", "CaskConvolution", "Int8", "Float"))
    assert layers_of_inspector(text)[0].precision == "int8"


def test_layers_that_move_data_are_not_counted() -> None:
    layers = layers_of_inspector(
        inspected(
            ("in", "Reformat", "Float", "Half"),
            ("a", "CaskConvolution", "Half", "Half"),
            ("b", "NoOp", "Half", "Half"),
        )
    )
    assert count_precisions(layers) == {"fp16": 1}


@pytest.mark.parametrize("text", ["", "plain text", "[]", '{"Bindings": []}', '{"Layers": 3}'])
def test_an_inspectors_answer_that_is_none_is_an_error(text: str) -> None:
    with pytest.raises(DmcpError, match="cannot be confirmed"):
        layers_of_inspector(text)


def some(**counts: int) -> list[Layer]:
    return [Layer(f"{p}{i}", "conv", p) for p, n in counts.items() for i in range(n)]


def test_an_engine_in_the_asked_precision_is_confirmed() -> None:
    assert confirm_precision(some(fp16=9, fp32=2, other=1), "fp16", "x") == {
        "fp16": 9,
        "fp32": 2,
        "other": 1,
    }


def test_a_quantised_engine_keeps_other_types_between_its_quantised_layers() -> None:
    assert confirm_precision(some(int8=3, fp32=9), "int8", "x") == {"int8": 3, "fp32": 9}


@pytest.mark.parametrize(
    ("layers", "asked"),
    [
        (some(fp32=10), "fp16"),
        (some(fp32=10), "int8"),
        (some(fp32=6, fp16=4), "fp16"),
        (some(fp32=9, fp16=1), "fp32"),
        (some(fp16=10), "bf16"),
    ],
)
def test_a_silent_fallback_is_an_error_that_names_what_there_is(
    layers: list[Layer], asked: str
) -> None:
    with pytest.raises(DmcpError, match=f"the engine was asked for in {asked}.*fell back"):
        confirm_precision(layers, asked, "the engine")


def test_an_engine_that_tells_no_types_is_not_confirmed() -> None:
    with pytest.raises(DmcpError, match="tells nothing of its layers"):
        confirm_precision(some(other=4), "fp32", "the engine")
