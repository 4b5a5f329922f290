"""The data of a run: its training, validation and calibration images, batch by batch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dmcp_deploy.data.datasets import open_data
from dmcp_deploy.data.input_record import InputRecord
from dmcp_deploy.data.loader import eval_batches, train_batches
from dmcp_deploy.data.preprocessing import PAD
from dmcp_deploy.data.seeds import step_seed
from dmcp_deploy.data.size import Size, scaled_size
from dmcp_deploy.data.types import Batch, ImageData, crops_of_views
from dmcp_deploy.data.workers import fits_shared_memory
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.options.run import Compute
from dmcp_deploy.rundir.directory import RunDir
from dmcp_deploy.rundir.request import RunRequest
from dmcp_deploy.training.distributed import is_main, rank, world_size
from dmcp_deploy.training.recipe import Recipe, Schedule
from dmcp_deploy.units import format_bytes

EVAL_BATCH = 64

_PROOF_IMAGES = 8

#: Where white lies in pictures that releases before this one have read as they are.
_READ_BEFORE = (255, 2**16 - 1)


@dataclass(frozen=True)
class RunData:
    """A run's images, in the sizes and the order that the run wants them in.

    Attributes:
        images: The data set.
        recipe: Hyper-parameters: batch sizes and training size.
        deployed_size: Height and width of the deployed input in pixels.
        seed: The seed of all orders.
        workers: Processes that load images.
        device: Where training batches are made ready.
        validated: Validation images looked at: all of them, or one batch in a trial.
    """

    images: ImageData
    recipe: Recipe
    deployed_size: Size
    seed: int
    workers: int
    device: torch.device
    validated: int

    @property
    def image_size(self) -> Size:
        """Height and width of the training images in pixels."""
        return scaled_size(self.deployed_size, self.recipe.train_size)

    @property
    def fed(self) -> InputRecord:
        """What the deployed network is fed with."""
        how = self.images.val.preprocessing
        return InputRecord.make(how, (how.channels, *self.deployed_size), self.images.classes)

    def workers_note(self) -> str | None:
        """Returns what is to be said of workers where there is little shared memory; or None."""
        if not self.workers:
            return None
        images = max(self.recipe.search.batch_size, self.recipe.train.batch_size)
        size = 4 * images * self.images.train.preprocessing.channels * math.prod(self.image_size)
        if fits_shared_memory(size, self.workers):
            return None
        return (
            f"/dev/shm has too little room for the batches of {self.workers} workers"
            f" ({format_bytes(size)} each): they come through pipes, which takes longer; a"
            " container has more with docker run --shm-size"
        )

    def batches(self, schedule: Schedule, start: int, steps: int, purpose: str) -> Iterator[Batch]:
        """Returns training batches from one step on, in an order of their own per purpose."""
        return self._sized_batches(self.image_size, schedule, start, steps, purpose)

    def training_batches(self, start: int, steps: int) -> Iterator[Batch]:
        """Returns the pruned network's batches; the last of them come at the deployed size."""
        turn = steps
        if self.image_size != self.deployed_size:
            turn -= round(self.recipe.finish_share * steps)
        schedule = self.recipe.train
        if start < turn:
            yield from self._sized_batches(self.image_size, schedule, start, turn, "train")
        if turn < steps:
            first = max(start, turn)
            yield from self._sized_batches(self.deployed_size, schedule, first, steps, "train")

    def validation_batches(
        self, image_size: Size, first: int = 0, step: int = 1, device: torch.device | None = None
    ) -> Iterator[Batch]:
        """Returns every `step`-th validation batch from `first` on, always the same."""
        return eval_batches(
            self.images.val,
            image_size=image_size,
            batch_size=EVAL_BATCH,
            workers=self.workers,
            limit=self.validated,
            rank=first,
            world=step,
            device=device,
        )

    def validation_arrays(self) -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]]:
        """Yields the validation images at the deployed size, and their labels, as arrays."""
        for batch in self.validation_batches(self.deployed_size):
            yield batch.images.contiguous().numpy(), batch.labels.numpy()

    def calibration_images(self, count: int) -> Tensor:
        """Returns training images as they are deployed, unchanged, [count, C, H, W].

        They are a fixed choice from all over the training images; fewer where there are not
        that many.
        """
        batches = eval_batches(
            self.images.train,
            image_size=self.deployed_size,
            batch_size=EVAL_BATCH,
            workers=self.workers,
            limit=count,
        )
        return torch.cat([batch.images for batch in batches]).contiguous()

    def proof_images(self) -> Tensor:
        """Returns a few validation images at the deployed size, [8, C, H, W], on the CPU."""
        batches = eval_batches(
            self.images.val,
            image_size=self.deployed_size,
            batch_size=_PROOF_IMAGES,
            limit=_PROOF_IMAGES,
        )
        return next(batches).images

    def _sized_batches(
        self, image_size: Size, schedule: Schedule, start: int, steps: int, purpose: str
    ) -> Iterator[Batch]:
        return train_batches(
            self.images,
            image_size=image_size,
            batch_size=schedule.batch_size,
            seed=step_seed(self.seed, 0, f"{purpose} data"),
            start_step=start,
            steps=steps - start,
            workers=self.workers,
            rank=rank(),
            world=world_size(),
            device=self.device,
        )


