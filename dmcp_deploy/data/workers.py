"""Batches from worker processes: waited for with patience, but never for ever."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dmcp_deploy.errors import DmcpError, Interrupted, reason_of
from dmcp_deploy.machine.shared_memory import free_shared_bytes
from dmcp_deploy.machine.signals import leave_signals_to_parent, waiting_signal
from dmcp_deploy.units import format_bytes

#: Batches that each worker makes ahead.
_AHEAD = 2
#: Seconds after which a process that waits for a batch looks at what has become of it.
_LOOK_S = 2
#: Seconds of waiting after which a full shared memory, or anything else, is taken for the reason.
_FULL_S, _LOST_S = 30, 600


def batches_of_workers(
    make: Callable[[int], Any], numbers: range, workers: int, batch_bytes: int, *, pinned: bool
) -> Iterator[Any]:
    """Yields what `make` makes of numbers, in order, made ahead by worker processes.

    Tensors come through shared memory, or through pipes where there is too little of it.

    Args:
        make: Makes an item in a worker: tensors in a tuple, or what else can be pickled.
        numbers: What it is called with.
        workers: How many processes.
        batch_bytes: The size of an item.
        pinned: Whether tensors are wanted in pinned memory.

    Raises:
        DmcpError: Workers cannot be started, one was killed, or no batch comes.
        Interrupted: A signal has come while none did.
    """
    piped = not fits_shared_memory(batch_bytes, workers)
    # A whole batch is one item, named by its number: workers hold no state. With a generator of
    # its own the loader leaves the global random state alone.
    loader: DataLoader[Any] = DataLoader(
        _Items(make, piped),  # type: ignore[arg-type]
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        prefetch_factor=_AHEAD,
        collate_fn=_uncollated,
        worker_init_fn=leave_signals_to_parent,
        generator=torch.Generator(),
        pin_memory=pinned,
        timeout=_LOOK_S,
    )
    others = set(multiprocessing.active_children())
    try:
        items = iter(loader)
    except OSError as err:
        raise DmcpError(
            f"The {workers} workers cannot be started ({reason_of(err)}): {_REMEDY}."
        ) from err
    children = set(multiprocessing.active_children()) - others
    try:
        for _ in numbers:
            yield _as_tensors(_next(items, workers, batch_bytes))
    finally:
        _end(items, children)


def fits_shared_memory(batch_bytes: int, workers: int) -> bool:
    """Returns whether the batches that workers make ahead fit the shared memory that is free."""
    free = free_shared_bytes()
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return free is None or batch_bytes * (_AHEAD * workers + 2) * processes <= free


_REMEDY = "take --workers 0, or give the container more shared memory (docker run --shm-size=2g)"


def _next(items: Iterator[Any], workers: int, batch_bytes: int) -> Any:
    """Returns the next item; while it waits, signals end it, and so does what cannot get better."""
    started = time.monotonic()
    while True:
        try:
            return next(items)
        except RuntimeError as err:
            if "timed out" in str(err):
                _check_waiting(time.monotonic() - started, workers, batch_bytes)
            elif "DataLoader worker" in str(err):
                raise DmcpError(
                    f"A worker that makes batches was killed ({reason_of(err)}), for want of"
                    f" memory as a rule: {_REMEDY}."
                ) from err
            else:
                raise


def _end(items: Any, children: Iterable[BaseProcess]) -> None:
    """Ends the workers, also those that are stuck: this process would wait for them at its end."""
    # First the loader, which takes the death of a worker for an error as long as it runs.
    items._shutdown_workers()
    for child in children:
        if child.is_alive():  # it ignores SIGTERM, which is for its parent
            child.kill()
            child.join()


def _check_waiting(waited_s: float, workers: int, batch_bytes: int) -> None:
    signal = waiting_signal()
    if signal is not None:
        raise Interrupted(signal)
    free = free_shared_bytes()
    full = free is not None and free < batch_bytes
    if waited_s > _LOST_S or (full and waited_s > _FULL_S):
        room = "" if free is None else f", with {format_bytes(free)} of shared memory free"
        raise DmcpError(
            f"No batch of {format_bytes(batch_bytes)} has come from {workers} workers for"
            f" {waited_s:.0f} s{room}: {_REMEDY}."
        )


class _Items:
    """What the workers hold."""

    def __init__(self, make: Callable[[int], Any], piped: bool) -> None:
        self._make, self._piped = make, piped

    def __getitem__(self, number: int) -> Any:
        item = self._make(number)
        # Arrays are pickled into the pipe, where tensors would go through shared memory.
        if self._piped and isinstance(item, tuple):
            return tuple(each.numpy() if isinstance(each, Tensor) else each for each in item)
        return item


def _as_tensors(item: Any) -> Any:
    if not isinstance(item, tuple):
        return item
    return tuple(torch.from_numpy(each) if isinstance(each, np.ndarray) else each for each in item)


def _uncollated(item: Any) -> Any:
    return item
