"""What makes a network's input of a picture: said once, for training and for whoever deploys."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dmcp_deploy.data.size import Size

#: ImageNet's mean and standard deviation of red, green and blue, of values in [0, 1].
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

#: Of grey pictures: the averages of ImageNet's three channels.
GREY_MEAN = (0.449,)
GREY_STD = (0.226,)

#: How a picture comes to the input's size.
CROP, SQUASH, PAD = "crop", "squash", "pad"


@dataclass(frozen=True)
class Preprocessing:
    """From a stored picture to the network's input, in this order: resize, scale, normalise.

    Attributes:
        mean: Of each channel of the network's input, of values in [0, 1]; its length is the
            number of channels.
        std: Their standard deviations.
        resizing: "crop": resized by one factor until both sides reach the input's, divided by
            `crop_share`, then the middle is taken; "squash": the whole picture resized to the
            input; "pad": as "squash", but black is added where 2 px a side are enough.
        crop_share: What "crop" keeps of a side, in (0, 1].
        interpolation: "bilinear" or "bicubic", smoothed where a picture becomes smaller.
        white: The stored value that becomes 1: 255, or what 16-bit and floating-point pictures
            were found to use.
    """

    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    resizing: str = CROP
    crop_share: float = 224 / 256
    interpolation: str = "bilinear"
    white: float = 255

    @property
    def channels(self) -> int:
        """Channels of the network's input."""
        return len(self.mean)

    def covered(self, size: Size) -> Size:
        """Returns height and width that a picture covers whose middle of a size is taken."""
        height, width = size
        return int(height / self.crop_share), int(width / self.crop_share)

    def for_channels(self, channels: int) -> Preprocessing:
        """Returns the same for 1 (grey) or 3 channels, ImageNet's mean and deviation if it changes.

        Raises:
            KeyError: Pictures do not come in that many channels.
        """
        if channels == self.channels:
            return self
        mean, std = {1: (GREY_MEAN, GREY_STD), 3: (MEAN, STD)}[channels]
        return replace(self, mean=mean, std=std)


#: What is usual for photographs in colour.
IMAGENET = Preprocessing()


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
