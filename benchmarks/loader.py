"""Whether data or compute is the limit of training: images/s of each alone, and of both together.

    python benchmarks/loader.py --data webdataset:/data/imagenet --model resnet50 --workers 0,4,8,16
    python benchmarks/loader.py --made 512 --workers 0,1,2

Every round loads with each number of workers, does steps on one batch that stays on the device, and
trains on loaded batches, one after the other. Loading is timed once its queue has run empty. Bytes
are those of the stored pictures: what the disk must deliver where the page cache does not hold them
(the first round of a process may find them there). CPU time is that of loading without workers:
it says how many cores a rate needs, also on a machine that others use. Runs gather in one file.

--made writes photograph-like JPEGs of ImageNet's mean size in pixels and bytes, for machines that
have no such data; what it tells is the machine's rate of decoding, not a disk's.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from dmcp_deploy.artifact import read_artifact, write_artifact
from dmcp_deploy.data.datasets import open_data
from dmcp_deploy.data.loader import train_batches
from dmcp_deploy.data.types import Batch, ImageData, crops_of_views
from dmcp_deploy.machine.environment import read_environment
from dmcp_deploy.network.models import build_network
from dmcp_deploy.plan import NetworkSpec
from dmcp_deploy.training.dense import DenseTask
from dmcp_deploy.training.precision import Precision, choose_precision
from dmcp_deploy.training.recipe import RECIPES

KIND = "loader"
#: Data counts as the limit where steps wait for it for a larger share of the time.
WAITING = 0.05
#: Pictures whose stored bytes are looked at.
SIZED = 2000
#: The most frequent size in ImageNet; at this quality the files come to about 115 kB, its mean.
MADE_SIZE, MADE_QUALITY = (500, 375), 93
_KEY = ("host", "device", "data", "model", "image_size", "batch_size", "augment_on", "label")


def main() -> None:
    """Measures on one data set, adds the run to the file and prints the file's table."""
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        if options.made:
            options.data = str(make_pictures(Path(folder), options.made))
        run = measured(options)
    others = read_artifact(options.out, KIND)["runs"] if options.out.exists() else []
    runs = [other for other in others if _key(other) != _key(run)] + [run]
    write_artifact(options.out, KIND, {"runs": sorted(runs, key=_key)})
    print(report(sorted(runs, key=_key)))


