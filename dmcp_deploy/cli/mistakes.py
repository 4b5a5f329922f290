"""What a command says of words that it does not understand, and what may have been meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from dmcp_deploy.registry import plain

#: What other tools call an option -> what is given here instead.
_MEANT = {
    **dict.fromkeys(("imagesize", "imgsize", "imgsz", "size", "resolution"), ("--input-size",)),
    **dict.fromkeys(("o", "output", "outputdir", "outdir", "savedir"), ("--out", "--save")),
    **dict.fromkeys(("arch", "network", "net", "m"), ("--model",)),
    **dict.fromkeys(("budget", "macs", "ratio", "sparsity"), ("--flops",)),
    **dict.fromkeys(("dataset", "datadir", "datapath", "d"), ("--data",)),
    **dict.fromkeys(("checkpoint", "ckpt", "pretrained"), ("--weights",)),
    **dict.fromkeys(("numworkers", "j"), ("--workers", "--jobs")),
    **dict.fromkeys(("numclasses", "nclasses"), ("--classes",)),
    **dict.fromkeys(("lr", "learningrate", "momentum", "weightdecay"), ("--recipe FILE",)),
    **dict.fromkeys(("gpu", "cuda"), ("--device cuda", "--runtime tensorrt")),
    **{name: (f"--precision {name}",) for name in ("fp32", "fp16", "bf16", "int8", "fp8")},
    "half": ("--precision fp16",),
    "dynamic": ("--batch dynamic", "--dynamic-batch 1,8,32"),
    "json": ("--json", "--format json"),
    "html": ("--format html",),
    "format": ("--format", "--json"),
    "trainepochs": ("--epochs",),
    "bs": ("--batch-size", "--batch"),
    "b": ("--batch-size", "--batch"),
    "count": ("--count", "--probes"),
    "probes": ("--probes", "--count"),
}
_MOST = 4  # commands that are named


class Command(click.Command):
    """A command that tells what may have been meant by words that it does not understand."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Reads the command's words; those that are wrong end it in one sentence."""
        words = list(args)
        ctx.allow_extra_args = True
        try:
            rest = super().parse_args(ctx, args)
        except click.NoSuchOption as err:
            raise click.UsageError(unknown_option(ctx, err.option_name, words), ctx) from err
        except click.MissingParameter as err:
            raise click.UsageError(_missing(ctx, err, words), ctx) from err
        if rest and not ctx.resilient_parsing:
            raise click.UsageError(_one_too_many(ctx, rest[0], words), ctx)
        return rest


def unknown_option(ctx: click.Context, name: str, words: Sequence[str]) -> str:
    """Returns the sentence about an option that a command does not have.

    Args:
        ctx: The command's context.
        name: The option as click read it: of `-model` it takes `-m` alone.
        words: All words of the command.
    """
    typed = name if name in words else next((w for w in words if w.startswith(name)), name)
    typed = typed.partition("=")[0]
    flags = _options(ctx.command)
    near = _near(typed, flags)
    others = (
        [] if near and near[0] in flags and plain(near[0]) == plain(typed) else _others(ctx, typed)
    )
    sentence = f"{_path(ctx)} has no option {typed!r}"
    if others:
        shown = ", ".join(others[:_MOST]) + (" and others" if len(others) > _MOST else "")
        sentence += f", which belongs to {shown}"
        if "search" in others and _takes_run(ctx.command):
            kept = "its files" if typed == "--out" else "what search was given"
            sentence += f" (a run keeps {kept})"
    if near:
        return f"{sentence}; did you mean {', '.join(near)}?"
    return sentence + (
        "." if others else f": {_path(ctx, 'dmcp-deploy ')} --help lists those that it has."
    )


def _missing(ctx: click.Context, err: click.MissingParameter, words: Sequence[str]) -> str:
    """Returns the sentence about an option or argument that was left out."""
    param = err.param
    if not isinstance(param, click.Option):
        return err.format_message()
    sentence = f"Missing option {param.opts[0]!r}: {(param.help or '').removesuffix('.')}"
    if _arguments(ctx.command):
        return f"{sentence}."
    _, rest, _ = ctx.command.make_parser(ctx).parse_args(args=list(words))
    if not rest or Path(rest[0]).exists():
        return f"{sentence}."
    return f"{sentence}; did you mean {param.opts[0]} {rest[0]}?"


def _one_too_many(ctx: click.Context, word: str, words: Sequence[str]) -> str:
    """Returns the sentence about a word that is no option's and no argument's."""
    before = words[words.index(word) - 1] if words.index(word) else ""
    for item in ctx.command.params:
        if isinstance(item, click.Option) and item.is_flag and before in item.opts:
            return f"{before} takes no value: leave {word!r} out."
    names = [item.human_readable_name for item in _arguments(ctx.command)]
    takes = " and ".join(names) if names else "nothing beside its options"
    return f"Got unexpected extra argument {word!r}: {_path(ctx)} takes {takes}."


def _near(typed: str, flags: Sequence[str]) -> list[str]:
    """Returns what may have been meant, from the surest on."""
    name = plain(typed)
    same = [flag for flag in flags if plain(flag) == name]
    meant = [each for each in _MEANT.get(name, ()) if each.split()[0] in flags]
    if same or meant:
        return same or meant[:1]
    names = {flag.lstrip("-"): flag for flag in flags if flag != "--help"}
    close = difflib.get_close_matches(typed.lstrip("-").lower(), names, n=3, cutoff=0.65)
    return [names[each] for each in close]


def _others(ctx: click.Context, typed: str) -> list[str]:
    """Returns the other commands that have an option of this name."""
    root = ctx.find_root().command
    commands = [] if not isinstance(root, click.Group) else list(commands_of(root))
    return [name for name, each in commands if typed in _options(each) and typed != "--help"]


def _path(ctx: click.Context, before: str = "") -> str:
    """Returns the command's name, behind those of its groups."""
    names = [] if ctx.parent is None else [*_path(ctx.parent).split(), str(ctx.info_name)]
    return (
        before + " ".join(name for name in names if name != "dmcp-deploy")
    ).strip() or "dmcp-deploy"


def commands_of(group: click.Group, path: str = "") -> Iterator[tuple[str, click.Command]]:
    """Yields name and command of all that a group holds, those of groups in it behind theirs."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands_of(command, f"{path}{name} ")
        else:
            yield f"{path}{name}", command


def _options(command: click.Command) -> list[str]:
    options = (item for item in command.params if isinstance(item, click.Option))
    return ["--help", *(flag for item in options for flag in (*item.opts, *item.secondary_opts))]


def _arguments(command: click.Command) -> list[Any]:
    return [item for item in command.params if isinstance(item, click.Argument)]


def _takes_run(command: click.Command) -> bool:
    return any(item.name == "run_dir" for item in _arguments(command))
