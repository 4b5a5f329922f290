"""The stages of a run, as run.json names them."""

from __future__ import annotations


class Stage(str):
    """A stage's name in run.json: its kind, and where there are several of a kind, which one."""

    __slots__ = ()

    @classmethod
    def precision(cls, name: str) -> Stage:
        """Returns the stage that converts a run's network to a precision and judges it."""
        return cls(f"{PRECISION} {name}")

    @classmethod
    def engine(cls, file: str) -> Stage:
        """Returns the stage that builds an engine; its file is named as seen from the run."""
        return cls(f"{ENGINE} {file}")

    @property
    def kind(self) -> str:
        """What is done: "search", ..., "precision", "engine"."""
        return self.partition(" ")[0]

    @property
    def subject(self) -> str:
        """The precision, or the engine's file; "" for a stage of which there is one."""
        return self.partition(" ")[2]


WEIGHTS, SEARCH, SLICE, TRAIN, EXPORT = map(
    Stage, ("weights", "search", "slice", "train", "export")
)
CERTIFY, BENCH, LAYERS = map(Stage, ("certify", "bench", "layers"))

#: Kinds of which a run may have several.
PRECISION, ENGINE = "precision", "engine"
