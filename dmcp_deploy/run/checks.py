"""What can be found wrong with a run before any training."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from dmcp_deploy.data.layout import in_channels_last
from dmcp_deploy.data.loader import steps_per_epoch
from dmcp_deploy.data.size import Size, format_size, scaled_size
from dmcp_deploy.data.sources import ImageSource
from dmcp_deploy.data.types import ImageData
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.machine.state import usable_cores
from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.misfit import describe, runs
from dmcp_deploy.network.shape_pass import MISFITS, run_without_data
from dmcp_deploy.network.supernet import Supernet
from dmcp_deploy.network.trace import evaluating, restored
from dmcp_deploy.progress import Progress
from dmcp_deploy.training.distributed import world_size
from dmcp_deploy.training.recipe import Recipe

#: Up to so many pictures of a folder are decoded once before the start: some minutes of one core.
CHECKED_PICTURES = 20_000


def check_outputs(network: Network) -> None:
    """Checks that a network returns logits [N, classes] and nothing else.

    Raises:
        DmcpError: It returns something else; the message says what, and what to do.
    """
    returned: list[object] = []
    with evaluating(network.model), restored(network.model):
        run_without_data(lambda x: returned.append(network.model(x)), network.spec.input_shape)
    fault = _output_fault(returned[-1], network.spec.num_classes)
    if fault is not None:
        what, remedy = fault
        wanted = f"logits [N, {network.spec.num_classes}]"
        raise DmcpError(f"{network.spec.model} returns {what}, not {wanted}: {remedy}.")


def takes_channels_last(network: Network) -> bool:
    """Returns whether a network runs on images that lie in memory with their channels last.

    `x.view(n, -1)` of feature maps with more than one position needs contiguous memory. What
    fails in either order is no matter of memory.
    """
    last = in_channels_last(copy.deepcopy(network.model))
    if _runs(last, network, torch.channels_last):
        return True
    return not _runs(network.model, network, torch.contiguous_format)


def check_training(network: Network, data: ImageData, recipe: Recipe) -> None:
    """Checks that both trainings of a run can make their first step.

    Raises:
        DmcpError: The data does not fill a batch, or the network does not run on one.
    """
    deployed = network.spec.input_shape[1:]
    trained = scaled_size(deployed, recipe.train_size)
    sizes = {trained} | ({deployed} if recipe.finish_share else set())
    for schedule in (recipe.search, recipe.train):
        steps_per_epoch(data, schedule.batch_size * world_size())
        for size in sorted(sizes):
            _check_pass(network, size, schedule.batch_size)


def check_pictures(data: ImageData, progress: Progress) -> None:
    """Decodes the pictures of a user's own data once, where they are not too many.

    Raises:
        DmcpError: A picture cannot be read.
    """
    if not data.name.startswith(("folder:", "webdataset:")):
        return
    for title, source in (("check train/", data.train), ("check val/", data.val)):
        if len(source) <= CHECKED_PICTURES:
            _check_source(source, title, progress)


def _output_fault(value: object, classes: int) -> tuple[str, str] | None:
    """Returns what is wrong with what a network returns, and the remedy; None for logits."""
    alone = "wrap it in a module that returns its logits alone"
    if isinstance(value, dict):
        return f"a dict of {', '.join(map(repr, value))}", alone
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}", alone
    if not isinstance(value, Tensor):
        return f"{type(value).__name__}", alone
    shape = tuple(value.shape[1:])
    if shape == (classes,):
        return None
    what = f"a tensor [N{''.join(f', {size}' for size in shape)}]"
    if len(shape) > 1:
        return what, "end it with a mean over height and width, or wrap it in a module that does"
    return what, "let its function take num_classes, or give data of as many classes"


def _runs(model: nn.Module, network: Network, order: torch.memory_format) -> bool:
    def run(images: Tensor) -> object:
        return model(images.contiguous(memory_format=order))

    with evaluating(model), restored(model):
        return runs(run, network.spec.input_shape)


def _check_source(source: ImageSource, title: str, progress: Progress) -> None:
    with (
        ThreadPoolExecutor(min(8, usable_cores())) as pool,
        progress.task(title, len(source), unit="picture") as bar,
    ):
        for _ in pool.map(source.picture, range(len(source))):
            bar.advance()


def _check_pass(network: Network, image_size: Size, batch_size: int) -> None:
    """Runs a forward pass in training mode for its shapes alone."""
    supernet = Supernet(network)
    modes = [(module, module.training) for module in network.model.modules()]
    shape = (network.spec.input_shape[0], *image_size)

    def run(images: Tensor) -> Tensor:
        return supernet(images[:1].expand(batch_size, -1, -1, -1))  # type: ignore[no-any-return]

    supernet.train()
    try:
        run_without_data(run, shape)
    except MISFITS as err:
        raise DmcpError(
            f"{network.spec.model} does not train on batches of {batch_size} images of"
            f" {format_size(image_size)} px ({describe(err)}): choose another --train-size or"
            " --batch-size."
        ) from err
    finally:
        for module, mode in modes:
            module.training = mode
