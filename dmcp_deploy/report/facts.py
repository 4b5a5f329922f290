"""What a report tells of a run, read and checked once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from dmcp_deploy.artifact import LATER
from dmcp_deploy.bench.certificate import Certificate
from dmcp_deploy.bench.layers.record import LayersRecord
from dmcp_deploy.bench.record import BenchRecord
from dmcp_deploy.data.input_record import InputRecord
from dmcp_deploy.plan import ChannelPlan
from dmcp_deploy.rundir.request import RunRequest
from dmcp_deploy.rundir.stages import Stage
from dmcp_deploy.runtimes.engine_record import EngineRecord


class Judged(Enum):
    """Which network of a run an accuracy is of, and at which size; the value is how it is shown."""

    SEARCHED = "full network after the search"
    SLICED = "pruned, before its training"
    TRAINED = "pruned, trained"
    DEPLOYED = "pruned, trained, at the deployed size"


class Forms(Enum):
    """Which two forms of a network were compared; the value is how it is shown."""

    SLICED = "sliced network and supernet at its widths"
    PRUNED = "pruned ONNX file and torch"
    ORIGINAL = "original ONNX file and torch"
    CONVERTED = "{precision} ONNX file and torch"


@dataclass(frozen=True)
class Accuracy:
    """A network's accuracy on the validation images.

    Attributes:
        network: Which network, at which point of the run.
        top1: In [0, 1].
        loss: Cross entropy.
        images: Images it was taken on.
        image_size: Their side in pixels; "32x96", height and width, where they are oblong.
    """

    network: Judged
    top1: float
    loss: float
    images: int
    image_size: int | str


@dataclass(frozen=True)
class Parity:
    """How far one form of the network is from the one it was made of.

    Attributes:
        forms: Which forms were compared.
        precision: What an ONNX file was converted to; None for the others.
        max_abs: Largest difference of two logits.
        max_rel: That, in units of the largest logit.
        top1_agreement: Share of the images on which both give the same answer.
        snr_db: Signal-to-noise ratio of the logits; None where it was not taken.
        top1: Accuracy of the form in [0, 1]; None where it was not taken.
        images: Images the accuracy was taken on.
    """

    forms: Forms
    precision: str | None
    max_abs: float
    max_rel: float
    top1_agreement: float
    snr_db: float | None = field(default=None, metadata=LATER)
    top1: float | None = field(default=None, metadata=LATER)
    images: int | None = field(default=None, metadata=LATER)

    @property
    def what(self) -> str:
        """The forms in words."""
        return self.forms.value.format(precision=self.precision)


@dataclass(frozen=True)
class Search:
    """What a search tells beside its plan.

    Attributes:
        expected_macs: Expected multiply-adds at its end; None for a method without them.
        probabilities: For every searched group the probability to keep each step, given that
            the step before is kept.
        groups: The names of those groups.
        kept_at: Steps at which it was told what each group was expected to keep.
        kept: Group -> the share of its channels, in [0, 1], at each of these steps.
    """

    expected_macs: int | None
    probabilities: tuple[tuple[float, ...], ...]
    groups: tuple[str, ...]
    kept_at: tuple[int, ...] = ()
    kept: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Lack:
    """A part that a run does not have yet.

    Attributes:
        what: What is missing, in one sentence.
        command: What makes it.
    """

    what: str
    command: str


@dataclass(frozen=True)
class RunFacts:
    """A run, as far as it has come.

    Attributes:
        name: What the run is called in the report; no two runs share it.
        path: Its directory, as it was given.
        request: What was asked of it.
        versions: Library -> version, of its last stage.
        stage_seconds: Stage -> how long it took, for the stages done.
        fed: What its networks are fed with; None in a run of an older release.
        plan: The channel plan; None before the end of the search.
        search: What else the search found; None before its end.
        search_steps: Figures of every step of the search.
        train_steps: Figures of every step of the training.
        accuracies: In the order in which they were taken.
        majority_share: Accuracy of always giving the most frequent class.
        parities: In the order in which they were taken.
        unjudged: Precision -> why it has no parity.
        bench: The latency record; None before the measurement.
        layers: The layers record; None if the layers were not measured.
        engines: Those recorded whose files lie here.
        certificate: How the plan keeps its budget in time; None before it was decoded.
        commands: What makes the run again, in order.
        lacks: Part of the report -> what it lacks.
        stale: Stages done on files that have been replaced since.
    """

    name: str
    path: Path
    request: RunRequest
    versions: Mapping[str, str]
    stage_seconds: Mapping[Stage, float]
    fed: InputRecord | None
    plan: ChannelPlan | None
    search: Search | None
    search_steps: tuple[Mapping[str, Any], ...]
    train_steps: tuple[Mapping[str, Any], ...]
    accuracies: tuple[Accuracy, ...]
    majority_share: float | None
    parities: tuple[Parity, ...]
    unjudged: Mapping[str, str]
    bench: BenchRecord | None
    layers: LayersRecord | None
    engines: tuple[EngineRecord, ...]
    certificate: Certificate | None
    commands: tuple[str, ...]
    lacks: Mapping[str, Lack]
    stale: tuple[Stage, ...]

    def accuracy(self, network: Judged) -> Accuracy | None:
        """Returns a network's accuracy; None where it was not taken."""
        return next((item for item in self.accuracies if item.network is network), None)

    @property
    def final_accuracy(self) -> Accuracy | None:
        """The trained network's accuracy, at the deployed size where it was taken there."""
        return self.accuracy(Judged.DEPLOYED) or self.accuracy(Judged.TRAINED)
