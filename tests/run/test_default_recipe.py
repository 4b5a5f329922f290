"""The recipe of a run that names none and brings no data of its own."""

from __future__ import annotations

import pytest
from tiny_runs import MODEL

from dmcp_deploy.data.noise import noise
from dmcp_deploy.options.run import Budgets, Compute, RunOptions
from dmcp_deploy.run.resolve import make_request


@pytest.mark.parametrize(
    ("side", "asked", "trained"), [(32, None, None), (128, None, 96), (32, 48, 48)]
)
def test_images_are_not_enlarged_to_train_on(
    side: int, asked: int | None, trained: int | None
) -> None:
    options = RunOptions(input_size=side, train_size=asked)
    made = make_request(
        MODEL, Budgets("50%"), options, Compute(device="cpu"), images=noise(2, 3, count=64)
    )
    assert made.recipe["name"] == "demo"
    assert made.recipe["train_size"] == trained
