"""Losses at the best scale of the logits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from dmcp_deploy.search.temperature import best_factor, scaled_cross_entropy


def made(images: int = 200, classes: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that tell something of the labels."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (images,), generator=generator)
    logits = torch.randn(images, classes, generator=generator, dtype=torch.float64)
    return logits + 1.5 * F.one_hot(labels, classes), labels


def test_no_other_factor_gives_a_lower_loss():
    logits, labels = made()
    found = scaled_cross_entropy(logits, labels)
    factors = torch.logspace(-3, 3, 4001, base=2.0, dtype=torch.float64)
    least = min(F.cross_entropy(f * logits, labels, reduction="sum") for f in factors)
    assert float(found) == pytest.approx(float(least), rel=1e-5)
    assert found < F.cross_entropy(logits, labels, reduction="sum")


@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_the_scale_of_the_logits_does_not_count(scale):
    logits, labels = made()
    assert float(best_factor(scale * logits, labels)) == pytest.approx(
        float(best_factor(logits, labels)) / scale, rel=2e-3
    )
    assert float(scaled_cross_entropy(scale * logits, labels)) == pytest.approx(
        float(scaled_cross_entropy(logits, labels)), rel=1e-5
    )


@pytest.mark.parametrize(("right", "factor"), [(True, 8.0), (False, 1 / 8)])
def test_logits_that_are_all_right_or_all_wrong_take_the_factor_at_an_end(right, factor):
    labels = torch.arange(4)
    logits = torch.eye(4) if right else torch.eye(4).roll(1, 0)
    assert float(best_factor(logits, labels)) == pytest.approx(factor, rel=2e-3)
    assert torch.isfinite(scaled_cross_entropy(logits, labels))


def test_logits_that_tell_nothing_have_the_loss_of_chance():
    labels = torch.arange(4)
    loss = scaled_cross_entropy(torch.zeros(4, 4), labels)
    assert float(loss) == pytest.approx(4 * float(torch.tensor(4.0).log()))
