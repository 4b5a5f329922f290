"""One process of D4: the probe, a search, or the training of one wave of networks after another."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from worth.duo_bench import Bench, Wave
from worth.duo_files import Files
from worth.duo_jobs import run_search, run_wave
from worth.duo_probe import probe_dense, probe_search


def work(options: argparse.Namespace) -> None:
    """Does one process's share."""
    kind, _, number = options.worker.partition(":")
    files, bench = Files(options.work), Bench(options)
    if kind == "probe":
        _probe(bench, files.folder / "probe.json")
    elif kind == "search":
        run_search(bench, files, int(number))
    else:
        _train_waves(bench, files)


def _probe(bench: Bench, path: Path) -> None:
    """Writes what steps take, and first what dense ones do: a failure ends the process."""
    found = json.loads(path.read_text()) if path.exists() else {}
    if "dense_ms" not in found:
        found = probe_dense(bench, bench.options.seeds)
        path.write_text(json.dumps(found))
    path.write_text(json.dumps({**found, **probe_search(bench)}))


def _train_waves(bench: Bench, files: Files) -> None:
    """Trains one wave after the other, the most important one whose plans are there."""
    options, slowest_s = bench.options, 0.0
    assert len(bench.test[1]) == options.test_images  # made while the searches run
    while "dense_steps" not in files.planned():
        time.sleep(0.5)  # the searches fill the GPU, and how long they take is not known before
        if time.time() > options.deadline:
            return
    options.dense_steps = files.planned()["dense_steps"]
    while time.time() < options.deadline:
        listed = [wave for wave in waves(options) if not _is_done(files, wave)]
        open_ones = [
            w for w in listed if not files.is_claimed(w.name) and _hopes(files, options, w)
        ]
        ready = [wave for wave in open_ones if _has_plans(files, options, wave)]
        if not open_ones:
            return
        # What has to wait for its plans keeps the time that it will take.
        waits = bool(open_ones and open_ones[0] not in ready)
        reserved_s = (2.2 if waits else 1.0) * slowest_s
        if not ready or time.time() + reserved_s > options.deadline:
            time.sleep(0.5)
        elif files.claim(ready[0].name):
            began = time.time()
            run_wave(bench, files, ready[0])
            slowest_s = max(slowest_s, time.time() - began)
            print(f"{ready[0].name}: {time.time() - began:.0f} s", flush=True)


def _is_done(files: Files, wave: Wave) -> bool:
    return all(files.trained(wave.arm, wave.budget, seed) for seed in range(wave.seeds))


def _has_plans(files: Files, options: argparse.Namespace, wave: Wave) -> bool:
    """Returns whether every search of an arm has left its plan or ended without one."""
    if not wave.arm.startswith("dmcp"):
        return True
    plans = files.plans(wave.arm, wave.budget)
    ended = _ended(files, options)
    return bool(plans) and all(seed in plans or end for seed, end in enumerate(ended))


def are_searched(files: Files, options: argparse.Namespace) -> bool:
    """Returns whether the first budget's searches are done, or have ended without a plan."""
    plans = files.plans("dmcp", options.budgets[0])
    return all(seed in plans or end for seed, end in enumerate(_ended(files, options)))


def _hopes(files: Files, options: argparse.Namespace, wave: Wave) -> bool:
    """Returns whether an arm's plans are there or may still come."""
    if not wave.arm.startswith("dmcp") or not all(_ended(files, options)):
        return True
    return bool(files.plans(wave.arm, wave.budget))


def _ended(files: Files, options: argparse.Namespace) -> list[bool]:
    return [files.is_claimed(f"search:{seed} ended") for seed in range(options.searches)]


def waves(options: argparse.Namespace) -> list[Wave]:
    """Returns what is to be trained, the most important first."""
    first, seeds, few = options.budgets[0], options.seeds, max(2, options.seeds // 2)
    listed = [
        *(Wave("dmcp", first, seeds), Wave("uniform", first, seeds)),
        *(Wave("budget-only", first, seeds), Wave("uniform, larger", first, few)),
    ]
    for budget in options.budgets[1:]:
        listed += [Wave(arm, budget, seeds) for arm in ("dmcp", "uniform", "budget-only")]
        listed.append(Wave("uniform, larger", budget, few))
    listed.append(Wave("uniform, last kept", first, few))
    return listed + [Wave("dmcp sigmoid", first, seeds)] * options.sigmoid
