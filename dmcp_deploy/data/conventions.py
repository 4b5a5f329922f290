"""How pictures were prepared for weights that others have published; torch-free."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dmcp_deploy.data.preprocessing import Preprocessing


@dataclass(frozen=True)
class PictureConventions:
    """What published weights expect of pictures.

    Attributes:
        mean: Of red, green and blue, of values in [0, 1].
        std: Their standard deviations.
        interpolation: How pictures are resized: "bilinear" or "bicubic".
        crop_share: What the middle crop keeps of a side, in (0, 1].
    """

    mean: tuple[float, ...] = Preprocessing.mean
    std: tuple[float, ...] = Preprocessing.std
    interpolation: str = Preprocessing.interpolation
    crop_share: float = Preprocessing.crop_share

    def applied(self, how: Preprocessing) -> Preprocessing:
        """Returns how pictures of some data come to a network with such weights.

        Mean and deviation are those of three channels: where the network reads another number of
        them, its own stay.
        """
        resized = replace(how, interpolation=self.interpolation, crop_share=self.crop_share)
        if how.channels != len(self.mean):
            return resized
        return replace(resized, mean=self.mean, std=self.std)
