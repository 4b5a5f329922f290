"""What a budget in time is worth at equal measured time: DMCP under it, and three other ways.

    dmcp-deploy table build --model resnet18 --width-mult 0.5 --input-size 64 --classes 100 \
        --runtime onnxruntime --threads 1 --near 0.35 --out table.json           # idle machine
    python benchmarks/latency_worth.py --stage search --table table.json
    python benchmarks/latency_worth.py --stage measure                           # idle machine
    python benchmarks/latency_worth.py --stage train
    python benchmarks/latency_worth.py --stage report
    python benchmarks/latency_worth.py --stage known                             # idle machine
    python benchmarks/latency_worth.py --stage efficiency

Arms: "dmcp, latency" is DMCP under `--latency`; "dmcp, FLOPs" DMCP under the FLOPs budget whose
plan takes as long, and "dmcp, FLOPs on steps" the same on the widths that the latency table offers;
"uniform" one width multiplier under `--latency`; "HALP-like knapsack" keeps the channels of most
importance within predicted milliseconds. The table's network is searched on Duo-100
(worth/duo_data.py). A seed's searches go on from one first stage, whose supernet judges the plans
of all arms and gives them the weights that they are trained from.

The FLOPs budget of equal time is bisected over plans that are decoded from one search, by the same
table; where it lies more than 5% off the budget of that search, the search is done once more for
it. Measured is as the product certifies, each plan in turn with the full network; a plan that takes
less than 98% or more than 101% of the budget is decoded again by the table as corrected by what
was seen, of every arm alike, four plans at most.

Each stage goes on where it was stopped, with the options of the search (`WORK/options.json`).
Before `measure`, plans of equal predicted time are trained; those that it changes are trained anew.
`known` and `efficiency` need none of this: they are of plans at 224 px (equal_time/efficiency.py).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from equal_time.arms import Setup, Target

os.environ.setdefault("OMP_NUM_THREADS", "1")
BENCHMARKS = Path(__file__).resolve().parent
RESULTS = BENCHMARKS / "results"
sys.path[:0] = [str(BENCHMARKS / "worth"), str(BENCHMARKS)]

STAGES = ("search", "measure", "train", "report", "known", "efficiency")
_SMOKE = {
    **{"latency": "60%", "searches": 2, "search_steps": 3, "dense_steps": 3, "batch": 8},
    **{"test_images": 200, "seconds": 0.2, "rounds": 1, "jobs": 1, "align": 4},
}

Options = argparse.Namespace
#: Arm, seed of the search, and which of the networks of its plan.
Job = tuple[str, int, int]


def main() -> None:
    """Does a stage, or all of them."""
    options = _options()
    if options.smoke:
        _smoke(options)
    elif options.stage in ("known", "efficiency"):
        from equal_time.efficiency import efficiency, measure_known

        if options.stage == "known":
            measure_known(RESULTS, options.seconds)
        print(efficiency(RESULTS))
    else:
        do(options)


def do(options: Options) -> None:
    """Does what a stage lacks, writes all results so far and prints them."""
    from equal_time.arms import ARMS
    from equal_time.report import report
    from equal_time.work import Work

    seeds, repeats, work = range(options.searches), range(options.repeats), Work(options.work)
    jobs = [(arm, seed, repeat) for repeat in repeats for seed in seeds for arm in ARMS]
    if options.stage != "report":
        work.begin(options)
    if options.stage == "search":
        _map(options, _search, [("", seed, 0) for seed in seeds])
    elif options.stage == "measure":
        for job in jobs:
            _measure(options, job)
    elif options.stage == "train":
        _map(options, _train, jobs)
    if options.stage != "report":
        _write(options, work.collect(_setup(options), seeds, repeats))
    print(report(json.loads(options.out.read_text())))


def _options() -> Options:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stage", choices=STAGES, default="report")
    parser.add_argument("--table", type=Path, help="Latency table of the network; see above.")
    parser.add_argument("--work", type=Path, default=Path("runs/latency_worth"))
    parser.add_argument("--out", type=Path, default=RESULTS / "latency_worth.json")
    parser.add_argument("--data", type=Path, help="Folder of Fashion-MNIST's four idx.gz files.")
    parser.add_argument("--latency", default="30%")
    parser.add_argument("--align", type=int, default=8)
    parser.add_argument("--searches", type=int, default=3, help="Seeds.")
    parser.add_argument("--repeats", type=int, default=1, help="Networks trained of a plan.")
    parser.add_argument("--search-steps", type=int, default=1500, help="Of either stage.")
    parser.add_argument("--dense-steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=0.1, help="The highest learning rate.")
    parser.add_argument("--importance", choices=("taylor", "bn-scale", "l2"), default="taylor")
    parser.add_argument("--start", choices=("supernet", "fresh"), default="supernet")
    parser.add_argument("--test-images", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=10.0, help="Of measuring a plan.")
    parser.add_argument("--rounds", type=int, default=4, help="Plans that are measured at most.")
    parser.add_argument("--jobs", type=int, default=2, help="Processes that search and train.")
    parser.add_argument("--smoke", action="store_true", help="All stages, tiny.")
    options = parser.parse_args()
    kept = options.work / "options.json"
    if kept.exists():
        known = json.loads(kept.read_text())
        known["table"] = known["table"] and Path(known["table"])
        parser.set_defaults(**known)
        options = parser.parse_args()
    return options


def _smoke(options: Options) -> None:
    """Does all stages for a small network, in a folder of their own."""
    vars(options).update(_SMOKE)
    with tempfile.TemporaryDirectory() as folder:
        options.work, options.out = Path(folder), Path(folder) / "results.json"
        for options.stage in ("search", "measure", "train", "report"):
            do(options)


def _setup(options: Options) -> Setup:
    from equal_time.arms import Setup, Target

    if options.smoke:
        return Setup(options, _made_up_target())
    if options.table is None:
        sys.exit("--table is missing: build one as the head of this file tells.")
    return Setup(options, Target.of_table(options.table))


def _made_up_target() -> Target:
    """Returns a small network with a random staircase in place of a table."""
    sys.path.insert(0, str(BENCHMARKS.parent / "tests/helpers"))
    from equal_time.arms import Target
    from latency_models import made_up_model

    from dmcp_deploy.network.models import build_network
    from dmcp_deploy.options.measure import Setting
    from dmcp_deploy.plan import NetworkSpec

    spec = NetworkSpec("networks:small_mobilenet", 1.0, 100, (3, 64, 64))
    model = made_up_model(build_network(spec))
    sizes = {name: group.size for name, group in model.groups.items()}
    model = replace(model, full_ms=float(model.ms(*model.channels(sizes))))
    return Target(spec, model, Setting(threads=1), "made up", "onnxruntime", "sha256:0")


def _map(options: Options, work: Callable[[Options, Job], None], jobs: Sequence[Job]) -> None:
    if options.jobs == 1:
        for job in jobs:
            work(options, job)
        return
    with ProcessPoolExecutor(options.jobs) as pool:
        for done in [pool.submit(work, options, job) for job in jobs]:
            done.result()


def _search(options: Options, job: Job) -> None:
    """Leaves what the searches of a seed find, and the plans of all arms by the table."""
    from equal_time.arms import ARMS, decoded
    from equal_time.lab import Lab
    from equal_time.work import Work

    from dmcp_deploy.artifact import write_text

    setup, work, seed = _setup(options), Work(options.work), job[1]
    if not work.search(seed).exists():
        write_text(work.search(seed), json.dumps(Lab(setup).search(seed)) + "\n")
    for arm in ARMS:
        if not work.predicted(arm, seed).exists():
            decoded(setup, arm, work.searched(seed)).save(work.predicted(arm, seed))
    print(f"searched: seed {seed}", flush=True)


def _measure(options: Options, job: Job) -> None:
    """Leaves an arm's certificate."""
    from equal_time.timing import certify
    from equal_time.work import Work

    from dmcp_deploy.bench.certificate import certificate_text
    from dmcp_deploy.plan import ChannelPlan

    arm, seed, repeat = job
    work = Work(options.work)
    plan, path = ChannelPlan.load(work.predicted(arm, seed)), work.certificate(arm, seed)
    if repeat == 0:
        certificate = certify(_setup(options), arm, work.searched(seed), plan, path)
        print(f"{path.stem}: {certificate_text(certificate)}", flush=True)


def _train(options: Options, job: Job) -> None:
    """Leaves a plan's losses on the supernets, and how its network does."""
    from equal_time.lab import Lab
    from equal_time.work import Work

    from dmcp_deploy.artifact import write_text

    work, (arm, seed, repeat) = Work(options.work), job
    losses, dense = work.losses(arm, seed), work.dense(arm, seed, repeat)
    if losses.exists() and dense.exists():
        return
    lab, plan = Lab(_setup(options)), work.plan(arm, seed)
    if not losses.exists():
        write_text(losses, json.dumps(lab.losses(seed, plan)) + "\n")
    if not dense.exists():
        found = lab.train(f"dense/{dense.stem}", seed, repeat, plan)
        write_text(dense, json.dumps(found) + "\n")
        print(f"{dense.stem}: {found['top1']:.2%}", flush=True)


def _write(options: Options, found: dict[str, object]) -> None:
    from dmcp_deploy.artifact import write_text
    from dmcp_deploy.machine.environment import read_environment

    asked = {k: v for k, v in vars(options).items() if isinstance(v, str | int | float)}
    head = {"kind": "latency-worth", "command": "python benchmarks/latency_worth.py"}
    content = {**head, "options": asked, "environment": read_environment(), **found}
    write_text(options.out, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
