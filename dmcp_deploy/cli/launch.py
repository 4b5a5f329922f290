"""`--gpus N`: the same command in N processes, by torch's own launcher."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.extras import require
from dmcp_deploy.machine.launched import is_launched
from dmcp_deploy.options.run import LaunchOptions

#: Where a context keeps the command line's words.
WORDS = "dmcp_deploy.words"

#: Names, for the processes that are started, the file in which one says why it cannot go on.
_REFUSAL = "DMCP_DEPLOY_REFUSAL"


def share_work(options: LaunchOptions, device: str) -> None:
    """Ends a command that --gpus N asks for in N processes, once those have done its work.

    Args:
        options: In how many processes.
        device: The command's --device.

    Raises:
        DmcpError: There are not so many GPUs, or the command ends in an error.
        click.exceptions.Exit: The processes have done the work.
    """
    if options.gpus is None or is_launched():
        check_launched(options.gpus)
        return
    _check_gpus(options.gpus, device)
    ctx = click.get_current_context()
    ctx.exit(launch(ctx.meta[WORDS], options.gpus, options.max_restarts))


def launch(words: Sequence[str], processes: int, max_restarts: int) -> int:
    """Runs a command line in several processes of this machine; returns its exit code.

    They are started, watched and started again as `torchrun --standalone` does. What the user
    can mend is said once, and not tried again.

    Args:
        words: The command line's words behind the program's name.
        processes: How many.
        max_restarts: How often all start again after one was lost.

    Raises:
        DmcpError: The command ends in an error, or a process was lost once too often.
        KeyboardInterrupt: SIGINT has come.
    """
    import tempfile

    with tempfile.TemporaryDirectory(prefix="dmcp-deploy-") as folder:
        refusal = Path(folder) / "refusal.json"
        os.environ[_REFUSAL] = str(refusal)
        try:
            code = _run(words, processes, max_restarts)
        except DmcpError:
            if not refusal.exists():
                raise
            code = 1
        finally:
            del os.environ[_REFUSAL]
        if refusal.exists():
            raise DmcpError(json.loads(refusal.read_text(encoding="utf-8")))
    return code


def check_launched(gpus: int | None) -> None:
    """Checks that --gpus says what torchrun does, where that has started this process.

    Raises:
        DmcpError: It does not.
    """
    local = os.environ.get("LOCAL_WORLD_SIZE", str(gpus))
    if gpus is not None and local != str(gpus):
        raise DmcpError(
            f"torchrun has started {local} processes on this machine and --gpus asks for {gpus}:"
            " leave out --gpus."
        )


def begin_launched() -> None:
    """Ends this process at once if one of those launched has said why none can go on.

    That one has ended in an error, so that the others are not left waiting for it, and all were
    started again.
    """
    path = os.environ.get(_REFUSAL)
    if path is not None and is_launched() and Path(path).exists():
        sys.exit(0)


def refuse(sentence: str) -> bool:
    """Leaves with the launcher why this process cannot go on; the first one that does is heard.

    Returns:
        Whether there is a launcher that says it.
    """
    path = os.environ.get(_REFUSAL)
    if path is None or not is_launched():
        return False
    own = Path(f"{path}.{os.getpid()}")
    own.write_text(json.dumps(sentence), encoding="utf-8")
    with contextlib.suppress(FileExistsError):
        os.link(own, path)  # whole, or not there
    return True


def _check_gpus(gpus: int, device: str) -> None:
    require("torch")
    if device not in ("auto", "cuda"):
        raise DmcpError(
            f"--gpus {gpus} gives every process a GPU of its own: leave out --device {device}."
        )
    import torch

    found = torch.cuda.device_count()
    if gpus > found:
        raise DmcpError(
            f"--gpus {gpus} asks for more than the {found} CUDA devices that torch finds: take"
            f" fewer, or share the work of CPUs by torchrun --nproc-per-node {gpus} -m dmcp_deploy"
            " with the same command."
        )


def _run(words: Sequence[str], processes: int, max_restarts: int) -> int:
    import logging

    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    options = {"nproc-per-node": processes, "max-restarts": max_restarts}
    asked = [f"--{name}={value}" for name, value in options.items()]
    asked += ["--standalone", "--local-addr=127.0.0.1", "-m", "dmcp_deploy", *words]
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # torchrun's own choice, less its warning
    # All are on this machine, whose name need not resolve.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    # What it logs of a failed process is said below.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        torchrun.run(torchrun.parse_args(asked))  # type: ignore[no-untyped-call]
    except ChildFailedError as err:
        return _exit_code(err, max_restarts)
    except SignalException as err:
        if err.sigval == signal.SIGINT:
            raise KeyboardInterrupt from err
        return 128 + int(err.sigval)
    return 0


def _exit_code(err: Any, max_restarts: int) -> int:
    rank, failure = err.get_first_failure()
    if failure.exitcode > 0:
        return int(failure.exitcode)
    name = signal.Signals(-failure.exitcode).name
    raise DmcpError(
        f"Process {rank} was ended by {name}, after {max_restarts} restarts that were allowed: the"
        " same command continues from the last checkpoint, and --max-restarts allows more."
    ) from err
