"""What was asked of a run, as its record keeps it; torch-free."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dmcp_deploy.artifact import MisstatedError, decode, encode
from dmcp_deploy.data.preprocessing import PictureConventions
from dmcp_deploy.options.declare import later_fields, option, recorded
from dmcp_deploy.options.measure import Setting
from dmcp_deploy.options.run import Budgets, RunSettings
from dmcp_deploy.plan import NetworkSpec


@dataclass(frozen=True, kw_only=True)
class RunRequest(RunSettings):
    """What was asked of a run: all that its result depends on.

    Of the settings, `align`, `data`, `precision` and `weights` are filled in: the data's name,
    "fp32" or "bf16", the path of the weights.

    Attributes:
        network: The full network.
        budget: The FLOPs budget as text; None if there is none.
        data_digest: What the data looked like at the start.
        weights_digest: SHA-256 of the weights' file; None if there is none.
        recipe: Hyper-parameters, as JSON.
        contiguous: Whether the network needs contiguous memory; else its channels come last.
        pictures: How the weights want pictures; None for ImageNet's usual way.
        latency: The budget in time as text.
        params: The budget in parameters as text.
        weight_bytes: The budget in bytes of weights as text.
        weight_precision: What that counts weights in; None for FP32.
        target: What the budget in time is for.
        table_digest: SHA-256 of the latency table that tells the time.
    """

    network: NetworkSpec
    budget: str | None
    data_digest: str
    weights_digest: str | None
    recipe: Mapping[str, Any]
    contiguous: bool = option(False, later=True, help="Needs contiguous memory.")
    pictures: PictureConventions | None = option(None, later=True, help="As the weights want them.")
    latency: str | None = option(None, later=True, help="Budget in time.")
    params: str | None = option(None, later=True, help="Budget in parameters.")
    weight_bytes: str | None = option(None, later=True, help="Budget in bytes of weights.")
    weight_precision: str | None = option(None, later=True, help="Of the budget in bytes.")
    target: Setting | None = option(None, later=True, help="What the budget in time is for.")
    table_digest: str | None = option(None, later=True, help="Of the latency table.")

    @property
    def budgets(self) -> str:
        """The budgets in words: "211M and 25 ms"."""
        params = self.params and f"{self.params} of the parameters"
        time = self.latency and f"{self.latency} of time"
        weights = self.weight_bytes and f"{self.weight_bytes} of the weights' bytes"
        return " and ".join(filter(None, [self.budget, time, params, weights]))

    def to_json(self) -> dict[str, Any]:
        """Returns the request as JSON values; what older runs lack is left out at its default."""
        return {
            **{name: encode(value) for name, value in recorded(self).items()},
            "recipe": dict(self.recipe),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> RunRequest:
        """Returns the request that `to_json` wrote.

        Raises:
            MisstatedError: A field is missing, unknown or of another type.
        """
        unknown = content.keys() - {field.name for field in dataclasses.fields(cls)}
        for name in unknown:
            raise MisstatedError((name,), f": {content[name]!r} (no release has it)")
        return decode(cls, {**later_fields(cls), **content})

    def token(self) -> str:
        """Returns what identifies the run in its checkpoints."""
        text = json.dumps(self.to_json(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def shared(self) -> RunRequest:
        """Returns the request without what the first stage of a search does not depend on."""
        own = {"name", "train", "finish_share", "ema_decay", "dropout", "own_fan_in"}
        own |= {"sample_schedule", "random_end", "alpha_lr_end"}
        recipe = {key: value for key, value in self.recipe.items() if key not in own}
        unset = ("latency", "params", "weight_bytes", "weight_precision", "target", "table_digest")
        free: dict[str, Any] = {**dict.fromkeys(unset), "budget": "", "sampling": "", "init": ""}
        return dataclasses.replace(self, **free, distill=False, recipe=recipe)

    def difference(self, other: RunRequest) -> str | None:
        """Returns the first value in which another request differs, as "name: a, b"; or None.

        Where the data lies is none: of equal digests it is the same data.
        """
        if self.data_digest == other.data_digest:
            other = dataclasses.replace(other, data=self.data)
        both = ({**later_fields(RunRequest), **request.to_json()} for request in (self, other))
        mine, theirs = (dict(_leaves("", content)) for content in both)
        for name in {**mine, **theirs}:
            if mine.get(name) != theirs.get(name):
                asked = _brief(theirs.get(name))
                return f"{name}: {_brief(mine.get(name))} there, {asked} asked for"
        return None


def budget_fields(budgets: Budgets) -> dict[str, Any]:
    """Returns the fields of a request that tell its budgets."""
    texts = budgets.texts()
    return {"budget": texts.pop("flops"), **texts}


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
