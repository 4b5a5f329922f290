"""Options of a run: what is asked for, and how it is computed."""

from __future__ import annotations

import re
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.extras import require
from dmcp_deploy.options.declare import check, option, shared_fields
from dmcp_deploy.options.network import (
    ModelOption,
    SizeOptions,
    align_option,
    input_size_option,
)
from dmcp_deploy.progress import NO_PROGRESS, Progress
from dmcp_deploy.registry import METHODS, PRECISIONS

SAMPLINGS = ("expected", "markov")
INITS = ("scratch", "sliced")

_LARGEST_SEED = 2**63 - 1
_SMALLEST_SIDE = 16
_LARGEST_SIDE = 9999  # a picture of such sides takes a gigabyte in training
_PICTURE_CHANNELS = (1, 3)


#: What a command says that is given no data.
DEFAULT_DATA = """\
No --data was given, so this run shows how it goes on somebody else's pictures: solar cells, intact
or defective, from the package elpv-dataset (Buerhop-Lutz et al., 2018; CC BY-NC-SA 4.0: not for
commercial use). For your own, give --data FOLDER with a folder a class:

    FOLDER/train/cat/1.jpg   FOLDER/train/dog/1.jpg   ...
    FOLDER/val/cat/2.jpg     FOLDER/val/dog/2.jpg     ...

or fashion-mnist, torchvision:NAME or webdataset:FOLDER.
"""


@dataclass(frozen=True)
class Budgets:
    """What a plan may cost: all that are given hold at once; bad values raise DmcpError.

    Attributes:
        flops: Multiply-adds as text; one of the four may name several.
        latency: Time of a call on the target as text; a share is of the full network's.
        params: Parameters as text.
        weight_bytes: Bytes of all weights as text.
        table: The latency table of the target; None builds one here, if there is none yet.
    """

    flops: str | None = option(
        None, in_recipe=True, help="Budget in multiply-adds: 211M, 1.04G or 50%; or several."
    )
    latency: str | None = option(
        None, help="Budget in time on the target: 25ms, or 60% of the full network's; or several."
    )
    params: str | None = option(None, help="Budget in parameters: 2M or 50%; or several.")
    weight_bytes: str | None = option(
        None, help="Budget in bytes of weights: 8MB or 50%; or several."
    )
    table: Path | str | None = option(
        None, help="Latency table of the target; if not given, one is built here and kept."
    )

    def __post_init__(self) -> None:
        if not any(self.texts().values()):
            raise DmcpError(
                "There is no budget: give --flops 211M, --latency 25ms or --params 2M, or several"
                " of them, which then all hold."
            )
        if self.table is not None and not self.latency:
            raise DmcpError(f"--table {self.table} is for a budget in time: give --latency 25ms.")

    def texts(self) -> dict[str, str | None]:
        """Returns "flops", "latency", "params" and "weight_bytes", each with its text."""
        names = ("flops", "latency", "params", "weight_bytes")
        return {name: getattr(self, name) for name in names}

    @property
    def budgets(self) -> Budgets:
        """The budgets alone."""
        return Budgets(**shared_fields(Budgets, self))

    def __str__(self) -> str:
        """Returns the budgets as the name of a folder has them: "211M-25ms"."""
        others = ((name, text) for name, text in self.texts().items() if text and name != "flops")
        named = (text if _tells_unit(text) else f"{_dashed(name)}-{text}" for name, text in others)
        return "-".join(filter(None, [self.flops, *named]))


def _dashed(name: str) -> str:
    """Returns the name of a budget as its option spells it."""
    return name.replace("_", "-")


def _tells_unit(text: str) -> bool:
    """Returns whether a budget tells by itself what it is of: it is in seconds or bytes."""
    return text.strip().lower().endswith(("s", "b"))


@dataclass(frozen=True)
class TargetEngines:
    """What a budget in time is for, beside how latency is measured.

    Attributes:
        latency_precision: What engines compute in that a budget in time is for, and what a
            budget in bytes counts weights in.
    """

    latency_precision: str | None = option(
        None,
        choices=PRECISIONS,
        help="Of the target's engines (fp16 if not given), and of --weight-bytes (fp32).",
    )


@dataclass(frozen=True)
class Target(TargetEngines, Budgets, ModelOption):
    """What is pruned, how far, and where the run lies.

    Attributes:
        out: The run directory; a folder for them where there are several budgets.
    """

    out: Path | None = option(None, help="Run directory, or their folder.")


