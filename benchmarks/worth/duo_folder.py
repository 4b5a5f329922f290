"""Writes Duo-100 as a folder of pictures, for `dmcp-deploy compare --data FOLDER`.

    python benchmarks/worth/duo_folder.py duo48 --side 48 --train 60000 --val 10000

Pictures are composed as `duo_images.py` does; the second number of the path is the composite's.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from worth.duo_images import open_duo

from dmcp_deploy.data.sources import ImageSource


def main() -> None:
    """Writes both splits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--side", type=int, default=48, help="Of the canvases in pixels.")
    parser.add_argument("--train", type=int, default=60_000)
    parser.add_argument("--val", type=int, default=10_000)
    options = parser.parse_args()
    data = open_duo(options.side, options.train, options.val)
    for split, source in (("train", data.train), ("val", data.val)):
        write(source, options.folder / split)


def write(source: ImageSource, folder: Path) -> None:
    """Writes pictures as FOLDER/AB/NUMBER.png, A and B the labels of their two garments."""
    for label in source.labels.unique().tolist():
        (folder / f"{label:02}").mkdir(parents=True, exist_ok=True)
    for index, label in enumerate(source.labels.tolist()):
        source.picture(index).save(folder / f"{label:02}" / f"{index:06}.png", compress_level=1)


if __name__ == "__main__":
    main()
