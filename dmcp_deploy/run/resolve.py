"""Options -> a run's request, with the defaults, the recipe and the data filled in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dmcp_deploy.artifact import digest_file
from dmcp_deploy.data.datasets import open_data
from dmcp_deploy.data.types import ImageData
from dmcp_deploy.errors import DmcpError, reason_of
from dmcp_deploy.network.models import build_network, check_model
from dmcp_deploy.options.declare import shared_fields
from dmcp_deploy.options.run import Compute, RunOptions, RunSettings
from dmcp_deploy.plan import NetworkSpec
from dmcp_deploy.progress import Progress
from dmcp_deploy.registry import near_matches
from dmcp_deploy.run.checks import check_outputs, takes_channels_last
from dmcp_deploy.rundir.request import RunRequest
from dmcp_deploy.training.precision import choose_precision
from dmcp_deploy.training.recipe import Recipe, load_recipe, recipe_to_json
from dmcp_deploy.units import check_unit, parse_budget


def make_request(
    model: str,
    flops: str,
    options: RunOptions,
    compute: Compute,
    images: ImageData | None = None,
) -> RunRequest:
    """Returns the request that a run records, with the defaults and the data filled in.

    Args:
        model: The model's name.
        flops: The budget as text.
        options: What else is asked for.
        compute: Device and progress.
        images: The data where it is open already.

    Raises:
        DmcpError: The budget, the recipe, the data, the weights file or the device is not there
            or not understood.
    """
    check_unit(flops)
    parse_budget(flops)
    check_model(model)
    recipe = _recipe(options)
    precision = choose_precision(compute.device, options.precision)
    weights, weights_digest = _weights(options.weights)
    data = images or _opened(options.data, compute.progress)
    side = options.input_size
    spec = NetworkSpec(model, options.width_mult, len(data.classes), (3, side, side))
    network = build_network(spec, options.seed)
    check_outputs(network)
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
        contiguous=not takes_channels_last(network),
    )


def _opened(source: str | None, progress: Progress) -> ImageData:
    data = open_data(source, progress=progress)
    default = " (the default: no --data was given)" if source is None else ""
    progress.say(f"Data: {data.note}{default}")
    return data


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
        what = f"{path} is a folder" if path.is_dir() else f"There is no weights file {path}"
        raise DmcpError(
            f"{what}: give none, imagenet, or a file of weights{near_matches(source, ['imagenet'])}"
        )
    try:
        return str(path), digest_file(path)
    except OSError as err:
        raise DmcpError(f"Cannot read {path}: {reason_of(err)}.") from err
