"""The data room's face: real images by name or folder, and reproducible batches of them.

`open_data` reads names and labels alone; pictures are decoded at their first use.
"""

from __future__ import annotations

from dmcp_deploy.training.augment import MEAN, STD
from dmcp_deploy.training.data_sources import ImageSource
from dmcp_deploy.training.data_types import Batch, ImageData, crops_of_views
from dmcp_deploy.training.datasets import open_data
from dmcp_deploy.training.loader import eval_batches, steps_per_epoch, train_batches

__all__ = [
    "MEAN",
    "STD",
    "Batch",
    "ImageData",
    "ImageSource",
    "crops_of_views",
    "eval_batches",
    "open_data",
    "steps_per_epoch",
    "train_batches",
]
