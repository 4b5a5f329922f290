"""Hyper-parameters of search and training; torch-free."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmcp_deploy.artifact import decode, encode, well_formed
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.options.declare import declared
from dmcp_deploy.options.run import RunOptions, Target
from dmcp_deploy.registry import near_matches

TRANSITIONS = ("exp", "sigmoid")
SAMPLE_SCHEDULES = ("one", "all")
#: See `data.types.ImageData`; "views" is "imagenet" where the device makes the crops.
AUGMENTATIONS = ("imagenet", "crop", "shift", "turns", "none")
#: See `data.preprocessing.Preprocessing`.
RESIZINGS = ("crop", "squash")


def _check(
    part: object,
    name: str,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
    below: float = math.inf,
) -> None:
    value = getattr(part, name)
    if least <= value <= most and above < value < below:
        return
    limits = {"at least": least, "above": above, "at most": most, "below": below}
    stated = [f"{word} {limit:g}" for word, limit in limits.items() if math.isfinite(limit)]
    raise DmcpError(f"The recipe field {name!r} is {value!r} and must be {' and '.join(stated)}.")


def _check_choice(part: object, name: str, choices: tuple[str, ...]) -> None:
    value = getattr(part, name)
    if value not in choices:
        raise DmcpError(
            f"The recipe field {name!r} is {value!r} and must be one of {', '.join(choices)}."
        )


@dataclass(frozen=True)
class Schedule:
    """SGD with warm-up and cosine decay; a value out of its range raises DmcpError.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images per step and process.
        lr_start: Learning rate of the first step.
        lr: Learning rate after the warm-up.
        lr_end: Learning rate of the last step.
        warmup: Share of the steps that warms up, in [0, 1).
        weight_decay: L2 penalty on weights of convolution and linear layers; none on
            normalisation and biases.
    """

    epochs: float
    batch_size: int
    lr_start: float
    lr: float
    lr_end: float
    warmup: float
    weight_decay: float

    def __post_init__(self) -> None:
        _check(self, "epochs", above=0)
        _check(self, "batch_size", least=1)
        for name in ("lr_start", "lr", "lr_end", "weight_decay"):
            _check(self, name, least=0)
        _check(self, "warmup", least=0, below=1)

    def lr_at(self, step: int, steps: int) -> float:
        """Returns the learning rate of a step in 0..steps-1."""
        warmup = round(self.warmup * steps)
        if step < warmup:
            return self.lr_start + (self.lr - self.lr_start) * step / warmup
        done = (step - warmup) / max(1, steps - 1 - warmup)
        return self.lr_end + (self.lr - self.lr_end) * (1 + math.cos(math.pi * done)) / 2


@dataclass(frozen=True)
class Recipe:
    """All that a run's training needs beside network, data, budget and seed.

    A value out of its range raises DmcpError.

    Attributes:
        name: What the recipe is called.
        search: Schedule of the supernet's weights over both stages.
        train: Schedule of the pruned network.
        label_smoothing: Of the hard labels.
        search_label_smoothing: Of the hard labels in a search; None for the same.
        architecture_share: Share of the search's steps that is stage 2.
        alpha_lr: Learning rate of the architecture parameters at the start of stage 2.
        alpha_lr_end: The same at its end, reached by a cosine.
        budget_weight: Weight of the budget loss in stage 2.
        transition: How alphas become probabilities: "exp", which starts at the full network, or
            "sigmoid", which starts with every probability at a half.
        random_networks: Random sub-networks per sandwich step.
        sample_schedule: Which of them are scheduled in stage 2: drawn uniformly with a probability
            that decays from 1, else from the Markov process. "one" is the first, the others always
            come from the process; "all" is all of them.
        random_end: That probability at the end of stage 2; it decays by the same factor in each
            step. Two factors of 0.9999 in 10 steps, over 20 epochs of ImageNet, come to 0.37.
        candidates: Networks compared by Markov sampling, those drawn nearest to the budget.
        population: Plans in a generation of MetaPruning.
        generations: Generations of MetaPruning.
        episodes: Episodes of AMC.
        warmup_episodes: The first of them, whose plans are random.
        held_out_images: Training images held out to judge plans by, at most (AMC, AutoSlim,
            MetaPruning).
        reconstruction_images: Training images that AMC refits weights on, at most.
        recalibration_batches: Training batches behind every batch-norm recalibration.
        min_width: Narrowest width multiplier of the search space.
        width_step: Step of the search space as a width multiplier.
        train_size: Side of the training images in pixels; None for the deployed size.
        finish_share: Share of the pruned network's last steps that trains at the deployed size,
            where train_size is another one.
        ema_decay: Decay of the moving average of the pruned network's weights that takes their
            place in the end; 0 for the weights of the last step themselves.
        dropout: Whether the network's dropout acts in the training of the pruned network.
        search_dropout: Whether it acts in the search.
        augmentation: How training images are changed at random, one of
            `AUGMENTATIONS`; None for the data's own way.
        resizing: What evaluation, and the deployed network, sees of a picture: "crop", its middle,
            or "squash", all of it; None for the data's own way.
        color_jitter: How much training images change at random in brightness, contrast,
            saturation and hue; empty for not at all.
        own_fan_in: Whether random weights of the pruned network are scaled to the inputs that its
            filters read; else they are those of the full network.
    """

    name: str
    search: Schedule
    train: Schedule
    label_smoothing: float = 0.1
    search_label_smoothing: float | None = None
    architecture_share: float = 0.5
    alpha_lr: float = 0.5
    alpha_lr_end: float = 0.0
    budget_weight: float = 0.1
    transition: str = "exp"
    random_networks: int = 2
    sample_schedule: str = "one"
    random_end: float = 0.37
    candidates: int = 32
    population: int = 50
    generations: int = 20
    episodes: int = 100
    warmup_episodes: int = 25
    held_out_images: int = 1024
    reconstruction_images: int = 1024
    recalibration_batches: int = 16
    min_width: float = 0.1
    width_step: float = 0.1
    train_size: int | None = None
    finish_share: float = 0.0
    ema_decay: float = 0.0
    dropout: bool = True
    search_dropout: bool = False
    augmentation: str | None = None
    resizing: str | None = None
    color_jitter: tuple[float, ...] = ()
    own_fan_in: bool = True

    def __post_init__(self) -> None:
        for name in ("alpha_lr", "alpha_lr_end", "budget_weight", "random_networks"):
            _check(self, name, least=0)
        for name in ("label_smoothing", "ema_decay", "min_width"):
            _check(self, name, least=0, below=1)
        if self.search_label_smoothing is not None:
            _check(self, "search_label_smoothing", least=0, below=1)
        for name in ("architecture_share", "finish_share", "random_end"):
            _check(self, name, least=0, most=1)
        for name in ("candidates", "population", "generations", "episodes"):
            _check(self, name, least=1)
        for name in ("reconstruction_images", "recalibration_batches"):
            _check(self, name, least=1)
        _check(self, "warmup_episodes", least=1, most=self.episodes)
        _check(self, "held_out_images", least=2)
        _check(self, "width_step", above=0, most=1)
        _check_choice(self, "transition", TRANSITIONS)
        _check_choice(self, "sample_schedule", SAMPLE_SCHEDULES)
        if self.augmentation is not None:
            _check_choice(self, "augmentation", AUGMENTATIONS)
        if self.resizing is not None:
            _check_choice(self, "resizing", RESIZINGS)
        if self.color_jitter and not _is_jitter(self.color_jitter):
            raise DmcpError(
                f"The recipe field 'color_jitter' is {list(self.color_jitter)} and must be four"
                " numbers, brightness, contrast and saturation from 0 to 1 and hue from 0 to 0.5,"
                " or []."
            )

    @property
    def smoothing_in_search(self) -> float:
        """The label smoothing of a search."""
        searched = self.search_label_smoothing
        return self.label_smoothing if searched is None else searched

    def alpha_lr_at(self, done: float) -> float:
        """Returns the learning rate of the alphas where a share of stage 2 is done."""
        drop = self.alpha_lr - self.alpha_lr_end
        return self.alpha_lr_end + drop * (1 + math.cos(math.pi * done)) / 2

    def random_chance(self, place: int, done: float) -> float:
        """Returns with which probability a random network of stage 2 is drawn uniformly.

        Args:
            place: Of the network among the random ones of a step.
            done: The share of stage 2 that is done, in [0, 1].
        """
        is_scheduled = place == 0 or self.sample_schedule == "all"
        return float(self.random_end**done) if is_scheduled else 0.0


def _is_jitter(amounts: tuple[float, ...]) -> bool:
    return len(amounts) == 4 and all(0 <= a <= 1 for a in amounts) and amounts[3] <= 0.5


_RELEASE_JITTER = (0.2, 0.2, 0.2, 0.1)

#: Recipes by name. The ImageNet ones have the numbers of the DMCP authors' release, and of AMC's;
#: docs/dmcp.md lists in what they differ. Warm-ups there are of 1000 and of 1250 steps, an epoch
#: of ImageNet's 1,281,167 images at 512 in a step is 2502 steps.
RECIPES = {
    "demo": Recipe(
        name="demo",
        search=Schedule(2, 32, 0.01, 0.05, 0.01, 0.1, 4e-5),
        train=Schedule(7, 32, 0.005, 0.05, 0.002, 0.15, 4e-5),
        population=16,
        generations=5,
        train_size=96,
        finish_share=0.06,
    ),
    "small": Recipe(
        name="small",
        search=Schedule(20, 64, 0.02, 0.1, 0.02, 0.05, 1e-4),
        train=Schedule(40, 64, 0.02, 0.1, 0.0, 0.05, 1e-4),
    ),
    "imagenet-mobilenet": Recipe(
        name="imagenet-mobilenet",
        search=Schedule(40, 64, 0.2, 0.5, 0.08, 0.01, 4e-5),
        train=Schedule(250, 64, 0.2, 0.8, 0.0, 0.002, 4e-5),
        dropout=False,
        color_jitter=_RELEASE_JITTER,
        sample_schedule="all",
        recalibration_batches=100,
        episodes=800,
        warmup_episodes=100,
        held_out_images=3000,
        reconstruction_images=3000,
    ),
    "imagenet-resnet": Recipe(
        name="imagenet-resnet",
        search=Schedule(40, 64, 0.5, 0.5, 0.08, 0.0, 1e-4),
        train=Schedule(100, 64, 0.2, 0.8, 0.0, 0.005, 1e-4),
        dropout=False,
        color_jitter=_RELEASE_JITTER,
        search_label_smoothing=0.0,
        sample_schedule="all",
        recalibration_batches=100,
        episodes=800,
        warmup_episodes=100,
        held_out_images=3000,
        reconstruction_images=3000,
    ),
}

#: Options of a run that a recipe file may set under "run".
RUN_OPTIONS = tuple(
    item.name for kind in (Target, RunOptions) for item in declared(kind) if item.about.in_recipe
)

#: Fields that the recipes of older runs lack, with what they stand for there.
_ADDED: dict[str, Any] = {
    "ema_decay": 0.0,
    "dropout": True,
    "search_dropout": True,
    "augmentation": None,
    "resizing": None,
    "color_jitter": [],
    "own_fan_in": False,
    "search_label_smoothing": None,
    "alpha_lr_end": 0.0,
    "sample_schedule": "one",
    "random_end": 1.0,
}


def load_recipe(name: str) -> Recipe:
    """Returns a recipe by its name, or from a JSON file with the fields of `Recipe`.

    A file may name one of `RECIPES` that it starts from as "base" ("small" if it names none) and
    state only what differs.

    Raises:
        DmcpError: There is no such recipe or file, or a field is unknown or of a wrong type.
    """
    if name in RECIPES:
        return RECIPES[name]
    fields = _read(name)
    fields.pop("run", None)
    return _recipe_from(fields, Path(name))


def recipe_run(name: str) -> dict[str, Any]:
    """Returns what a recipe file says of the run itself: model, budget and the like, by option.

    Raises:
        DmcpError: There is no such recipe or file, or it sets an option that is none of a run's.
    """
    run = {} if name in RECIPES else _read(name).get("run", {})
    if not isinstance(run, dict):
        raise DmcpError(f"The recipe {name} must have an object as its run, not {run!r}.")
    for key in run:
        if key not in RUN_OPTIONS:
            raise DmcpError(
                f"The recipe {name} sets {key!r} of the run: it may set"
                f" {', '.join(RUN_OPTIONS)}{near_matches(key, RUN_OPTIONS)}"
            )
    return run


def recipe_to_json(recipe: Recipe) -> dict[str, Any]:
    """Returns a recipe as JSON values; what older runs lack is left out at its default."""
    fields = encode(recipe)
    return {k: v for k, v in fields.items() if k not in _ADDED or v != _ADDED[k]}


def recipe_from_json(content: dict[str, Any]) -> Recipe:
    """Returns the recipe that `recipe_to_json` wrote, also in an older release."""
    return _recipe_from({**_ADDED, **content}, Path("run.json"))


def _read(name: str) -> dict[str, Any]:
    path = Path(name)
    if not path.is_file():
        raise DmcpError(
            f"There is no recipe {name!r}: name one of {', '.join(RECIPES)}, or a JSON file"
            f"{near_matches(name, RECIPES)}"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise DmcpError(f"The recipe {path} cannot be read as JSON: {err}.") from err
    if not isinstance(content, dict):
        raise DmcpError(f"The recipe {path} must be a JSON object.")
    return content


def _recipe_from(content: dict[str, Any], path: Path) -> Recipe:
    fields = dict(content)
    name = fields.pop("base", "small")
    if not isinstance(name, str) or name not in RECIPES:
        raise DmcpError(
            f"The recipe {path} starts from {name!r}: its base must be one of {', '.join(RECIPES)}."
        )
    fields.setdefault("name", path.stem)
    with well_formed(f"The recipe {path}"):
        return decode(Recipe, _merged(encode(RECIPES[name]), fields, path))


def _merged(base: dict[str, Any], fields: Any, path: Path) -> dict[str, Any]:
    """Returns a recipe's fields, or those of a part of it, with some of them replaced."""
    if not isinstance(fields, dict):
        raise DmcpError(f"The recipe {path} needs an object in place of {fields!r}.")
    for key in fields:
        if key not in base:
            raise DmcpError(f"The recipe {path} has no field {key!r}{near_matches(key, base)}")
    parts = {k: _merged(base[k], v, path) for k, v in fields.items() if isinstance(base[k], dict)}
    return {**base, **fields, **parts}
