"""A folder that is not laid out as image data: what is in it is told, with what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from picture_folders import make_folder, make_picture

from dmcp_deploy.data.datasets import open_data
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.options.run import DEFAULT_DATA


def told(source: Path) -> str:
    with pytest.raises(DmcpError) as caught:
        open_data(str(source))
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_class_folders_without_splits_are_told(tmp_path):
    folder = make_folder(tmp_path / "pets")
    assert "it holds the class folders cat/, dog/, owl/: move them into train/" in told(
        (folder / "train").rename(tmp_path / "flat")
    )


@pytest.mark.parametrize(
    ("split", "other"), [("val", "validation"), ("val", "test"), ("train", "Training")]
)
def test_splits_of_other_names_are_recognised(tmp_path, split, other):
    folder = make_folder(tmp_path / "pets")
    (folder / split).rename(folder / other)
    assert f"has no {split}/ in it, it holds {other}/: rename that to {split}/" in told(folder)


def test_a_data_set_one_folder_further_down_is_named(tmp_path):
    make_folder(tmp_path / "archive" / "pets")
    inner = tmp_path / "archive" / "pets"
    assert f"it holds pets/ with train/ and val/: give {inner}." in told(tmp_path / "archive")


def test_what_else_is_found_is_told(tmp_path):
    assert "it holds nothing: put the pictures into train/CLASS/ and val/CLASS/." in told(tmp_path)
    (tmp_path / "readme.txt").write_text("x")
    assert "it holds readme.txt: put" in told(tmp_path)
    for number in range(3):
        make_picture(number).save(tmp_path / f"{number}.png")
    assert "it holds 3 pictures side by side, as 0.png: put" in told(tmp_path)
    (tmp_path / "pets.zip").write_bytes(b"PK")
    assert "it holds pets.zip: unpack that, then put" in told(tmp_path)
    for name in ("train-000.tar", "val-000.tar"):
        (tmp_path / name).write_bytes(b"x")
    assert f"give shards as webdataset:{tmp_path}" in told(tmp_path)


def test_a_class_without_pictures_tells_what_it_has_instead(tmp_path):
    folder = make_folder(tmp_path / "pets")
    for path in (folder / "val" / "dog").iterdir():
        path.rename(path.with_suffix(".heic"))
    assert "dog holds no pictures (000.heic, 001.heic): fill it with .jpg" in told(folder)


def test_a_folder_whose_name_is_mistyped_is_suggested(tmp_path):
    make_folder(tmp_path / "pictures")
    make_folder(tmp_path / "elsewhere")
    assert told(tmp_path / "picturs").endswith(f"; did you mean {tmp_path / 'pictures'}?")


def test_what_is_said_without_data_names_owner_licence_and_layout():
    for words in ("elpv-dataset", "not for\ncommercial", "FOLDER/train/cat", "FOLDER/val/dog"):
        assert words in DEFAULT_DATA
