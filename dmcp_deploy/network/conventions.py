"""What published weights expect of their network and of pictures, beside their tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

#: The models whose published weights want pictures normalised again, which their builder then does.
_TRANSFORM_INPUT = ("googlenet", "inception_v3")

_DIGITS = 8  # of a file's SHA-256, at the end of the name that torchvision gives it


@dataclass(frozen=True)
class Conventions:
    """What weights were trained with.

    Attributes:
        mean: Of red, green and blue, of values in [0, 1].
        std: Their standard deviations.
        interpolation: How pictures are resized: "bilinear" or "bicubic".
        crop_share: What the middle crop keeps of a side, in (0, 1].
        transform_input: Whether the network itself normalises once more, from ImageNet's mean and
            deviation to 0.5 and 0.5.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_share: float
    transform_input: bool = False


def input_conventions(
    model: str, weights: str | None, digest: str | None = None
) -> Conventions | None:
    """Returns what given weights expect; None where nobody has written it down.

    A file is known where it is one that torchvision publishes for the model.

    Args:
        model: A torchvision name, "timm:NAME" or "package.module:function".
        weights: None, "imagenet" or a file.
        digest: Of the file, "sha256:<hex>".
    """
    if weights is None or (":" in model and not model.startswith("timm:")):
        return None
    if model.startswith("timm:"):
        return _of_timm(model.removeprefix("timm:")) if weights == "imagenet" else None
    entry = _torchvision_entry(model, weights, digest)
    return None if entry is None else _of_torchvision(model, entry)


def _torchvision_entry(model: str, weights: str, digest: str | None) -> Any:
    """Returns the entry of torchvision's list that weights are of; None if they are of none."""
    from torchvision import models

    if model not in models.list_models(module=models):
        return None
    entries = models.get_model_weights(model)
    if weights == "imagenet":
        return getattr(entries, "DEFAULT", None)
    start = (digest or "").removeprefix("sha256:")[:_DIGITS]
    return next((e for e in entries if start and e.url.endswith(f"-{start}.pth")), None)


def _of_torchvision(model: str, entry: Any) -> Conventions:
    transforms = entry.transforms()
    return Conventions(
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
        interpolation=transforms.interpolation.value,
        crop_share=transforms.crop_size[0] / transforms.resize_size[0],
        transform_input=model in _TRANSFORM_INPUT,
    )


def _of_timm(name: str) -> Conventions | None:
    import timm

    published = timm.get_pretrained_cfg(name)
    if published is None:
        return None
    return Conventions(
        mean=tuple(published.mean),
        std=tuple(published.std),
        interpolation=published.interpolation,
        crop_share=published.crop_pct or 1.0,
    )
