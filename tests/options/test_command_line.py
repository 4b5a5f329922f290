"""Every option of the command line comes from one field, and agrees with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import click
import pytest

from dmcp_deploy.cli.main import main
from dmcp_deploy.cli.options import DeclaredOption
from dmcp_deploy.options.compare import COMPARE_SECONDS, CompareOptions
from dmcp_deploy.options.declare import declared
from dmcp_deploy.options.export import BuildOptions, ExportOptions
from dmcp_deploy.options.measure import BenchOptions, ProbeOptions, Setting
from dmcp_deploy.options.network import NetworkOptions
from dmcp_deploy.options.run import Compute, LaunchOptions, RunOptions, RunSettings, Target
from dmcp_deploy.rundir.request import RunRequest
from dmcp_deploy.training.recipe import RUN_OPTIONS


def commands(group: click.Group = main, path: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{name} ")
        else:
            yield f"{path}{name}", command


COMMANDS = dict(commands())


def options(command: click.Command) -> dict[str, DeclaredOption]:
    found = [item for item in command.params if isinstance(item, click.Option)]
    assert all(isinstance(item, DeclaredOption) for item in found), found
    return {str(item.name): item for item in found if isinstance(item, DeclaredOption)}


def values(name: str, *words: str) -> dict[str, Any]:
    """Returns what a command takes if it is given these words."""
    return COMMANDS[name].make_context(name, list(words)).params


#: What a command cannot do without.
NEEDED = {"--model": "resnet18", "--flops": "50%", "--out": "folder"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_declared_with_its_help_flag_and_default(name: str) -> None:
    command, needed = COMMANDS[name], []
    for item in options(command).values():
        about = item.declaration.about
        assert item.help == about.help
        assert "/".join([*item.opts, *item.secondary_opts]) == item.declaration.flag
        if item.required:
            assert item.declaration.default is dataclasses.MISSING
            needed += [item.declaration.flag, NEEDED[item.declaration.flag]]
    needed += ["x" for item in command.params if isinstance(item, click.Argument)]
    own = {"seconds": COMPARE_SECONDS} if name == "compare" else {}
    given = values(name, *needed)
    for field, item in options(command).items():
        if not item.required:
            assert given[field] == own.get(field, item.declaration.default), field


@pytest.mark.parametrize(
    ("name", "kinds", "left_out"),
    [
        ("search", [Target, RunOptions, Compute, LaunchOptions], {"moved_data"}),
        ("certify", [Compute], {"checkpoint_s", "tensorboard", "supernet", "rehearse"}),
        (
            "prune",
            [Target, RunOptions, BenchOptions, Compute, LaunchOptions],
            # How a GPU is measured is left to bench; --data is where the data lies in any case.
            {"graph", "transfers", "moved_data"},
        ),
        ("export", [ExportOptions, Compute], {"supernet", "rehearse", "certify_s"}),
        ("engine", [BuildOptions], set()),
        ("bench", [BenchOptions], set()),
        ("compare", [CompareOptions, BenchOptions], {"graph", "transfers"}),
        ("groups", [NetworkOptions], set()),
        ("table probes", [ProbeOptions], set()),
        ("table build", [ProbeOptions, Setting], set()),
    ],
)
def test_a_command_offers_all_that_the_library_does(
    name: str, kinds: list[type], left_out: set[str]
) -> None:
    fields = {item.name for kind in kinds for item in declared(kind)}
    assert fields - options(COMMANDS[name]).keys() == left_out


@pytest.mark.parametrize(
    "kind", [RunOptions, BenchOptions, BuildOptions, Compute, NetworkOptions, ProbeOptions, Setting]
)
def test_no_option_is_declared_twice_under_one_flag(kind: type) -> None:
    flags = [item.flag for item in declared(kind)]
    assert len(set(flags)) == len(flags)
    assert all(item.about.help.endswith(".") for item in declared(kind))


def test_a_record_of_a_run_holds_every_setting() -> None:
    settings = {field.name for field in dataclasses.fields(RunSettings)}
    assert settings == {item.name for item in declared(RunSettings)}
    assert settings < {field.name for field in dataclasses.fields(RunRequest)}


def test_a_recipe_may_set_what_the_papers_tables_tell() -> None:
    assert set(RUN_OPTIONS) == {
        *("model", "flops", "width_mult", "input_size", "input", "method", "sampling"),
        *("align", "weights", "init", "distill"),
    }


def test_words_become_values_of_the_fields_types() -> None:
    given = values("prune", "--model", "m", "--flops", "1G", "--align", "16", "--weights", "none")
    assert (given["align"], given["weights"], given["batches"]) == (16, None, (1,))
    assert (
        values("export", "run", "--batch", "4", "--precision", "FP16,int8").items()
        >= {
            "batch": 4,
            "precisions": ("fp16", "int8"),
        }.items()
    )
    assert values("export", "run")["batch"] is None
    assert values("engine", "x", "--dynamic-batch", "1,8,32")["dynamic_batch"] == (1, 8, 32)
    assert values("bench", "x", "--no-graph")["graph"] is False
