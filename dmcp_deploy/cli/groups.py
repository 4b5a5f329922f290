"""What every group of commands does with what goes wrong."""

from __future__ import annotations

import sys
from typing import Any

import click

from dmcp_deploy.cli.launch import WORDS, begin_launched, refuse
from dmcp_deploy.cli.mistakes import Command, commands_of, unknown_option
from dmcp_deploy.errors import DmcpError, Interrupted, LostPeerError
from dmcp_deploy.extras import missing_library
from dmcp_deploy.machine.launched import is_first, is_launched
from dmcp_deploy.registry import near_matches


class Commands(click.Group):
    """Turns what the user can mend into one sentence, and names near matches of commands."""

    command_class = Command

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a command; what the user can mend, and signals, end it in one sentence."""
        begin_launched()
        try:
            return super().invoke(ctx)
        except LostPeerError as err:  # the launcher tells which one, and may start it again
            raise click.ClickException(_one_line(err)) from err
        except DmcpError as err:
            raise _refusal(err) from err
        except ModuleNotFoundError as err:
            problem = missing_library(err.name or "")
            if problem is None:
                raise
            raise _refusal(problem) from err
        except Interrupted as err:
            if is_first():
                text = f"\nStopped by {err.name}; the same command continues from here."
                click.echo(text, err=True)
            raise
        except KeyboardInterrupt:
            if not is_launched():
                text = "\nStopped; the same command continues from the last checkpoint."
                click.echo(text, err=True)
            sys.exit(130)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Reads the words up to the command's name."""
        words = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as err:
            raise click.UsageError(unknown_option(ctx, err.option_name, words), ctx) from err

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **rest: Any,
    ) -> click.Context:
        """Returns the context of the words, which it keeps for a command that starts others."""
        words = list(args)
        ctx = super().make_context(info_name, args, parent, **rest)
        if parent is None:
            ctx.meta[WORDS] = words
        return ctx

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Returns the command that the first word names, or says which ones there are."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            known = self.list_commands(ctx)
            nested = [path for path, _ in commands_of(self) if path.split()[1:] == args[:1]]
            near = f"; did you mean {nested[0]}?" if nested else near_matches(args[0], known)
            raise click.UsageError(
                f"There is no command {args[0]!r}: choose one of {', '.join(known)}{near}", ctx
            )
        return super().resolve_command(ctx, args)


def _refusal(err: DmcpError) -> Exception:
    """Returns what ends a command; among several processes the launcher says why, once."""
    sentence = _one_line(err)
    return click.exceptions.Exit(1) if refuse(sentence) else click.ClickException(sentence)


def _one_line(err: DmcpError) -> str:
    """Returns an error's sentence; what a library said within it may come in lines."""
    return " ".join(str(err).split())
