"""D4: is DMCP's searched plan worth it, on a task that is limited by the network's capacity?

    python benchmarks/worth/d4_duo100.py --stage search --seconds 320
    python benchmarks/worth/d4_duo100.py --stage train --seconds 250
    python benchmarks/worth/d4_duo100.py --report benchmarks/results/worth/d4_duo100.json

Two calls of one GPU, ten minutes together; without --stage both in one. d4_small.py asks the same
of a small network on a CPU.

The task is Duo-100 (see duo_data.py), the network torchvision's MobileNetV2 without dropout, the
supernet 1.5 times as wide, budgets are shares of the 1.0x network's multiply-adds. Arms: DMCP's
plans; uniform widths; the plan of a search that sees the budget loss alone; uniform widths at 1.35
times the budget, which tell what a margin is worth in multiply-adds; uniform widths but for the
last convolution, which keeps its 1280 channels. All start from an initialisation of their own and
are trained alike. Several processes share one GPU. A probe tells first what a step takes: where
the first budget would not fit into the seconds given, all searches are shortened by one factor, and
behind them all networks' training by another; a second budget is done only where it fits too. A
killed run goes on from the folder of its raw records. --sigmoid adds D5: the release's transition.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

from worth.duo_files import Files
from worth.duo_report import report

TRAINERS = 2  # processes; each trains a wave of networks at a time
_START_S = 30.0  # of processes, and of judging: no steps are done in them
_FILLED = 0.7  # of the time left that the plan of all may fill, before it begins
_SEARCHED = 0.8  # of the time left that searches may fill where nothing is trained behind them
_TRAINED = 0.8  # of the time left behind the searches that training may fill
#: What a probe settles: whether steps are recorded, whether kernels are tried out.
_SETTLED = ("graph", "search_graph", "cudnn_benchmark")
_SMOKE = {
    **{"width": 0.3, "base_width": 0.2, "budgets": (0.6,), "batch": 8, "seeds": 2, "searches": 2},
    **{"dense_steps": 20, "search_steps": 5, "test_images": 200, "device": "cpu"},
}


def main() -> None:
    """Runs what is asked for, as the parent of all processes or as one of them."""
    options = _options()
    if options.report:
        print(report(json.loads(options.report.read_text())))
    elif options.worker:
        from worth.duo_worker import work

        work(options)
    else:
        _lead(options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/worth/d4_duo100.json"))
    parser.add_argument("--work", type=Path, default=Path("runs/worth/d4"), help="Raw records.")
    parser.add_argument("--stage", choices=("all", "search", "train"), default="all")
    parser.add_argument("--data", type=Path, help="Folder of Fashion-MNIST's four idx.gz files.")
    parser.add_argument("--seconds", type=float, default=570.0, help="Wall clock of this call.")
    parser.add_argument("--budgets", type=_shares, default=(0.14, 0.32))
    parser.add_argument("--searches", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=8, help="Networks of an arm.")
    parser.add_argument("--search-steps", type=int, default=2000, help="Of either stage.")
    parser.add_argument("--dense-steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=0.2, help="The highest learning rate.")
    parser.add_argument("--width", type=float, default=1.5, help="Of the supernet.")
    parser.add_argument("--base-width", type=float, default=1.0, help="Budgets are shares of it.")
    parser.add_argument("--test-images", type=int, default=40_000)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--sigmoid", action="store_true", help="One arm more: that transition.")
    parser.add_argument("--no-graph", dest="graph", action="store_false")
    parser.add_argument("--no-search-graph", dest="search_graph", action="store_false")
    parser.add_argument("--cudnn-benchmark", action="store_true")
    parser.add_argument("--no-probe", dest="probe", action="store_false", help="Steps as given.")
    parser.add_argument("--smoke", action="store_true", help="All of it, tiny, on the CPU.")
    parser.add_argument("--report", type=Path, help="Only prints what a file of results says.")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--deadline", type=float, default=0.0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.smoke:
        vars(options).update(_SMOKE)
        for name in ("out", "work"):  # never over the real ones
            if getattr(options, name) == parser.get_default(name):
                setattr(options, name, Path("runs/worth/d4-smoke") / name)
    return options


def _shares(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


def _lead(options: argparse.Namespace) -> None:
    """Probes, plans, starts all processes, and writes the results whenever there are new ones."""
    from worth.duo_worker import are_searched

    options.deadline = options.deadline or time.time() + options.seconds
    files = Files(options.work)
    files.start()
    found = _probed(options, files)
    if found:
        vars(options).update({name: found[name] for name in _SETTLED})
        if "search_steps" not in files.planned():
            _plan_searches(options, files, found)
        vars(options).update({**files.planned(), "budgets": tuple(files.planned()["budgets"])})
    else:
        files.plan(dense_steps=options.dense_steps)
    running = {name: _start(options, name) for name in _workers(options, files)}
    content = {**_asked(options), "probe": found}
    while running:
        time.sleep(1)
        for name, process in list(running.items()):
            if process.poll() is not None:
                print(f"{name} has ended: {process.returncode}", flush=True)
                files.claim(f"{name} ended")
                del running[name]
            elif time.time() > options.deadline + 25:
                process.kill()
        unplanned = found and options.stage != "search" and "dense_steps" not in files.planned()
        if unplanned and are_searched(files, options):
            _plan_training(options, files, found)
        _save(options, files, content)
    print(report(json.loads(options.out.read_text())))


def _workers(options: argparse.Namespace, files: Files) -> list[str]:
    """Returns the processes of this call; searches that are none of its have ended."""
    searches = [f"search:{seed}" for seed in range(options.searches)]
    if options.stage == "train":
        for name in searches:
            files.claim(f"{name} ended")
        searches = []
    trainers = [f"train:{number}" for number in range(TRAINERS)]
    return searches if options.stage == "search" else searches + trainers


def _probed(options: argparse.Namespace, files: Files) -> dict[str, Any]:
    """Returns what the probe tells, without graphs where they fail; empty where none is asked."""
    path, found = files.folder / "probe.json", {}
    if options.smoke or not options.probe:
        return found
    for _ in range(3):
        found = json.loads(path.read_text()) if path.exists() else {}
        if "search_ms" in found or _start(options, "probe").wait() == 0:
            return json.loads(path.read_text())
        found = json.loads(path.read_text()) if path.exists() else {}
        failed = "search_graph" if "dense_ms" in found else "graph"
        print(f"the probe has failed: goes on without {failed}", flush=True)
        setattr(options, failed, False)
    sys.exit("The probe fails even without CUDA graphs: see above.")


def _plan_searches(options: argparse.Namespace, files: Files, found: dict[str, Any]) -> None:
    """Fits searches and budgets into the time left, and prints what comes of it."""
    from worth.duo_probe import dense_s, search_s

    alone = options.stage == "search"
    left_s = (_SEARCHED if alone else _FILLED) * (options.deadline - time.time() - _START_S)
    counts = range(1, len(options.budgets) + 1)
    searches, dense = ([f(found, options, n) for n in counts] for f in (search_s, dense_s))
    # Networks trained by a later call are taken to have as long as this one.
    asked = [max(pair) if alone else sum(pair) for pair in zip(searches, dense, strict=True)]
    fitting = [count for count, seconds in zip(counts, asked, strict=True) if seconds <= left_s]
    shortest = max(left_s, 1.0) / (searches if alone else asked)[0]
    files.plan(
        search_steps=round(min(1.0, shortest) * options.search_steps),
        budgets=options.budgets[: max(fitting, default=1)],
    )
    print(
        f"probe: {json.dumps(found)}\nleft {left_s:.0f} s; asked for, by budgets, "
        f"{[round(seconds) for seconds in asked]} s of the GPU: {files.planned()}",
        flush=True,
    )


def _plan_training(options: argparse.Namespace, files: Files, found: dict[str, Any]) -> None:
    """Fits the training of all networks into the time that the searches have left."""
    from worth.duo_probe import dense_s, further_s

    left_s, budgets = _TRAINED * (options.deadline - time.time()), len(options.budgets)
    asked_s = dense_s(found, options, budgets)
    if options.stage == "all":
        asked_s += further_s(found, options, budgets)
    factor = min(1.0, max(left_s, 1.0) / asked_s)
    files.plan(dense_steps=round(factor * options.dense_steps))
    print(f"left {left_s:.0f} s, asked for {asked_s:.0f} s: {files.planned()}", flush=True)


def _start(options: argparse.Namespace, worker: str) -> subprocess.Popen[bytes]:
    """Starts a process with the parent's options."""
    arguments = [f"--worker={worker}", "--budgets", ",".join(map(str, options.budgets))]
    for name in ("out", "work", "data", "searches", "seeds", "batch", "lr", "width", "base_width"):
        if getattr(options, name) is not None:
            arguments.append(f"--{name.replace('_', '-')}={getattr(options, name)}")
    for name in ("search_steps", "dense_steps", "test_images", "device", "deadline"):
        arguments.append(f"--{name.replace('_', '-')}={getattr(options, name)}")
    given = {"--no-graph": not options.graph, "--no-search-graph": not options.search_graph}
    given |= {"--cudnn-benchmark": options.cudnn_benchmark, "--sigmoid": options.sigmoid}
    arguments += [flag for flag, wanted in given.items() if wanted]
    return subprocess.Popen([sys.executable, __file__, *arguments])


def _asked(options: argparse.Namespace) -> dict[str, Any]:
    import torch
    import torchvision

    from dmcp_deploy.machine.environment import read_environment

    cuda = options.device != "cpu" and torch.cuda.is_available()
    hidden = ("out", "work", "data", "worker", "report", "deadline")
    return {
        "kind": "duo100",
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "command": " ".join(["python", *sys.argv]),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "options": {k: v for k, v in vars(options).items() if k not in hidden},
        "environment": read_environment(devices=cuda),
    }


def _save(options: argparse.Namespace, files: Files, content: dict[str, Any]) -> None:
    from dmcp_deploy.artifact import write_text

    steps = {"search": [options.search_steps] * 2, "dense": files.planned().get("dense_steps")}
    results = {**content, "steps": steps, "records": files.records()}
    write_text(options.out, json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
