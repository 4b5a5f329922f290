"""Worth at equal measured time: what its arms keep, when they take the same time, what is said."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from latency_models import made_up_model
from latency_records import RECORD
from search_problems import fresh_network

from dmcp_deploy.data.types import Batch
from dmcp_deploy.options.measure import Setting
from dmcp_deploy.plan import NetworkSpec
from dmcp_deploy.search.costs.asked import flops_limits

FOLDER = Path(__file__).parents[2] / "benchmarks"
SPEC = NetworkSpec("small_mobilenet:small_mobilenet", 1.0, 10, (3, 32, 32))


@pytest.fixture(scope="module")
def part():
    """Returns what imports one of the benchmark's modules."""
    if not FOLDER.is_dir():
        pytest.skip("the benchmarks are not beside the tests")
    folders = [str(FOLDER / "worth"), str(FOLDER)]
    sys.path[:0] = folders
    yield lambda name: importlib.import_module(f"equal_time.{name}")
    for folder in folders:
        sys.path.remove(folder)


@pytest.fixture(scope="module")
def setup(part):
    """Returns a small network with a staircase for its time, and half of it as the budget."""
    arms = part("arms")
    model = made_up_model(fresh_network(SPEC), roundings=(1, 4, 8))
    sizes = {name: group.size for name, group in model.groups.items()}
    model = replace(model, full_ms=float(model.ms(*model.channels(sizes))))
    target = arms.Target(SPEC, model, Setting(threads=1), "made up", "onnxruntime", "sha256:0")
    options = Namespace(latency="50%", align=4, batch=8, lr=0.1, work=Path(), rounds=4)
    return arms.Setup(options, target)


@pytest.fixture(scope="module")
def found(part, setup):
    """Returns what searches might have left."""
    full = setup.counted().space.full.astype(float)
    slanted = full * np.linspace(0.9, 0.3, len(full))
    scores = np.random.default_rng(0).random(setup.network.unit_count)
    return part("arms").Searched(slanted.tolist(), slanted[::-1].tolist(), scores.tolist())


def test_arms_differ_and_are_in_time(part, setup, found):
    arms = part("arms")
    plans = [arms.decoded(setup, arm, found) for arm in arms.ARMS]
    for plan in plans:
        (limit,) = plan.limits
        assert limit.most == pytest.approx(setup.limit_ms)
        assert 0.9 < limit.share <= 1
    assert len({tuple(plan.widths().values()) for plan in plans}) == len(plans)
    kept = {arm: plan.groups for arm, plan in zip(arms.ARMS, plans, strict=True)}
    assert all(isinstance(keep.kept, int) for keep in kept[arms.UNIFORM].values())
    assert any(isinstance(keep.kept, tuple) for keep in kept[arms.HALP].values())


def test_a_correction_of_the_table_makes_plans_narrower(part, setup, found):
    arms = part("arms")
    for arm in arms.ARMS:
        usual, slower = (arms.decoded(setup, arm, found, factor) for factor in (1.0, 1.3))
        assert slower.macs < usual.macs
        assert slower.limits[0].value <= setup.limit_ms


def test_the_flops_budget_of_equal_time_is_that_of_its_plan(part, setup, found):
    time = setup.timed().limits.limits[0]
    widths, flops = part("arms").as_quick(setup.counted(), np.array(found.flops), time)
    problem = setup.counted()
    limits = flops_limits(str(flops), problem.accounting, problem.space)
    assert widths == problem.widths_near(np.array(found.flops), limits)
    assert time.cost.at(problem.accounting.units(widths)) <= time.most
    limits = flops_limits(str(round(1.1 * flops)), problem.accounting, problem.space)
    wider = problem.widths_near(np.array(found.flops), limits)
    assert time.cost.at(problem.accounting.units(wider)) > time.most


