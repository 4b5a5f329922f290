"""The statistics of the experiments, by hand, and the rules that were fixed before they ran."""

from __future__ import annotations

import math

import pytest


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 12.7062), (2, 4.3027), (7, 2.3646), (30, 2.0423)]
)
def test_quantiles_are_those_of_the_table(worth, freedom, quantile):
    assert worth("analysis").student_quantile(freedom) == pytest.approx(quantile, abs=1e-4)


def test_welch_by_hand(worth):
    mean_of, welch = worth("analysis").mean_of, worth("analysis").welch
    # Variances of the means 1/3 and 4/4: 16/9 over (1/9)/2 + 1/3 is 32/7 degrees of freedom.
    left, right = mean_of([1.0, 2.0, 3.0]), mean_of([0.0, 0.0, 3.4641016, 3.4641016])
    found = welch(left, right)
    assert found.value == pytest.approx(2 - 1.7320508)
    assert found.variance == pytest.approx(4 / 3)
    assert found.freedom == pytest.approx(32 / 7)


def test_networks_of_one_search_count_once(worth):
    arm_mean = worth("analysis").arm_mean
    records = [
        {"search": search, "seed": seed, "top1": top1 / 100}
        for seed, (search, top1) in enumerate([(0, 50.0), (1, 60.0), (0, 52.0), (1, 62.0)])
    ]
    by_search = arm_mean(records)
    assert (by_search.value, by_search.freedom) == (pytest.approx(56), 1)
    assert by_search.variance == pytest.approx(25)  # of 51 and 61: 50 over 2
    assert arm_mean(records, by_search=False).freedom == 3


def test_a_margin_as_multiply_adds(worth):
    analysis = worth("analysis")
    uniform, larger = analysis.Mean(50, 0.01, 7), analysis.Mean(53, 0.01, 3)
    arm = analysis.Mean(51, 0.04, 2)
    found = analysis.log_macs(arm, uniform, larger, 1.35)
    # A third of the way, so a third of ln 1.35; the slope is 3 points over that.
    assert found.value == pytest.approx(0.3001046 / 3)
    by_hand = (0.05 + 0.02 / 9 - 2 * 0.01 / 3) / (3 / 0.3001046) ** 2
    assert found.variance == pytest.approx(by_hand)
    assert analysis.log_macs(arm, uniform, analysis.Mean(50.1, 0.01, 3), 1.35) is None


def test_what_a_design_could_have_told(worth):
    mean = worth("analysis").Mean(0.3, 0.25, 4)
    # The table's 97.5% and 80% quantiles at 4 degrees of freedom, times the standard error.
    assert mean.detectable == pytest.approx((2.7764 + 0.9410) * 0.5, abs=1e-3)


def test_the_table_of_arms_begins_with_the_baseline(worth):
    analysis = worth("analysis")
    sizes = {"dmcp": (51, 1e6), "uniform": (50, 1e6), "uniform, larger": (56, 2e6)}
    records = [
        {"arm": arm, "seed": seed, "search": None, "macs": macs, "top1": (top1 + seed) / 100}
        for arm, (top1, macs) in sizes.items()
        for seed in range(3)
    ]
    head, _, first, *others = analysis.arms_table(analysis.arms_of(records))
    assert first.startswith("| uniform | 1.000M | 51.00 ± 1.00 (3) |")
    assert head.count("|") == first.count("|") == others[0].count("|")
    ours = next(line for line in others if line.startswith("| dmcp "))
    # Three seeds of deviation 1 on both sides: 2.7764 standard errors of sqrt(2 / 3).
    half = 2.7764 * math.sqrt(2 / 3)
    assert f"+1.00 [{1 - half:+.2f}, {1 + half:+.2f}]" in ours
    assert " 1.12 [" in ours  # 2 to the power of 1 / 6


@pytest.mark.parametrize(
    ("larger", "spread", "verdict"), [(52.0, 0.5, "yes"), (51.4, 0.5, "no"), (52.0, 0.7, "no")]
)
def test_what_d1_lets_through(worth, larger, spread, verdict):
    results = {
        f"2000/{arm}/{seed}": {
            **{"arm": arm, "seed": seed, "search": None},
            "top1": (top1 + sign * spread) / 100,
        }
        for arm, top1 in (("uniform", 50.0), ("uniform, larger", larger))
        for seed, sign in enumerate((-1, 0, 1))
    }
    (row,) = worth("d1_calibrate").report({"results": results}).splitlines()[2:]
    assert row.startswith("| 2000 | 50.00 (3) |")
    assert row.endswith(f"| {verdict} |")


def judged(loss, macs):
    return {
        "loss": loss,
        "seen_loss": loss,
        "scaled_loss": loss - 1,
        "top1": 1 - loss,
        "macs": macs,
    }


@pytest.mark.parametrize(
    ("dmcp", "best", "said"),
    [
        (1.000, 0.995, "No headroom"),
        (0.995, 0.950, "dmcp: 10% of the way from uniform to the best found; it is to be mended"),
        (0.960, 0.950, "dmcp: 80% of the way from uniform to the best found; it finds most of it"),
    ],
)
def test_what_d0_makes_of_losses(worth, dmcp, best, said):
    losses = {"uniform": 1.0, "dmcp": dmcp, "budget-only": 1.1}
    losses |= {"autoslim": 1.0, "best found": best}
    row = {
        "seed": 0,
        "expected_share": 0.97,
        "plans": {name: judged(loss, macs=20) for name, loss in losses.items()},
        "larger": judged(0.9, macs=30),
        "random": [1.2, 1.1],
        "groups": [
            {
                "name": "stem.0",
                "widths": dict.fromkeys(losses, 8),
                "gated": None,
                "sliced": {"uniform": 0.0011, "dmcp": 0.002, "best found": 0.003},
            }
        ],
    }
    page = worth("d0_headroom").report({"results": {"fashion/0": row}})
    assert said in page
    less, as_macs = f"{dmcp - 1:+.4f}", f"{1.5 ** (10 * (1 - dmcp)):.2f}"
    points = f"{100 * (1 - dmcp):+.2f}"
    assert f"| dmcp | {less} | {as_macs} | {less} | {less} | {as_macs} | {points} |" in page
    assert "1.1000 of 2, 1.1500" in page
    assert "| stem.0 | 8 | 8 | 8 | 8 | 8 | at an end | 1.1 | 2.0 | 3.0 |" in page
