"""What published weights expect of their network and of pictures, beside their tensors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dmcp_deploy.data.preprocessing import PictureConventions

#: The models whose published weights want pictures normalised again, which their builder then does.
_TRANSFORM_INPUT = ("googlenet", "inception_v3")

_DIGITS = 8  # of a file's SHA-256, at the end of the name that torchvision gives it
_INTERPOLATIONS = ("bilinear", "bicubic")


@dataclass(frozen=True)
class Conventions:
    """What weights were trained with.

    Attributes:
        pictures: How pictures were prepared.
        transform_input: Whether the network itself normalises once more, from ImageNet's mean and
            deviation to 0.5 and 0.5.
    """

    pictures: PictureConventions = field(default_factory=PictureConventions)
    transform_input: bool = False


def input_conventions(model: str, weights: str | None, digest: str | None = None) -> Conventions:
    """Returns what given weights expect: ImageNet's usual where nobody has written it down.

    A file is known where it is one that torchvision or timm publishes for the model.

    Args:
        model: A torchvision name, "timm:NAME" or "package.module:function".
        weights: None, "imagenet" or a file.
        digest: Of the file, "sha256:<hex>".
    """
    if weights is None:
        return Conventions()
    if model.startswith("timm:"):
        return _timm_conventions(model.removeprefix("timm:"), weights, digest)
    entry = _torchvision_entry(model, weights, digest)
    return Conventions() if entry is None else _torchvision_conventions(model, entry)


def _torchvision_entry(model: str, weights: str, digest: str | None) -> Any:
    """Returns the entry of torchvision's list that weights are of; None if they are of none."""
    from torchvision import models

    if model not in models.list_models(module=models):
        return None
    entries = models.get_model_weights(model)
    if weights == "imagenet":
        return entries.DEFAULT
    return next((entry for entry in entries if _is_at(entry.url, digest)), None)


def _torchvision_conventions(model: str, entry: Any) -> Conventions:
    transforms = entry.transforms()
    pictures = PictureConventions(
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
        interpolation=transforms.interpolation.value,
        crop_share=transforms.crop_size[0] / transforms.resize_size[0],
    )
    return Conventions(pictures, transform_input=model in _TRANSFORM_INPUT)


def _timm_conventions(name: str, weights: str, digest: str | None) -> Conventions:
    import timm

    published = timm.get_pretrained_cfg(name)
    if published is None or not (weights == "imagenet" or _is_at(published.url, digest)):
        return Conventions()
    usual = PictureConventions()
    known = published.interpolation in _INTERPOLATIONS
    pictures = PictureConventions(
        mean=tuple(published.mean),
        std=tuple(published.std),
        interpolation=published.interpolation if known else usual.interpolation,
        crop_share=published.crop_pct or usual.crop_share,
    )
    return Conventions(pictures)


def _is_at(url: object, digest: str | None) -> bool:
    """Returns whether a file of a digest is the one at an address, which ends in its beginning."""
    start = (digest or "").removeprefix("sha256:")[:_DIGITS]
    return bool(start) and str(url).endswith(f"-{start}.pth")