def test_the_knapsack_keeps_what_matters(part, setup, found):
    arms, problem = part("arms"), setup.timed()
    scores = np.array(found.scores)
    first, last = problem.network.prunable[2], problem.network.prunable[-1]
    usual = arms.decoded(setup, arms.HALP, found).groups
    scores[first.first : first.first + first.units] *= 1e-6
    scores[last.first : last.first + last.units] += 100
    groups = arms.decoded(setup, arms.HALP, replace(found, scores=scores.tolist())).groups
    assert groups[first.name].width < usual[first.name].width
    assert usual[last.name].width < groups[last.name].width == last.size
    middle = problem.network.prunable[4]
    own = scores[middle.first : middle.first + middle.units]
    kept = groups[middle.name].indices()
    assert len(kept) < middle.units
    assert set(kept) == set(np.argsort(-own)[: len(kept)].tolist())


def test_importance_is_what_scale_and_shift_would_change(part, setup):
    network = setup.fresh(1)
    for module in network.model.modules():
        if isinstance(module, torch.nn.ReLU6):
            module.max_val = 1e6  # what is clipped moves the loss less
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    batch = Batch(images, torch.arange(4))
    scores = part("lab")._taylor(network, [batch])
    network.model.train()
    torch.nn.functional.cross_entropy(network.model(batch.images), batch.labels).backward()
    group = next(g for g in network.prunable if g.name == "blocks.1.expand.0")
    norms = [network.model.get_submodule(f"blocks.1.{name}.1") for name in ("expand", "depthwise")]
    own = sum(norm.weight * norm.weight.grad + norm.bias * norm.bias.grad for norm in norms)
    assert own.abs().max() > 0
    found = torch.from_numpy(scores[group.first : group.first + group.units]).float()
    torch.testing.assert_close(found, own.abs().detach(), rtol=1e-3, atol=1e-6)


def taking(setup, plan, factor):
    """Returns the record of a plan that takes `factor` times what the table says of it."""
    problem = setup.timed()
    ms = factor * problem.limits.limits[0].cost.at(problem.accounting.units(plan.widths()))
    full, pruned = RECORD.at_batch(1)
    share = ms / setup.target.model.full_ms
    samples = tuple(share * one for one in full.samples_ms)
    return replace(RECORD, measured=(full, replace(pruned, samples_ms=samples)))


def test_plans_are_decoded_again_until_they_take_the_time(part, setup, found, tmp_path):
    arms, timing = part("arms"), part("timing")
    for arm in arms.ARMS:
        path = tmp_path / f"{arm}.json"
        certificate = timing.equalled(
            timing._begun(setup, arms.decoded(setup, arm, found)),
            path,
            lambda plan: taking(setup, plan, 1.2),  # slower than the table by a fifth
            lambda factor, arm=arm: arms.decoded(setup, arm, found, factor, timing.AIM),
            rounds=4,
        )
        first, chosen = certificate.seen[0], certificate.chosen_seen
        assert first.ms > 1.05 * setup.limit_ms
        assert len(certificate.rounds) >= 2
        assert certificate.rounds[1].factor == pytest.approx(1.2)
        assert certificate.chosen.predicted_ms == pytest.approx(chosen.ms)
        assert 0.9 < chosen.ms / setup.limit_ms <= timing.MOST
        assert timing.Certificate.load(path).chosen.plan == certificate.chosen.plan


def test_no_more_plans_are_measured_than_asked(part, setup, found, tmp_path):
    arms, timing, taken = part("arms"), part("timing"), []

    def take(plan):
        taken.append(plan)
        return taking(setup, plan, 1.5)

    def again(_):
        return arms.decoded(setup, arms.UNIFORM, found, 1 + 0.1 * len(taken))

    begun = timing._begun(setup, arms.decoded(setup, arms.UNIFORM, found))
    certificate = timing.equalled(begun, tmp_path / "kept.json", take, again, rounds=3)
    assert len(taken) == len(certificate.rounds) == 3


