"""What published weights expect: of the network that they are loaded into, and of pictures."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models

from dmcp_deploy.artifact import decode, encode
from dmcp_deploy.data.augment import normalise
from dmcp_deploy.data.preprocessing import PictureConventions, Preprocessing
from dmcp_deploy.data.sources import FileImages
from dmcp_deploy.network.conventions import Conventions, input_conventions
from dmcp_deploy.network.models import build_network
from dmcp_deploy.plan import NetworkSpec

HALVES = (0.5, 0.5, 0.5)


@pytest.mark.parametrize(("name", "side"), [("googlenet", 64), ("inception_v3", 96)])
def test_the_network_is_built_as_torchvision_builds_it_for_its_weights(
    name: str, side: int
) -> None:
    expected = input_conventions(name, "imagenet")
    spec = NetworkSpec(name, 1.0, 10, (3, side, side), transform_input=expected.transform_input)
    ours = build_network(spec).model
    images = torch.randn(8, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for _ in range(20):
            ours.train()(images)  # without statistics of their own, signals fade from norm to norm
    ours.eval()
    theirs = models.get_model(
        name, num_classes=10, aux_logits=False, init_weights=False, transform_input=True
    ).eval()
    theirs.load_state_dict(ours.state_dict())
    with torch.no_grad():
        assert torch.equal(ours(images), theirs(images))
        theirs.transform_input = False
        assert (ours(images) - theirs(images)).abs().max() > 1e-3


def test_all_that_transform_their_input_are_known() -> None:
    for name in models.list_models(module=models):
        made = inspect.signature(models.get_model_builder(name)).return_annotation
        made = getattr(inspect.getmodule(models.get_model_builder(name)), str(made), made)
        takes = "transform_input" in inspect.signature(made).parameters
        assert input_conventions(name, "imagenet").transform_input == takes, name


@pytest.mark.parametrize(
    ("name", "mean", "interpolation", "share"),
    [
        ("resnet18", Preprocessing.mean, "bilinear", 224 / 256),
        ("resnet50", Preprocessing.mean, "bilinear", 224 / 232),
        ("efficientnet_b0", Preprocessing.mean, "bicubic", 224 / 256),
        ("efficientnet_v2_l", HALVES, "bicubic", 1.0),
    ],
)
def test_torchvisions_weights_say_how_they_want_pictures(
    name: str, mean: tuple[float, ...], interpolation: str, share: float
) -> None:
    pictures = input_conventions(name, "imagenet").pictures
    assert (pictures.mean, pictures.interpolation, pictures.crop_share) == (
        mean,
        interpolation,
        share,
    )


def test_timms_weights_say_how_they_want_pictures() -> None:
    timm = pytest.importorskip("timm")
    name = "tf_mobilenetv3_small_minimal_100"
    pictures = input_conventions(f"timm:{name}", "imagenet").pictures
    published = timm.get_pretrained_cfg(name)
    assert published.mean != timm.data.IMAGENET_DEFAULT_MEAN
    assert pictures.mean == published.mean == HALVES
    assert pictures.std == published.std
    assert pictures.crop_share == published.crop_pct


def test_a_file_that_torchvision_publishes_is_known_by_its_digest() -> None:
    entry = models.GoogLeNet_Weights.IMAGENET1K_V1
    start = entry.url.rpartition("-")[2].removesuffix(".pth")
    digest = f"sha256:{start}{'0' * 56}"
    assert input_conventions("googlenet", "w.pth", digest).transform_input
    assert input_conventions("googlenet", "w.pth", f"sha256:{'0' * 64}") == Conventions()
    assert input_conventions("resnet18", "w.pth", digest) == Conventions()


@pytest.mark.parametrize("model", ["googlenet", "timm:resnet18", "my.net:build"])
def test_nothing_is_expected_where_nothing_is_known(model: str) -> None:
    for weights in (None, *(["w.pth"] if model != "googlenet" else [])):
        assert input_conventions(model, weights) == Conventions()
    assert input_conventions("my.net:build", "imagenet") == Conventions()


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "efficientnet_b0", "efficientnet_v2_l"])
def test_pictures_come_to_the_network_as_the_weights_own_transforms_bring_them(
    name: str, tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (30, 40, 3), dtype=np.uint8))
    coarse.resize((700, 520), Image.Resampling.BICUBIC).save(tmp_path / "picture.png")
    transforms = models.get_model_weights(name).DEFAULT.transforms()
    side = transforms.crop_size[0]
    expected = transforms(Image.open(tmp_path / "picture.png"))

    how = input_conventions(name, "imagenet").pictures.applied(Preprocessing())
    source = FileImages(
        tmp_path, ["picture.png"], torch.tensor([0]), channels=3, centred=True
    ).prepared(how)
    view = source.views(torch.tensor([0]), (side, side))
    assert (normalise(view, how)[0] - expected).abs().max() < 1e-5


def test_a_network_that_reads_grey_pictures_keeps_their_mean() -> None:
    grey = Preprocessing().for_channels(1)
    applied = PictureConventions(HALVES, HALVES, "bicubic", 1.0).applied(grey)
    assert (applied.mean, applied.std) == (grey.mean, grey.std)
    assert (applied.interpolation, applied.crop_share) == ("bicubic", 1.0)


def test_what_older_releases_have_written_of_a_network_stays_the_same() -> None:
    plain, transformed = NetworkSpec("googlenet"), NetworkSpec("googlenet", transform_input=True)
    assert "transform_input" not in encode(plain)
    assert decode(NetworkSpec, encode(plain)) == plain
    assert decode(NetworkSpec, encode(transformed)) == transformed