def report(runs: list[dict[str, Any]]) -> str:
    """Returns what the runs' samples say as a Markdown table, and each run's verdict."""
    lines = [
        "| data | network | device | CPU ms/image | workers | loading, images/s | from disk, MB/s"
        " | steps, images/s | together, images/s | waiting for data | the limit |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        step = _rate(run, run["step_s"])
        for workers in run["load_s"]:
            load, both = (_rate(run, run[name][workers]) for name in ("load_s", "both_s"))
            name = f"{run['model']}, {run['batch_size']} of {run['image_size']} px"
            waiting = _waiting(run, workers)
            limit = "data" if waiting > WAITING else "compute"
            cells = [run["data"], name, run["device"], f"{1000 * _cpu_s(run):.2f}", workers]
            cells += [f"{load:,.0f}"]
            cells += [f"{load * run['stored_bytes'] / 1e6:,.1f}", f"{step:,.0f}", f"{both:,.0f}"]
            lines.append(f"| {' | '.join([*cells, f'{waiting:.0%}', limit])} |")
    return "\n".join([*lines, "", *(f"{run['data']}: {verdict(run)}" for run in runs)])


def verdict(run: Mapping[str, Any]) -> str:
    """Returns in a sentence whether data or compute is a run's limit, and what would change it."""
    step = _rate(run, run["step_s"])
    enough = [int(workers) for workers in run["load_s"] if _waiting(run, workers) <= WAITING]
    if enough:
        return f"compute is the limit from {min(enough)} workers on ({step:,.0f} images/s)."
    rates = {int(workers): _rate(run, seconds) for workers, seconds in run["load_s"].items()}
    workers, rate = max(rates.items(), key=lambda item: item[1])
    cores = math.ceil(step * _cpu_s(run))
    if rate >= step:
        return (
            f"{workers} workers alone load {rate:,.0f} images/s, more than the steps' {step:,.0f},"
            f" but both share the machine: {cores} of its cores are the workers'."
        )
    return (
        f"data is the limit: steps take {step:,.0f} images/s, {workers} workers load {rate:,.0f};"
        f" cores for workers: {cores}, beside the steps' own and if the disk keeps up."
    )


def _cpu_s(run: Mapping[str, Any]) -> float:
    """Returns the CPU time of loading one image, in seconds."""
    return 1 / _rate(run, run["load_cpu_s"])


def _waiting(run: Mapping[str, Any], workers: str) -> float:
    """Returns the share of the time that training on loaded batches takes over the steps alone."""
    return 1 - _rate(run, run["both_s"][workers]) / _rate(run, run["step_s"])


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Returns a run: what was asked, and the seconds of every round."""
    torch.set_num_threads(options.threads)
    precision = choose_precision(options.device, options.precision)
    data = open_data(options.data)
    data = crops_of_views(data) if options.augment_on == "device" else data
    task = _task(options, data, precision)
    load: dict[str, list[float]] = {str(workers): [] for workers in options.workers}
    both: dict[str, list[float]] = {str(workers): [] for workers in options.workers}
    step: list[float] = []
    cpu: list[float] = []
    fixed = precision.move(next(_batches(options, data, precision, 0, 0)))
    for number in range(-options.warm_ups, options.rounds):
        seconds = _step_s(options, task, itertools.repeat(fixed), precision)
        with closing(_batches(options, data, precision, 0, number)) as batches:
            alone = _load_s(options, batches, 0, time.process_time)
        if number >= 0:
            step.append(seconds)
            cpu.append(alone)
        for workers in options.workers:
            with closing(_batches(options, data, precision, workers, number)) as batches:
                loading = _load_s(options, batches, workers, lambda: _now(precision))
            with closing(_batches(options, data, precision, workers, number)) as batches:
                training = _step_s(options, task, batches, precision, 2 * workers + 1)
            if number >= 0:
                load[str(workers)].append(loading)
                both[str(workers)].append(training)
    return {
        **_asked(options, data, precision),
        "stored_bytes": _stored_bytes(data),
        "step_s": step,
        "load_cpu_s": cpu,
        "load_s": load,
        "both_s": both,
    }


def make_pictures(folder: Path, count: int) -> Path:
    """Writes an image folder with photograph-like JPEGs, and returns it."""
    rng = np.random.default_rng(0)
    for number in range(count + 4):
        split = "train" if number < count else "val"
        path = folder / "made" / split / str(number % 2) / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize(MADE_SIZE, Image.Resampling.BICUBIC), np.float32)
        grain = rng.normal(0, 16, smooth.shape)
        picture = Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8))
        picture.save(path, quality=MADE_QUALITY)
    return folder / "made"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="As of dmcp-deploy prune; elpv if not given.")
    parser.add_argument("--made", type=int, default=0, help="Make so many pictures instead.")
    parser.add_argument("--model", default="mobilenet_v2")
    parser.add_argument("--width-mult", type=float, default=1.0)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=_numbers, default=[0, 1, 2], help="As in 0,4,8.")
    parser.add_argument("--batches", type=int, default=20, help="In every timing.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warm-ups", type=int, default=1, help="Rounds that are not recorded.")
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", "1")))
    parser.add_argument("--augment-on", default="host", choices=("host", "device"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", help="auto, fp32 or bf16.")
    parser.add_argument("--label", default="now", help="Which state of the code this is.")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/loader.json"))
    return parser.parse_args()


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _asked(options: argparse.Namespace, data: ImageData, precision: Precision) -> dict[str, Any]:
    cuda = precision.device.type == "cuda"
    environment = read_environment(devices=cuda)
    names = ("model", "width_mult", "image_size", "batch_size", "batches", "threads", "augment_on")
    return {
        **{name: getattr(options, name) for name in (*names, "label")},
        "data": f"made:{options.made}" if options.made else data.name,
        "pictures": len(data.train),
        "device": torch.cuda.get_device_name(precision.device) if cuda else "cpu",
        "host": os.uname().nodename,
        "cores": len(os.sched_getaffinity(0)),
        "bf16": precision.bf16,
        "command": " ".join(["python", *sys.argv]),
        "torch": torch.__version__,
        "environment": environment,
    }


def _key(run: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(run[name]) for name in _KEY)


def _task(options: argparse.Namespace, data: ImageData, precision: Precision) -> DenseTask:
    side = options.image_size
    spec = NetworkSpec(options.model, options.width_mult, len(data.classes), (3, side, side))
    return DenseTask(build_network(spec).model, RECIPES["small"], 1_000_000, precision)


def _batches(
    options: argparse.Namespace, data: ImageData, precision: Precision, workers: int, number: int
) -> Iterator[Batch]:
    """Returns the batches of one timing, other ones in every round, as long as they are wanted."""
    return train_batches(
        data,
        image_size=options.image_size,
        batch_size=options.batch_size,
        seed=0,
        start_step=max(0, number) * options.batches,
        steps=options.batches + 2 * workers + 1,
        workers=workers,
        device=precision.device,
    )


def _load_s(
    options: argparse.Namespace,
    batches: Iterator[Batch],
    workers: int,
    clock: Callable[[], float],
) -> float:
    """Returns the seconds of loading, once the workers have started and what waited is taken."""
    for _ in range(2 * workers + 1):
        next(batches)
    begin = clock()
    for _ in range(options.batches):
        next(batches)
    return clock() - begin


def _step_s(
    options: argparse.Namespace,
    task: DenseTask,
    batches: Iterator[Batch],
    precision: Precision,
    first: int = 1,
) -> float:
    """Returns the seconds of the steps behind the first ones."""
    for number in range(first):
        task.step(number, next(batches))
    begin = _now(precision)
    for number in range(options.batches):
        task.step(first + number, next(batches))
    return _now(precision) - begin


def _now(precision: Precision) -> float:
    if precision.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _stored_bytes(data: ImageData) -> float:
    """Returns the mean size of the stored pictures, of some from all over them."""
    every = max(1, len(data.train) // SIZED)
    return statistics.fmean(map(data.train.stored_bytes, range(0, len(data.train), every)))


def _rate(run: Mapping[str, Any], seconds: list[float]) -> float:
    """Returns images/s from the median of the rounds."""
    return run["batches"] * run["batch_size"] / statistics.median(seconds)


if __name__ == "__main__":
    main()
