"""What is asked of a run, and how it is to be computed; torch-free."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmcp_deploy.artifact import MisstatedError, decode, encode
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.extras import require
from dmcp_deploy.plan import NetworkSpec
from dmcp_deploy.progress import NO_PROGRESS, Progress
from dmcp_deploy.registry import (
    BENCH_RUNTIMES,
    ENGINE_RUNTIMES,
    METHODS,
    PRECISIONS,
    choose,
)

DEFAULT_ALIGN = 8  # half-precision tensor cores and CPU kernels work on multiples of 8 channels
CALIBRATION_IMAGES = 64  # fewer than 32 are refused: too few for the ranges of activations
SAMPLINGS = ("expected", "markov")
INITS = ("scratch", "sliced")
AUGMENT_ON = ("host", "device")

_LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True)
class RunOptions:
    """What a run is asked for beside its model and budget; bad values raise DmcpError.

    Attributes:
        data: An image folder, a data set's name, or None for the embedded default.
        width_mult: The full network's width multiplier.
        input_size: Side of the deployed input in pixels; MACs are counted there.
        train_size: Side of the training images; None is the recipe's, or the deployed size.
        method: The search method.
        sampling: "expected" or "markov", for DMCP.
        align: Widths are multiples of this where the group is larger; None is 8.
        weights: None, "imagenet", or a file of weights that the search starts from.
        recipe: A recipe's name or file; None chooses by the data.
        search_epochs: Epochs of both search stages, in place of the recipe's.
        train_epochs: Epochs of the pruned network, in place of the recipe's.
        batch_size: Images per step, in place of the recipe's.
        init: Where the pruned network starts from: "scratch" (random) or "sliced" weights.
        distill: Whether it is trained by in-place distillation.
        seed: The seed of all randomness, from 0 on.
        precision: "auto", "fp32" or "bf16".
        max_steps: Most steps of any training loop, for trials.
        sync_bn: Whether batch norms that train look at the images of all processes.
        augment_on: Where random crops of photographs are made: on the "host", out of the whole
            picture, or on the "device", out of its middle, which decodes small data only once.
    """

    data: str | None = None
    width_mult: float = 1.0
    input_size: int = 224
    train_size: int | None = None
    method: str = "dmcp"
    sampling: str = "expected"
    align: int | None = None
    weights: str | None = None
    recipe: str | None = None
    search_epochs: float | None = None
    train_epochs: float | None = None
    batch_size: int | None = None
    init: str = "scratch"
    distill: bool = False
    seed: int = 0
    precision: str = "auto"
    max_steps: int | None = None
    sync_bn: bool = False
    augment_on: str = "host"

    def __post_init__(self) -> None:
        choose("--method", self.method, METHODS)
        choose("--sampling", self.sampling, SAMPLINGS)
        choose("--init", self.init, INITS)
        choose("--augment-on", self.augment_on, AUGMENT_ON)
        if not 0 <= self.seed <= _LARGEST_SEED:
            raise DmcpError(f"--seed {self.seed} must lie in 0..{_LARGEST_SEED}.")
        least = {"align": 1, "max_steps": 1, "input_size": 16, "train_size": 16}
        for name, limit in least.items():
            value = getattr(self, name)
            if value is not None and value < limit:
                option = name.replace("_", "-")
                raise DmcpError(f"--{option} {value} is too small: it must be at least {limit}.")


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
        weights: Where the search's first weights come from; None for random ones.
        weights_digest: SHA-256 of that file; None if there is none.
        recipe: Hyper-parameters, as JSON.
        seed: The seed of all randomness.
        init: Where the pruned network starts from: "scratch" or "sliced".
        distill: Whether it is trained by in-place distillation.
        precision: "fp32" or "bf16" arithmetic in training.
        max_steps: Most steps of any training loop; None for no limit.
        sync_bn: Whether batch norms that train look at the images of all processes.
        augment_on: Where random crops of photographs are made: "host" or "device".
    """

    network: NetworkSpec
    budget: str
    method: str
    sampling: str
    align: int
    data: str
    data_digest: str
    weights: str | None
    weights_digest: str | None
    recipe: Mapping[str, Any]
    seed: int
    init: str
    distill: bool
    precision: str
    max_steps: int | None
    sync_bn: bool = False
    augment_on: str = "host"

    def to_json(self) -> dict[str, Any]:
        """Returns the request as JSON values; what older runs lack is left out at its default."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        fields = {k: v for k, v in fields.items() if k not in _ADDED or v != _ADDED[k]}
        return {**fields, "network": encode(self.network), "recipe": dict(self.recipe)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> RunRequest:
        """Returns the request that `to_json` wrote.

        Raises:
            MisstatedError: A field is missing, unknown or of another type.
        """
        unknown = content.keys() - {field.name for field in dataclasses.fields(cls)}
        for name in unknown:
            raise MisstatedError((name,), f": {content[name]!r} (no release has it)")
        return decode(cls, {**_ADDED, **content})

    def token(self) -> str:
        """Returns what identifies the run in its checkpoints."""
        text = json.dumps(self.to_json(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def shared(self) -> RunRequest:
        """Returns the request without what the first stage of a search does not depend on."""
        own = ("name", "train", "finish_share", "ema_decay")
        recipe = {key: value for key, value in self.recipe.items() if key not in own}
        return dataclasses.replace(
            self, budget="", sampling="", init="", distill=False, recipe=recipe
        )

    def difference(self, other: RunRequest) -> str | None:
        """Returns the first value in which another request differs, as "name: a, b"; or None."""
        both = ({**_ADDED, **request.to_json()} for request in (self, other))
        mine, theirs = (dict(_leaves("", content)) for content in both)
        for name in {**mine, **theirs}:
            if mine.get(name) != theirs.get(name):
                asked = _brief(theirs.get(name))
                return f"{name}: {_brief(mine.get(name))} there, {asked} asked for"
        return None


#: Fields of a request that runs of old lack, with what they stand for there.
_ADDED: dict[str, Any] = {"sync_bn": False, "augment_on": "host"}


@dataclass(frozen=True)
class Compute:
    """How a run is computed: nothing here changes what it results in.

    Attributes:
        device: "auto", "cpu", "cuda" or "cuda:N".
        workers: Processes that load images.
        checkpoint_s: Seconds between checkpoints.
        tensorboard: Whether to write TensorBoard files.
        supernet: The directory of a run whose first stage a new search takes over: the steps
            that do not depend on the budget, which are the same in both.
        progress: Where to report.
    """

    device: str = "auto"
    workers: int = 0
    checkpoint_s: float = 60.0
    tensorboard: bool = False
    supernet: Path | str | None = None
    progress: Progress = NO_PROGRESS

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise DmcpError(f"--workers {self.workers} is too small: it must be at least 0.")
        if not self.checkpoint_s >= 0:
            raise DmcpError(f"--checkpoint-seconds {self.checkpoint_s} must be at least 0.")
        if self.tensorboard:
            require("tensorboard")


@dataclass(frozen=True)
class BenchOptions:
    """How latency is measured; bad values raise DmcpError.

    Attributes:
        batches: Images per call.
        threads: Threads on a CPU; 0 leaves the number to the runtime.
        seconds: Measuring time per batch size.
        runtime: What runs ONNX files: "onnxruntime" or "openvino"; "torch" runs the networks of a
            run; "tensorrt" and "tensorrt-rtx" run engines that are built first.
        graph: Whether a GPU runs a CUDA graph; None for engines where the CUDA library can.
        transfers: Whether a GPU's images and logits are copied within the time.
        precision: Of the engines that are built; None for FP16, or what the file has already.
    """

    batches: Sequence[int] = (1,)
    threads: int = 0
    seconds: float = 10.0
    runtime: str = "onnxruntime"
    graph: bool | None = None
    transfers: bool = False
    precision: str | None = None

    def __post_init__(self) -> None:
        if not self.batches or min(self.batches) < 1:
            raise DmcpError(f"The batch sizes are {list(self.batches)}: each must be 1 or more.")
        if self.threads < 0:
            raise DmcpError(f"--threads {self.threads} is too small: it must be at least 0.")
        if not (self.seconds > 0 and math.isfinite(self.seconds)):
            raise DmcpError(f"--seconds {self.seconds:g} must be above zero and finite.")
        choose("--runtime", self.runtime, BENCH_RUNTIMES)
        if self.precision is not None:
            choose("--precision", self.precision, PRECISIONS)
            if self.runtime not in ENGINE_RUNTIMES:
                raise DmcpError(
                    f"--precision {self.precision} is for engines that are built to be measured"
                    f" (--runtime {' or '.join(ENGINE_RUNTIMES)}): {self.runtime} runs a network"
                    " in the precision that it has."
                )

    def to_json(self) -> dict[str, Any]:
        """Returns the options as JSON values; a run's record of old lacks the later ones."""
        added = {"graph": None, "transfers": False, "precision": None}
        found = {**dataclasses.asdict(self), "batches": list(self.batches)}
        return {k: v for k, v in found.items() if k not in added or v != added[k]}


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yields the values in nested JSON objects, each under its dotted name."""
    if not isinstance(value, dict):
        yield name, value
        return
    for key, item in value.items():
        yield from _leaves(f"{name}.{key}" if name else key, item)


def _brief(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