@dataclass(frozen=True)
class RunSettings:
    """What a run depends on and its record keeps as it was asked for, or filled in.

    Attributes:
        method: The search method.
        weights: None, "imagenet", or a file of weights that the search starts from, also as
            "FILE:PLACE" for one of several dictionaries in it.
        data: An image folder, a data set's name, or None for the embedded default.
        sampling: How DMCP reads a plan from its probabilities: "expected" widths, or the best
            of some drawn from the "markov" process. "budget-only" takes the expected ones,
            whatever this says.
        align: Widths are multiples of this where the group is larger.
        precision: "auto", "fp32" or "bf16".
        max_steps: Most steps of any training loop, for trials; None for no limit.
        init: Where the pruned network starts from: "scratch" (random) or "sliced" weights.
        distill: Whether it is trained by in-place distillation.
        augment_on: Where random crops of photographs are made: on the "host", out of the whole
            picture, or on the "device", out of its middle, which decodes small data only once.
        sync_bn: Whether batch norms that train look at the images of all processes.
        seed: The seed of all randomness, from 0 on.
    """

    method: str = option(
        "dmcp", choices=tuple(METHODS), in_recipe=True, help=f"One of {', '.join(METHODS)}."
    )
    weights: str | None = option(
        None, words={"none": None}, in_recipe=True, help="none, imagenet, a file or FILE:PLACE."
    )
    data: str | None = option(
        None,
        help="Image folder (train/, val/), elpv, fashion-mnist, torchvision:X, webdataset:X.",
    )
    sampling: str = option(
        "expected", choices=SAMPLINGS, in_recipe=True, help="DMCP: expected or markov."
    )
    align: int = align_option()
    _: KW_ONLY
    precision: str = option("auto", help="Of training: auto, fp32 or bf16.")
    max_steps: int | None = option(None, least=1, help="Most steps of any loop, for a trial.")
    init: str = option(
        "scratch", choices=INITS, in_recipe=True, help="Pruned start: scratch or sliced."
    )
    distill: bool = option(False, in_recipe=True, help="Train by in-place distillation.")
    augment_on: str = option(
        "host", choices=("host", "device"), later=True, help="Random crops: host or device."
    )
    sync_bn: bool = option(
        False, later=True, help="Several processes: batch norms over all their images."
    )
    seed: int = option(0, least=0, most=_LARGEST_SEED, help="Seed of all randomness.")


@dataclass(frozen=True)
class RunOptions(RunSettings, SizeOptions):
    """What a run is asked for beside its model and budget; bad values raise DmcpError.

    Attributes:
        train_size: Shorter side of the training images; None is the recipe's, or the deployed size.
        recipe: A recipe's name or file; None chooses by the data.
        search_epochs: Epochs of both search stages, in place of the recipe's.
        train_epochs: Epochs of the pruned network, in place of the recipe's.
        batch_size: Images per step, in place of the recipe's.
    """

    input_size: int | None = input_size_option(least=_SMALLEST_SIDE)
    train_size: int | None = option(
        None,
        least=_SMALLEST_SIDE,
        most=_LARGEST_SIDE,
        help="Shorter side of the training images in pixels.",
    )
    recipe: str | None = option(
        None,
        presets=True,
        help="Hyper-parameters: a name, or a JSON file, which may set model and budget too.",
    )
    search_epochs: float | None = option(None, help="Epochs of both search stages.")
    train_epochs: float | None = option(None, flag="--epochs", help="Epochs of the pruned network.")
    batch_size: int | None = option(None, help="Images per step and process.")

    def __post_init__(self) -> None:
        check(self)
        channels, *sides = self.input_shape
        if channels not in _PICTURE_CHANNELS:
            raise DmcpError(
                f"--input {self.input} has {channels} channels: pictures come with 1 (grey) or 3"
                " (RGB)."
            )
        if min(sides) < _SMALLEST_SIDE:
            raise DmcpError(
                f"--input {self.input} is too small: its sides must be at least {_SMALLEST_SIDE}."
            )


@dataclass(frozen=True)
class Compute:
    """How a run is computed: nothing here changes what it results in.

    Attributes:
        device: "auto", "cpu", "cuda" or "cuda:N".
        workers: Processes that load images.
        checkpoint_s: Seconds between checkpoints.
        certify_s: Seconds in which a plan is measured that has a budget in time.
        tensorboard: Whether to write TensorBoard files.
        rehearse: Whether the whole chain is tried on a few pictures before any training.
        supernet: The directory of a run whose first stage a new search takes over: the steps
            that do not depend on the budget, which are the same in both.
        moved_data: Where the data of a run lies now, which has moved since the run was begun.
        progress: Where to report.
    """

    device: str = option("auto", help="auto, cpu, cuda or cuda:N.")
    workers: int = option(0, least=0, help="Processes that load images.")
    checkpoint_s: float = option(
        60.0, flag="--checkpoint-seconds", least=0, help="Time between checkpoints."
    )
    certify_s: float = option(
        10.0, flag="--certify-seconds", least=0.1, help="With --latency: time to measure a plan."
    )
    tensorboard: bool = option(False, help="Write TensorBoard files as well.")
    rehearse: bool = option(
        True,
        flag="--rehearse/--no-rehearse",
        help="First try the whole chain, from one step of training to the engines.",
    )
    supernet: Path | str | None = option(
        None, help="Take over the first stage of a run for another budget."
    )
    moved_data: str | None = option(
        None, flag="--data", help="Where the run's data lies now, if it has moved."
    )
    progress: Progress = NO_PROGRESS

    def __post_init__(self) -> None:
        check(self)
        if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", self.device):
            gpu = re.fullmatch(r"(?:gpu|nvidia|cuda)?[:_-]?(\d*)", self.device.lower())
            near = "." if gpu is None else f"; did you mean {f'cuda:{gpu[1]}'.rstrip(':')}?"
            if self.device.lower() in ("auto", "cpu"):
                near = f"; did you mean {self.device.lower()}?"
            raise DmcpError(
                f"--device {self.device!r} is unknown: choose auto, cpu, cuda or cuda:N{near}"
            )
        if self.tensorboard:
            require("tensorboard")


@dataclass(frozen=True)
class LaunchOptions:
    """In how many processes a command runs.

    Attributes:
        gpus: So many GPUs, one process each; None for this process alone.
        max_restarts: How often all start again after one was lost.
    """

    gpus: int | None = option(None, least=1, help="Share the work of so many GPUs.")
    max_restarts: int = option(
        3,
        least=0,
        help="With --gpus: new starts from the last checkpoint after a process was lost.",
    )

    def __post_init__(self) -> None:
        check(self)
