from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from table_samples import GROUPS, made_up

from dmcp_deploy.bench.tables.draw import draw_plans
from dmcp_deploy.bench.tables.model import latency_model

MODEL = latency_model(made_up())


def shares_of(plans):
    return np.array([float(MODEL.ms(*MODEL.channels(plan))) for plan in plans]) / MODEL.full_ms


def test_plans_are_spread_over_what_networks_take():
    plans = draw_plans(MODEL, 40)
    counts, _ = np.histogram(shares_of(plans), bins=[0.3, 0.5, 0.65, 0.8, 1.0])
    assert counts.min() >= 4
    assert plans == draw_plans(MODEL, 40)
    assert plans != draw_plans(MODEL, 40, seed=1)
    shares = [[plan[name] / group.size for name, group in GROUPS.items()] for plan in plans]
    apart = np.diff(np.array(shares), axis=1)
    assert apart.min() < -0.3
    assert apart.max() > 0.3


def test_half_of_the_plans_lie_near_a_budget():
    near = np.abs(shares_of(draw_plans(MODEL, 40, near=0.6)) / 0.6 - 1) < 0.15
    assert near[::2].mean() > 0.9
    assert near.mean() < 0.8


@pytest.mark.parametrize("align", [8, 12])
def test_widths_are_edges_or_at_least_aligned(align):
    model = replace(MODEL, align=align)
    edges = model.edges()
    for number, plan in enumerate(draw_plans(model, 20)):
        for name, width in plan.items():
            assert width % align == 0 or width == GROUPS[name].size
            assert number % 4 == 3 or width in edges[name]
