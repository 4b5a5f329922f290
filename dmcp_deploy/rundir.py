"""What lies in a run directory, and in which state; torch-free."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmcp_deploy import __version__
from dmcp_deploy.artifact import digest_file, read_artifact, write_artifact
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.plan import NetworkSpec
from dmcp_deploy.progress import NO_PROGRESS, Progress

KIND = "run"
STAGES = ("search", "slice", "train", "export", "bench")


@dataclass(frozen=True)
class RunRequest:
    """What was asked of a run: all that its result depends on.

    Attributes:
        network: The full network.
        budget: The FLOPs budget as text.
        method: The search method.
        sampling: How DMCP reads a plan from its probabilities.
        align: Widths are multiples of this.
        data: The data's name.
        data_digest: What the data looked like at the start.
        weights: Where the first weights come from; None for random ones.
        recipe: Hyper-parameters, as JSON.
        seed: The seed of all randomness.
        init: Where the pruned network starts from: "scratch" or "sliced".
        distill: Whether it is trained by in-place distillation.
        precision: "fp32" or "bf16" arithmetic in training.
        max_steps: Most steps of any training loop; None for no limit.
    """

    network: NetworkSpec
    budget: str
    method: str
    sampling: str
    align: int
    data: str
    data_digest: str
    weights: str | None
    recipe: Mapping[str, Any]
    seed: int
    init: str
    distill: bool
    precision: str
    max_steps: int | None

    def to_json(self) -> dict[str, Any]:
        """Returns the request as JSON values."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {**fields, "network": self.network.to_json(), "recipe": dict(self.recipe)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> RunRequest:
        """Returns the request that `to_json` wrote."""
        return cls(**{**content, "network": NetworkSpec.from_json(content["network"])})

    def token(self) -> str:
        """Returns what identifies the run in its checkpoints."""
        text = json.dumps(self.to_json(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def difference(self, other: RunRequest) -> str | None:
        """Returns the first field in which another request differs, as "name: a, b"; or None."""
        for field in dataclasses.fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if mine != theirs:
                return f"{field.name}: {_brief(mine)} there, {_brief(theirs)} asked for"
        return None


@dataclass(frozen=True)
class Compute:
    """How a run is computed: nothing here changes what it results in.

    Attributes:
        device: "auto", "cpu", "cuda" or "cuda:N".
        workers: Processes that load images.
        checkpoint_s: Seconds between checkpoints.
        tensorboard: Whether to write TensorBoard files.
        progress: Where to report.
    """

    device: str = "auto"
    workers: int = 0
    checkpoint_s: float = 60.0
    tensorboard: bool = False
    progress: Progress = NO_PROGRESS


class RunDir:
    """A run directory: its files, its request, and which stages are done."""

    def __init__(self, path: Path) -> None:
        """Opens the directory; nothing is read or made yet."""
        self.path = Path(path)

    def file(self, name: str) -> Path:
        """Returns the path of one of the run's files."""
        return self.path / name

    def begin(self, request: RunRequest) -> None:
        """Records the request, or checks that the run that lies here is the same.

        Raises:
            DmcpError: Another run lies here, or the directory cannot be made.
        """
        if self.file("run.json").exists():
            found = self.request().difference(request)
            if found is not None:
                raise DmcpError(
                    f"{self.path} holds a run with other settings ({found}): choose another"
                    " --out, or delete that directory."
                )
            return
        if self.path.is_dir() and any(p for p in self.path.iterdir() if p.suffix != ".part"):
            raise DmcpError(f"{self.path} holds files, and no run: choose another --out.")
        self._write(request, {})

    def request(self) -> RunRequest:
        """Returns what was asked of the run.

        Raises:
            DmcpError: There is no run here, or its run.json is damaged.
        """
        content = self._read()
        try:
            return RunRequest.from_json(content["request"])
        except (KeyError, TypeError, ValueError) as err:
            raise DmcpError(f"{self.file('run.json')} lacks or misstates {err}.") from err

    def stages(self) -> dict[str, Any]:
        """Returns stage -> its record (figures, seconds, files), for the stages done."""
        return dict(self._read().get("stages", {}))

    def is_current(self, stage: str) -> bool:
        """Returns whether a stage is done, on the inputs that lie here now, its outputs whole."""
        record = self.stages().get(stage)
        if record is None:
            return False
        named = {**record["inputs"], **record["outputs"]}
        return all(self._digest(name) == digest for name, digest in named.items())

    @contextmanager
    def stage(
        self, name: str, inputs: Sequence[str], outputs: Sequence[str]
    ) -> Iterator[dict[str, Any]]:
        """Yields a place for a stage's figures and records the stage once the block succeeds."""
        before = {file: self._digest(file) for file in inputs if self.file(file).exists()}
        figures: dict[str, Any] = {}
        started = time.monotonic()
        yield figures
        after = {file: self._digest(file) for file in outputs if self.file(file).exists()}
        record = {
            "seconds": round(time.monotonic() - started, 2),
            "inputs": before,
            "outputs": after,
            "figures": figures,
        }
        self._write(self.request(), {**self.stages(), name: record})

    def figures(self, stage: str) -> dict[str, Any]:
        """Returns the figures of a stage that is done, else an empty dictionary."""
        return dict(self.stages().get(stage, {}).get("figures", {}))

    def _digest(self, name: str) -> str | None:
        path = self.file(name)
        return digest_file(path) if path.is_file() else None

    def _read(self) -> dict[str, Any]:
        if not self.path.is_dir():
            raise DmcpError(f"There is no run directory {self.path}: start one with search.")
        return read_artifact(self.file("run.json"), KIND)

    def _write(self, request: RunRequest, stages: Mapping[str, Any]) -> None:
        content = {
            "request": request.to_json(),
            "versions": _versions(),
            "stages": dict(stages),
        }
        write_artifact(self.file("run.json"), KIND, content)


def _versions() -> dict[str, str]:
    from importlib import metadata

    names = ("torch", "torchvision", "onnx", "onnxruntime")
    found = {"dmcp-deploy": __version__, "python": sys.version.split()[0]}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _brief(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
