"""The range of a data set's pictures, found once: all are scaled by one factor."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import torch

from dmcp_deploy.data.deep import Extremes, common_range, extremes
from dmcp_deploy.data.sources import UNREADABLE, PictureImages
from dmcp_deploy.data.types import ImageData
from dmcp_deploy.errors import DmcpError, reason_of
from dmcp_deploy.machine.state import usable_cores

#: Pictures of each split that are looked at, from all over it.
SAMPLED = 128


def with_range(data: ImageData) -> ImageData:
    """Returns a data set whose pictures of more than 8 bits become 8 bits by one factor.

    It is found from the same pictures at every call, and told in the data's note.

    Raises:
        DmcpError: They are of a range that is not understood, or not numbers.
    """
    sources = [each for each in (data.train, data.val) if isinstance(each, PictureImages)]
    with ThreadPoolExecutor(min(8, usable_cores())) as pool:
        ranges = list(pool.map(lambda place: _extremes(*place), _sample(sources)))
    known = common_range((item for item in ranges if item is not None), data.name)
    if known is None:
        return data
    for source in sources:
        source.deep = known
    how = replace(data.train.preprocessing, white=known.white)
    note = f"{data.note.removesuffix('.')}; {known.kind}, white at {known.white:g}."
    return replace(data.prepared(how), note=note)


def _sample(sources: list[PictureImages]) -> Iterator[tuple[PictureImages, int]]:
    for source in sources:
        count = min(SAMPLED, len(source))
        for index in torch.linspace(0, len(source) - 1, count).long().tolist():
            yield source, index


def _extremes(source: PictureImages, index: int) -> Extremes | None:
    try:
        with source.open(index) as picture:
            return extremes(picture)
    except ValueError as err:
        where = source.where(index)
        raise DmcpError(
            f"The picture {where} cannot be used ({reason_of(err)}): replace it, or take it out of"
            " the data."
        ) from err
    except UNREADABLE:
        return None  # told by its name when all are read
