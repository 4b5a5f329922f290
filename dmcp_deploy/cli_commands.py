"""What every group of commands does with what goes wrong."""

from __future__ import annotations

import sys
from typing import Any

import click

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.extras import missing_library
from dmcp_deploy.registry import near_matches


class Commands(click.Group):
    """Turns what the user can mend into one sentence, and names near matches of commands."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a command; `DmcpError` and missing libraries end it in one sentence."""
        try:
            return super().invoke(ctx)
        except DmcpError as err:
            raise click.ClickException(_one_line(err)) from err
        except ModuleNotFoundError as err:
            problem = missing_library(err.name or "")
            if problem is None:
                raise
            raise click.ClickException(_one_line(problem)) from err
        except KeyboardInterrupt:
            click.echo("\nStopped; the same command continues from the last checkpoint.", err=True)
            sys.exit(130)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Returns the command that the first word names, or says which ones there are."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            known = self.list_commands(ctx)
            raise click.UsageError(
                f"There is no command {args[0]!r}: choose one of {', '.join(known)}"
                f"{near_matches(args[0], known)}",
                ctx,
            )
        return super().resolve_command(ctx, args)


def _one_line(err: DmcpError) -> str:
    """Returns an error's sentence; what a library said within it may come in lines."""
    return " ".join(str(err).split())
