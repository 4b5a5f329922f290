"""Options -> a run's request, with the defaults, the recipe and the data filled in."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

from dmcp_deploy.artifact import digest_file
from dmcp_deploy.data.datasets import open_data
from dmcp_deploy.errors import DmcpError, reason_of
from dmcp_deploy.options.declare import shared_fields
from dmcp_deploy.options.run import DEFAULT_DATA, Compute, RunOptions, RunSettings
from dmcp_deploy.plan import NetworkSpec
from dmcp_deploy.progress import Progress
from dmcp_deploy.rundir.directory import RunDir
from dmcp_deploy.rundir.request import RunRequest
from dmcp_deploy.training.precision import choose_precision
from dmcp_deploy.training.recipe import Recipe, load_recipe, recipe_to_json
from dmcp_deploy.units import parse_budget


def make_request(model: str, flops: str, options: RunOptions, compute: Compute) -> RunRequest:
    """Returns the request that a run records, with the defaults and the data filled in.

    Raises:
        DmcpError: The budget, the recipe, the data, the weights file or the device is not there
            or not understood.
    """
    parse_budget(flops)
    recipe = _recipe(options)
    precision = choose_precision(compute.device, options.precision)
    weights, weights_digest = _weights(options.weights)
    data = open_data(options.data, progress=compute.progress)
    if options.data is None:
        _explain_default(compute.progress)  # type: ignore[arg-type]  # Progress is hashable
    compute.progress.say(f"Data: {data.note}")
    spec = NetworkSpec.asked(model, options, len(data.classes))
    if spec.input_shape[0] < data.train.channels:
        compute.progress.say(
            "The input has one channel: pictures in colour are read as grey, 0.299 red + 0.587"
            " green + 0.114 blue"
        )
    filled_in = {
        "data": data.name,
        "weights": weights,
        "precision": "bf16" if precision.bf16 else "fp32",
    }
    return RunRequest(
        **{**shared_fields(RunSettings, options), **filled_in},
        network=spec,
        budget=flops,
        data_digest=data.digest,
        weights_digest=weights_digest,
        recipe=recipe_to_json(recipe),
    )


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


def _weights(source: str | None) -> tuple[str | None, str | None]:
    """Returns where weights come from, and the digest of the file."""
    if source is None or source == "imagenet":
        return source, None
    path = Path(source).resolve()
    if not path.is_file():
        raise DmcpError(f"There is no weights file {path}.")
    try:
        return str(path), digest_file(path)
    except OSError as err:
        raise DmcpError(f"Cannot read {path}: {reason_of(err)}.") from err