def row(arm, search, macs, ms, loss, *top1):
    """Returns a row of results as the stages leave it."""
    losses = {"first": loss, "latency": loss + 1, "flops": loss + 2}
    kept = {"macs": macs, "full_macs": 100, "predicted_ms": 1.1 * ms, "measured_ms": ms}
    known = {"interval_ms": [0.9 * ms, 1.1 * ms], "rounds": 2, "losses": losses}
    return {"arm": arm, "search": search, "top1": list(top1), **kept, **known}


def test_a_report_is_of_all_searches(part):
    rows = [
        row("dmcp, latency", 0, 60, 1.0, 2.0, 0.50, 0.52),
        row("dmcp, latency", 1, 56, 1.0, 2.2, 0.54, 0.56),
        row("uniform", 0, 40, 1.0, 2.1, 0.40, 0.42),
        row("uniform", 1, 40, 1.0, 2.4, 0.42, 0.44),
    ]
    target = {"network": "net", "ran_by": "a runtime", "device": "a cpu", "full_ms": 2.0}
    search = {
        "seed": 0,
        "latency": {"expected_share": 0.97},
        "flops": [{"budget": 5_000_000, "expected_share": 1.2}],
    }
    content = {"target": target, "rows": rows, "searches": [search]}
    content |= {"limit_ms": 1.0, "options": {"latency": "50%"}}
    told = part("report").report(content)
    assert "| dmcp, latency | 58.0% | 55.0% | 50.0% [45.0%, 55.0%] | 1.000 | 1.16 | 2, 2 |" in told
    assert "| uniform | 40.0% | 55.0% | 50.0% [45.0%, 55.0%] | 1.000 | 0.80 | 2, 2 |" in told
    # Losses pair by pair, +0.1 and +0.2; points by Welch, of means 51 and 55 against 41 and 43.
    uniform = next(one for one in told.splitlines() if one.startswith("| uniform | 2.2500"))
    assert "| +0.1500 [-0.4853, +0.7853] |" in uniform
    assert "| -11.00 [" in uniform
    assert "| 0 | flops | 5.00M multiply-adds | 1.200 |" in told


def test_the_page_tells_what_is_on_record(part):
    content = json.loads((FOLDER / "results" / "latency_worth.json").read_text())
    page = (FOLDER.parent / "docs" / "latency-budgets.md").read_text(encoding="utf-8")
    accuracy, time, points = r"[\d.]+ ± [\d.]+", r"[\d.]+% \[.*?\]", r"[-+]\d\.\d\d \[.*?\]"
    told = re.findall(f"{accuracy}|{time}|{points}", part("report").report(content))
    assert len(told) == 5 + 5 + 4
    assert [figure for figure in told if figure not in page] == []


def test_efficiency_is_the_share_of_macs_over_that_of_time(part, tmp_path):
    told = {"measured_ms": 1.0, "full_ms": 4.0}
    rows = {"mobilenet_v2-25-onnxruntime": {"certificate": told, "macs_share": 0.2}}
    (tmp_path / "latency_promise.json").write_text(json.dumps({"rows": rows}))
    (tmp_path / "latency_known").mkdir()
    RECORD.save(tmp_path / "latency_known/mobilenet_v2-openvino.json")
    lines = part("efficiency").efficiency(tmp_path).splitlines()
    promised = "| mobilenet_v2 | onnxruntime | --latency 25% | 20.0% | 25.0% | 0.80 |"
    assert lines[2:] == [promised, "| mobilenet_v2 | openvino | pruned | 50.0% | 80.0% | 0.62 |"]


@pytest.mark.slow(seconds=60)
@pytest.mark.needs("fashion-mnist")
def test_all_stages_in_small(part):
    script = [sys.executable, str(FOLDER / "latency_worth.py"), "--smoke"]
    done = subprocess.run(script, capture_output=True, text=True, check=True)
    last = done.stdout[done.stdout.rindex("made up; budget") :]
    for arm in part("arms").ARMS:
        time, worth = (line for line in last.splitlines() if line.startswith(f"| {arm} |"))
        assert "not yet" not in time
        assert "(2)" in worth
    assert "too few" not in last
