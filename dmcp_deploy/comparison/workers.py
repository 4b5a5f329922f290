"""Independent pieces of work in processes of their own, which end when this one does."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.machine.state import allowed_cores

_Piece = TypeVar("_Piece")

_POLL_S = 1.0


def work_through(
    pieces: Sequence[_Piece], work: Callable[[_Piece], None], jobs: int
) -> Iterator[tuple[_Piece, str | None]]:
    """Yields each piece as its work ends, with None or the sentence of the `DmcpError` it raised.

    One job runs in this process. More run in processes of their own, each with its share of the
    cores; none of them outlives this one, however it ends.

    Args:
        pieces: What to work on.
        work: A function at the top of a module.
        jobs: How many at a time.

    Raises:
        DmcpError: A process died, such as for want of memory.
    """
    if jobs == 1:
        for piece in pieces:
            yield piece, _attempt(work, piece)
        return
    threads = max(1, len(allowed_cores()) // jobs)
    context = multiprocessing.get_context("spawn")
    others = multiprocessing.active_children()
    with ProcessPoolExecutor(jobs, context, _begin, (os.getpid(), threads)) as pool:
        try:
            yield from _ended({pool.submit(_attempt, work, piece): piece for piece in pieces})
        except BaseException:
            # The pool would wait for what is under way, which may take hours.
            for process in multiprocessing.active_children():
                if process not in others:
                    process.terminate()
            raise


def _ended(
    futures: dict[Future[str | None], _Piece],
) -> Iterator[tuple[_Piece, str | None]]:
    left = set(futures)
    while left:
        done, left = wait(left, return_when=FIRST_COMPLETED)
        for future in done:
            try:
                yield futures[future], future.result()
            except BrokenProcessPool as err:
                raise DmcpError(
                    f"The process at work on {futures[future]} died, perhaps for want of memory:"
                    " the same command continues, with fewer --jobs if need be."
                ) from err


def _attempt(work: Callable[[_Piece], None], piece: _Piece) -> str | None:
    try:
        work(piece)
    except DmcpError as err:
        return str(err)
    return None


def _begin(parent: int, threads: int) -> None:
    """Prepares a process: Ctrl-C ends it at once, as does the end of its parent."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    # Read by OpenMP when torch is first imported, which is later.
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_S)
    os._exit(1)