def open_run_data(
    request: RunRequest,
    recipe: Recipe,
    compute: Compute,
    device: torch.device,
    run: RunDir,
    images: ImageData | None = None,
) -> RunData:
    """Returns the data of a run, once it is seen to be what the run was begun on.

    Args:
        request: What is asked of the run.
        recipe: Its hyper-parameters.
        compute: How it is computed.
        device: Where training batches are made ready.
        run: The run directory.
        images: The data where it is open already.

    Raises:
        DmcpError: The data is missing, or has changed since.
    """
    images = images or _unchanged_images(request, compute, run)
    images = images_for(_as_chosen(images, recipe), request)
    count = len(images.val)
    return RunData(
        images=images,
        recipe=recipe,
        deployed_size=request.network.input_shape[1:],
        seed=request.seed,
        workers=compute.workers,
        device=device,
        validated=count if request.max_steps is None else min(EVAL_BATCH, count),
    )


def note_data(data: RunData, run: RunDir) -> None:
    """Records in a run that is begun where its data lies, and what its networks are fed with."""
    if is_main() and run.is_begun():
        run.note(data.images.name, data.fed)


def _as_chosen(images: ImageData, recipe: Recipe) -> ImageData:
    """Returns a data set with its pictures resized and changed at random as a recipe chooses.

    Raises:
        DmcpError: They are not resized at all.
    """
    kind = recipe.augmentation or images.augmentation
    images = replace(images, augmentation=kind, color_jitter=recipe.color_jitter)
    if recipe.resizing is None:
        return images
    how = images.train.preprocessing
    if how.resizing == PAD:
        raise DmcpError(
            f"The recipe field 'resizing' is {recipe.resizing!r}, and the pictures of {images.name}"
            " come at a size of their own: leave it out."
        )
    return images.prepared(replace(how, resizing=recipe.resizing))


def images_for(images: ImageData, request: RunRequest) -> ImageData:
    """Returns a data set as a run's network wants it: its channels, and where it is augmented."""
    how = images.train.preprocessing.for_channels(request.network.input_shape[0])
    if request.pictures is not None:
        how = request.pictures.applied(how)
    images = images.prepared(how)
    return crops_of_views(images) if request.augment_on == "device" else images


def _unchanged_images(request: RunRequest, compute: Compute, run: RunDir) -> ImageData:
    """Returns the data set that a run was begun on, wherever it lies now."""
    begun = run.is_begun()
    place = compute.moved_data or (run.data_place() if begun else None) or request.data
    if begun and compute.moved_data is None:
        _check_there(str(place), run)
    images = open_data(place, progress=compute.progress)
    if images.digest != request.data_digest and images.name == request.data:
        raise DmcpError(
            f"The data {request.data} has changed since the run in {run.path} was begun: restore"
            " it, name where it lies now with --data, or choose another --out."
        )
    if images.digest != request.data_digest:
        raise DmcpError(
            f"The data {images.name} is not what the run in {run.path} was begun on"
            f" ({request.data}: other files, sizes or labels): restore it, name where it lies"
            " now with --data, or choose another --out."
        )
    if begun and run.input() is None and images.val.preprocessing.white not in _READ_BEFORE:
        raise DmcpError(
            f"The run in {run.path} was begun by a release that read its pictures as nearly black,"
            f" and white is at {images.val.preprocessing.white:g}: begin anew with another --out."
        )
    return images


def _check_there(place: str, run: RunDir) -> None:
    kind, _, path = place.partition(":")
    if kind in ("folder", "webdataset") and "://" not in path and not Path(path).exists():
        raise DmcpError(
            f"The data of the run in {run.path} is no longer at {path}: name where it lies now"
            " with --data."
        )
