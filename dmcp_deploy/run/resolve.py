"""Options -> a run's request, with the defaults, the recipe and the data filled in."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dmcp_deploy.artifact import digest_file
from dmcp_deploy.bench.tables.cache import kept_path
from dmcp_deploy.bench.tables.table import LatencyTable
from dmcp_deploy.data.datasets import open_data
from dmcp_deploy.data.preprocessing import PictureConventions
from dmcp_deploy.data.types import ImageData
from dmcp_deploy.errors import DmcpError, reason_of
from dmcp_deploy.network.conventions import Conventions, input_conventions
from dmcp_deploy.network.models import build_network, check_model
from dmcp_deploy.options.declare import shared_fields
from dmcp_deploy.options.run import DEFAULT_DATA, Budgets, Compute, RunOptions, RunSettings
from dmcp_deploy.plan import NetworkSpec
from dmcp_deploy.progress import Progress
from dmcp_deploy.registry import PRECISIONS, choose
from dmcp_deploy.run.budgets import check_texts
from dmcp_deploy.run.checks import check_outputs, takes_channels_last
from dmcp_deploy.run.target import target_table
from dmcp_deploy.rundir.directory import RunDir
from dmcp_deploy.rundir.request import RunRequest, budget_fields
from dmcp_deploy.training.precision import choose_precision
from dmcp_deploy.training.recipe import (
    RECIPES,
    Recipe,
    Schedule,
    load_recipe,
    recipe_from_json,
    recipe_to_json,
)
from dmcp_deploy.training.weight_files import split_source


def make_request(
    model: str,
    budgets: Budgets,
    options: RunOptions,
    compute: Compute,
    run: RunDir | None = None,
    images: ImageData | None = None,
    target: Mapping[str, Any] | None = None,
) -> RunRequest:
    """Returns the request that a run records, with the defaults and the data filled in.

    Args:
        model: A torchvision name, "timm:NAME" or "package.module:function".
        budgets: What a plan may cost.
        options: What else is asked for.
        compute: How it is computed.
        run: Where the run is to lie; if it was begun there, it has its weights already.
        images: The data where it is open already.
        target: Of a budget in time: fields of `Setting` that are asked for.

    Raises:
        DmcpError: A budget, the latency table, the recipe, the data, the weights file or the
            device is not there or not understood.
    """
    check_texts(budgets)
    check_model(model)
    recipe = _recipe(options)
    precision = choose_precision(compute.device, options.precision)
    earlier = run.request() if run is not None and run.is_begun() else None
    if earlier is not None and (options.recipe is None or options.recipe in RECIPES):
        recipe = _as_begun(recipe, recipe_from_json(dict(earlier.recipe)))
    weights = _given_weights(model, options.weights, earlier)
    data = images or _opened(options.data, compute.progress)
    spec = _network_spec(model, options, data, weights.conventions, compute.progress)
    if options.recipe is None and options.train_size is None:
        recipe = _within(recipe, spec.input_shape)
    network = build_network(spec, options.seed)
    check_outputs(network)
    filled_in = {
        "data": data.name,
        "precision": "bf16" if precision.bf16 else "fp32",
        **weights.fields(),
        **_budget_fields(spec, budgets, target or {}, run, compute),
    }
    return RunRequest(
        **{**shared_fields(RunSettings, options), **filled_in},
        network=spec,
        data_digest=data.digest,
        recipe=recipe_to_json(recipe),
        contiguous=not takes_channels_last(network),
    )


def _network_spec(
    model: str,
    options: RunOptions,
    data: ImageData,
    conventions: Conventions,
    progress: Progress,
) -> NetworkSpec:
    """Returns the full network for some data, and tells what its input makes of colours."""
    asked = NetworkSpec.asked(model, options, len(data.classes))
    if asked.input_shape[0] < data.train.channels:
        progress.say(
            "The input has one channel: pictures in colour are read as grey, 0.299 red + 0.587"
            " green + 0.114 blue"
        )
    return replace(asked, transform_input=conventions.transform_input)


def _budget_fields(
    spec: NetworkSpec,
    budgets: Budgets,
    asked: Mapping[str, Any],
    run: RunDir | None,
    compute: Compute,
) -> dict[str, Any]:
    """Returns the budgets with what they are for: of one in time, the target and its table."""
    fields = budget_fields(budgets)
    if budgets.weight_bytes is not None and (precision := asked.get("precision")) is not None:
        fields["weight_precision"] = choose("--latency-precision", precision, PRECISIONS)
    if budgets.latency is None:
        return fields
    given = None if budgets.table is None else Path(budgets.table)
    digest = target_table(spec, given, asked, run, compute)
    setting = LatencyTable.load(kept_path(digest)).setting
    return {**fields, "target": setting, "table_digest": digest}


def _opened(source: str | None, progress: Progress) -> ImageData:
    data = open_data(source, progress=progress)
    if source is None:
        _explain_default(progress)  # type: ignore[arg-type]  # Progress is hashable
    progress.say(f"Data: {data.note}")
    return data


@functools.lru_cache(maxsize=1)  # once, however many budgets there are
def _explain_default(progress: Progress) -> None:
    progress.say(DEFAULT_DATA)


def continued(run: RunDir, request: RunRequest, compute: Compute) -> tuple[RunRequest, Compute]:
    """Returns the request of the run that lies there, or else that of the run it takes over from.

    They may name another place of the same data, which its checkpoints are bound to.

    Raises:
        DmcpError: Another run lies there, or files that are no run.
    """
    lender = None if compute.supernet is None else RunDir(Path(compute.supernet))
    known = begun = request.data
    if run.holds(request):
        begun = run.request().data
        known = run.data_place() or begun
    elif lender is not None and lender.request().data_digest == request.data_digest:
        known = begun = lender.request().data
    moved = None if request.data == known else request.data
    return replace(request, data=begun), replace(compute, moved_data=moved)


def _recipe(options: RunOptions) -> Recipe:
    """Returns the recipe that is asked for, with what else is asked for in its place."""
    recipe = load_recipe(options.recipe or ("demo" if options.data is None else "small"))
    search, train = recipe.search, recipe.train
    if options.search_epochs is not None:
        search = replace(search, epochs=options.search_epochs)
    if options.train_epochs is not None:
        train = replace(train, epochs=options.train_epochs)
    if options.batch_size is not None:
        search, train = (replace(s, batch_size=options.batch_size) for s in (search, train))
    train_size = options.train_size or recipe.train_size
    return replace(recipe, search=search, train=train, train_size=train_size)


def _as_begun(recipe: Recipe, begun: Recipe) -> Recipe:
    """Returns a built-in recipe as the release had it that a run was begun by."""
    if recipe.name != begun.name:
        return recipe

    def schedule(asked: Schedule, then: Schedule) -> Schedule:
        return replace(then, epochs=asked.epochs, batch_size=asked.batch_size)

    search, train = schedule(recipe.search, begun.search), schedule(recipe.train, begun.train)
    return replace(begun, search=search, train=train, train_size=recipe.train_size)


@dataclass(frozen=True)
class _Weights:
    """Where a search starts from.

    Attributes:
        source: None, "imagenet", or the file.
        digest: SHA-256 of the file.
        conventions: What the weights expect.
    """

    source: str | None
    digest: str | None
    conventions: Conventions

    def fields(self) -> dict[str, Any]:
        """Returns the fields of a request that tell of them."""
        pictures = self.conventions.pictures
        return {
            "weights": self.source,
            "weights_digest": self.digest,
            "pictures": None if pictures == PictureConventions() else pictures,
        }


def _given_weights(model: str, source: str | None, earlier: RunRequest | None) -> _Weights:
    weights, digest = _weights(source, earlier)
    return _Weights(weights, digest, _conventions(model, weights, digest, earlier))


def _weights(source: str | None, earlier: RunRequest | None) -> tuple[str | None, str | None]:
    """Returns where weights come from, and the digest of the file.

    A run that was begun keeps a copy, so that the file may be gone since, or lie elsewhere.

    Args:
        source: What is asked for.
        earlier: What was asked of the run that was begun in the same place; None if none was.
    """
    if source is None or source == "imagenet":
        return source, None
    asked = _resolved(source)
    known = (None, None) if earlier is None else (earlier.weights, earlier.weights_digest)
    try:
        path, place = split_source(asked)
    except DmcpError:
        if known[0] == asked:
            return known
        raise
    try:
        digest = digest_file(path)
    except OSError as err:
        raise DmcpError(f"Cannot read {path}: {reason_of(err)}.") from err
    if known[0] == asked and known[1] != digest:
        raise DmcpError(
            f"{path} has changed since the run was begun, which goes on with its own copy (slice,"
            " train, export): choose another --out for the new weights."
        )
    same = digest == known[1] and Path(known[0] or "").name.partition(":")[2] == place
    return known if same else (asked, digest)


def _conventions(
    model: str, weights: str | None, digest: str | None, earlier: RunRequest | None
) -> Conventions:
    """Returns what weights expect, or what a run that was begun with them has taken them to."""
    if earlier is not None and (weights, digest) == (earlier.weights, earlier.weights_digest):
        pictures = earlier.pictures or PictureConventions()
        return Conventions(pictures, earlier.network.transform_input)
    return input_conventions(model, weights, digest)


def _resolved(source: str) -> str:
    """Returns the absolute path of "FILE" or "FILE:PLACE", which keeps its place."""
    return str(Path(source).resolve())


def _within(recipe: Recipe, input_shape: tuple[int, int, int]) -> Recipe:
    """Returns a recipe that does not train on larger images than the deployed ones."""
    larger = recipe.train_size is not None and recipe.train_size > min(input_shape[1:])
    return replace(recipe, train_size=None) if larger else recipe
