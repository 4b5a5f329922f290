"""The shape of the deployed input: squares by their side, others by --input."""

from __future__ import annotations

import pytest
from shaped_nets import METER_MACS
from tiny_runs import MODEL, refused, succeed

import dmcp_deploy
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.options.network import NetworkOptions, SizeOptions, input_words
from dmcp_deploy.options.run import RunOptions
from dmcp_deploy.plan import NetworkSpec


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, (3, 224, 224)),
        ({"input_size": 32}, (3, 32, 32)),
        ({"input": "1x28x28"}, (1, 28, 28)),
        ({"input": "3X480x640"}, (3, 480, 640)),
        ({"input": "3x32x32", "input_size": 32}, (3, 32, 32)),
    ],
)
def test_an_input_is_a_square_in_colour_or_what_is_asked_for(options, shape):
    assert SizeOptions(**options).input_shape == shape
    assert NetworkSpec.asked("m", NetworkOptions(**options), 7) == NetworkSpec("m", 1.0, 7, shape)
    assert SizeOptions(**input_words(shape)).input_shape == shape


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"input": "28x28"}, "--input '28x28' is not understood: write channels x height x width"),
        ({"input": "1x0x28"}, "not understood"),
        ({"input": "3 480 640"}, "such as 1x28x28 or 3x480x640"),
        ({"input": "1x28x28", "input_size": 28}, r"\(3x28x28\) contradict each other"),
        ({"input": "3x28x32", "input_size": 28}, "give one of them"),
    ],
)
def test_an_input_that_is_not_understood_is_one_sentence(options, words):
    for kind in (NetworkOptions, RunOptions):
        with pytest.raises(DmcpError, match=words):
            kind(**options)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("4x32x32", r"has 4 channels: pictures come with 1 \(grey\) or 3 \(RGB\)"),
        ("1x8x40", "its sides must be at least 16"),
    ],
)
def test_a_run_takes_grey_or_colour_from_16_pixels_on(text, words):
    assert NetworkOptions(input=text).input == text  # without data they are no matter
    with pytest.raises(DmcpError, match=words):
        RunOptions(input=text)


def test_groups_and_multiply_adds_are_those_of_the_input():
    model = "shaped_nets:Meter"
    counted = dmcp_deploy.flops(model, input="1x24x40", classes=3)
    assert counted["macs"] == METER_MACS
    assert "near" in succeed("groups", "--model", model, "--input", "1x24x40")


def test_channels_that_the_first_layer_does_not_read_are_told_with_the_input_that_is():
    told = refused("groups", "--model", "shaped_nets:Meter")
    assert told == (
        "shaped_nets:Meter reads 1 channel (near is its first layer), and the input is 3x224x224:"
        " give --input 1x224x224."
    )
    told = refused("groups", "--model", MODEL, "--input", "1x32x32")
    assert told.endswith("give --input 3x32x32: grey pictures are shown on all three.")
    told = refused("flops", "--model", "shaped_nets:Meter", "--input", "1x24x24")
    assert "does not run on a 1x24x24 input" in told
    assert told.endswith("nor on squares that were tried: give --input CxHxW.")
