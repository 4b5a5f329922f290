"""The networks of one measurement: checked together, opened together, each timed its own way."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dmcp_deploy.artifact import digest_file
from dmcp_deploy.bench.artifacts import Artifact
from dmcp_deploy.bench.record import Measured
from dmcp_deploy.bench.timing import warm_up
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.machine.affinity import measured_cores, pinned
from dmcp_deploy.machine.environment import read_environment
from dmcp_deploy.machine.state import read_state
from dmcp_deploy.runtimes.sampler import WALL, Clock, Sampler, make_sampler
from dmcp_deploy.runtimes.session import Session

_IMAGE_SEED = 0
#: A GPU is kept busy for this long before its clocks are read: those of an idle GPU are low.
_SETTLE_S = 0.2

Image = tuple[int, int, int]


@dataclass(frozen=True)
class Ready:
    """What is known once all networks have been opened.

    Attributes:
        image: (C, H, W) of one image.
        known: Name and batch size -> the fields of a `Measured`, without samples.
    """

    image: Image
    known: Mapping[tuple[str, int], Mapping[str, Any]]

    @property
    def with_gpu(self) -> bool:
        """Whether any network runs on a GPU."""
        return any(fields["timing"] != WALL for fields in self.known.values())

    def measured(self, batch: int, samples: Mapping[str, Sequence[float]]) -> list[Measured]:
        """Returns the samples at a batch size, by name, with what is known of the networks."""
        return [
            Measured(**self.known[name, batch], samples_ms=tuple(samples_ms))
            for name, samples_ms in samples.items()
        ]


class Lineup:
    """Networks that are measured side by side.

    Attributes:
        artifacts: Name -> network; the others are compared with the first.
        threads: Threads on a CPU that were asked for.
        clock: How networks on a GPU are timed.
    """

    def __init__(self, artifacts: Mapping[str, Artifact], threads: int, clock: Clock) -> None:
        """Nothing is opened yet."""
        self.artifacts, self.threads, self.clock = dict(artifacts), threads, clock

    def check(self, batches: Sequence[int]) -> Ready:
        """Returns what is known of the networks, once each is seen to take all batch sizes.

        Raises:
            DmcpError: A network cannot be read or loaded, has no multiply-adds to compare, does
                not fit the others or a batch size, or cannot be timed as asked.
        """
        groups: dict[tuple[Artifact, ...], list[int]] = {}
        for batch in dict.fromkeys(batches):
            key = tuple(item.at_batch(batch) for item in self.artifacts.values())
            groups.setdefault(key, []).append(batch)
        parts = [self._check(group) for group in groups.values()]
        known = {key: fields for part in parts for key, fields in part.known.items()}
        ready = Ready(parts[0].image, known)
        if self.clock.is_asked and not ready.with_gpu:
            runtime = next(iter(known.values()))["runtime"]
            raise DmcpError(
                "--graph, --no-graph and --transfers are for networks on a GPU, and here"
                f" {runtime} runs on the CPU: leave them out."
            )
        return ready

    @contextlib.contextmanager
    def opened(
        self, image: Image, batch: int, last_first: bool = False
    ) -> Iterator[dict[str, Sampler]]:
        """Yields how each network is timed at a batch size, all loaded in either order."""
        with self._sessions(batch, last_first) as sessions:
            yield self._samplers(sessions, random_images(image, batch))

    @contextlib.contextmanager
    def watched(self, ready: Ready, batches: Sequence[int]) -> Iterator[dict[str, Any]]:
        """Pins the process and yields the environment, which is complete once the block ends.

        Beside what `read_environment` tells it holds `pinned_cores`, which are None where nothing
        is pinned, and the states `before` and `after` (see `read_state`).
        """
        environment = read_environment(devices=True)
        with pinned(self.threads) as cores:
            environment["pinned_cores"] = None if cores is None else list(cores)
            environment["before"] = self._state(ready, batches[0])
            yield environment
            environment["after"] = self._state(ready, batches[-1])

    def _state(self, ready: Ready, batch: int) -> dict[str, Any]:
        """Returns the state of the machine (see `read_state`); of a GPU that is at work."""
        cores = measured_cores(self.threads)
        if not ready.with_gpu:
            return read_state(cores)
        with self.opened(ready.image, batch) as samplers:
            warm_up([sampler.sample_ms for sampler in samplers.values()], _SETTLE_S)
            return read_state(cores, with_gpu=True)

    def _check(self, batches: Sequence[int]) -> Ready:
        """Checks batch sizes that the same files are run at."""
        with self._sessions(batches[0]) as sessions:
            for name, session in sessions.items():
                _check_batches(name, session, batches)
            image = _common_image(sessions)
            samplers = self._samplers(sessions, random_images(image, batches[0]))
            as_run = {
                name: {"runtime": session.runtime, "timing": samplers[name].timing}
                for name, session in sessions.items()
            }
        files = {name: _describe(name, item, batches[0]) for name, item in self.artifacts.items()}
        known = {
            (name, batch): {**files[name], **as_run[name], "batch": batch, "threads": self.threads}
            for batch in batches
            for name in self.artifacts
        }
        return Ready(image, known)

    def _samplers(
        self, sessions: Mapping[str, Session], images: npt.NDArray[np.float32]
    ) -> dict[str, Sampler]:
        return {
            name: make_sampler(session, images, self.clock) for name, session in sessions.items()
        }

    @contextlib.contextmanager
    def _sessions(self, batch: int, last_first: bool = False) -> Iterator[dict[str, Session]]:
        """Opens all networks, in either order; yields them in the order given."""
        names = list(self.artifacts)[::-1] if last_first else list(self.artifacts)
        with contextlib.ExitStack() as stack:
            sessions = {
                name: stack.enter_context(self.artifacts[name].at_batch(batch).open())
                for name in names
            }
            yield {name: sessions[name] for name in self.artifacts}


def random_images(image: Image, batch: int) -> npt.NDArray[np.float32]:
    """Returns the images that networks are timed on, [N, C, H, W]: always the same noise."""
    rng = np.random.default_rng(_IMAGE_SEED)
    return rng.standard_normal((batch, *image), dtype=np.float32)


def _describe(name: str, artifact: Artifact, batch: int) -> dict[str, Any]:
    """Returns the fields of a `Measured` that do not depend on the measurement."""
    file = artifact.at_batch(batch)
    facts, path = file.facts(), file.path
    if facts.macs < 1:
        raise DmcpError(
            f"{name} ({path}) has no convolution or linear layer, so there are no multiply-adds to"
            " compare."
        )
    return {
        "name": name,
        "path": path.name,
        "digest": digest_file(path),
        "file_bytes": path.stat().st_size,
        **vars(facts),
    }


def _common_image(sessions: Mapping[str, Session]) -> Image:
    first, *_ = sessions
    for name, session in sessions.items():
        ours, theirs = sessions[first].input_shape[1:], session.input_shape[1:]
        if None in theirs:
            raise DmcpError(
                f"{session.path} leaves the image size open ({list(session.input_shape)}):"
                " export it with a fixed one."
            )
        if ours != theirs:
            raise DmcpError(
                f"{first} takes images of {list(ours)} and {name} of {list(theirs)}: latencies"
                " compare only at one input shape."
            )
    channels, height, width = (int(size or 0) for size in sessions[first].input_shape[1:])
    return channels, height, width


def _check_batches(name: str, session: Session, batches: Sequence[int]) -> None:
    fixed = session.input_shape[0]
    others = [batch for batch in batches if fixed not in (None, batch)]
    if others:
        raise DmcpError(
            f"{name} ({session.path}) has the fixed batch size {fixed} and cannot be measured at"
            f" {others[0]}: measure at {fixed}, or export it with an open batch size."
        )
