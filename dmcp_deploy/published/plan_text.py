"""What `plan show` and `plan diff` tell of plans; torch-free."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dmcp_deploy.artifact import encode
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.plan import ChannelPlan, Keep, NetworkSpec
from dmcp_deploy.text_table import columns
from dmcp_deploy.units import format_input, format_macs

_TOTALS = ("macs", "params")


def find_plan(source: Path) -> ChannelPlan:
    """Returns the plan in a file, or the one of a run directory.

    Raises:
        DmcpError: There is none, or it is damaged.
    """
    if source.is_dir() and not (source / "plan.json").exists():
        raise DmcpError(f"{source} has no plan.json: give a plan, or a run that has searched one.")
    return ChannelPlan.load(source / "plan.json" if source.is_dir() else source)


def describe_plan(plan: ChannelPlan) -> dict[str, Any]:
    """Returns a plan as JSON values, each group with its width and share."""
    content = plan.to_json()
    for name, keep in plan.groups.items():
        content["groups"][name] |= {"kept": keep.width, "share": keep.width / keep.size}
    return content


def plan_table(plan: ChannelPlan) -> str:
    """Returns a plan as text: its groups, then its totals."""
    rows: list[tuple[str, ...]] = [("group", "kept", "size", "share", "channels")]
    for name, keep in plan.groups.items():
        share = f"{keep.width / keep.size:.1%}"
        leading = keep.indices() == list(range(keep.width))
        channels = "the first" if leading else "by index"
        rows.append((name, str(keep.width), str(keep.size), share, channels))
    rows = [(*row, *step) for row, step in zip(rows, plan.step_column(), strict=True)]
    return "\n".join([columns(rows, right=(1, 2, 3)), *_totals(plan)])


def compare_plans(first: ChannelPlan, second: ChannelPlan) -> dict[str, Any]:
    """Returns the groups in which two plans differ, and both their totals, as JSON values.

    Raises:
        DmcpError: They are plans of different networks.
    """
    _check_same_network(first, second)
    pairs = {name: (keep, second.groups[name]) for name, keep in first.groups.items()}
    return {
        "model": encode(first.network),
        "groups": {
            name: {"size": a.size, "kept": [a.width, b.width], "same_channels": _shared(a, b)}
            for name, (a, b) in pairs.items()
            if a.indices() != b.indices()
        },
        "group_count": len(pairs),
        "method": [first.method, second.method],
        **{total: [getattr(first, total), getattr(second, total)] for total in _TOTALS},
    }


def diff_table(differences: dict[str, Any], names: tuple[str, str]) -> str:
    """Returns the differences of two plans as text.

    Args:
        differences: What `compare_plans` returned.
        names: What to call the two plans.
    """
    groups = differences["groups"]
    rows: list[tuple[str, ...]] = [("", *names, "size", "change", "in both")]
    for name, group in groups.items():
        a, b = group["kept"]
        both = str(group["same_channels"])
        rows.append((name, str(a), str(b), str(group["size"]), f"{b - a:+d}", both))
    for total in _TOTALS:
        a, b = differences[total]
        rows.append((total, f"{a:,}", f"{b:,}", "", f"{b - a:+,} ({b / a - 1:+.1%})", ""))
    count = f"{len(groups)} of {differences['group_count']} groups differ"
    return f"{columns(rows, right=(1, 2, 3, 4, 5))}\n{count}"


def describe_network(spec: NetworkSpec) -> str:
    """Returns a network with its width, classes and input in one line."""
    shape = format_input(spec.input_shape)
    return f"{spec.model} x{spec.width_mult:g}, {spec.num_classes} classes, input {shape}"


def _totals(plan: ChannelPlan) -> list[str]:
    kept = f"{format_macs(plan.macs)} ({plan.macs:,}, {plan.macs / plan.full_macs:.1%})"
    budgets = [f"{one.text}, {one.share:.2%} of it used" for one in plan.budgets()]
    return [
        f"model {describe_network(plan.network)}",
        f"multiply-adds {format_macs(plan.full_macs)} -> {kept}, parameters {plan.params:,}",
        f"method {plan.method}, seed {plan.seed}, widths multiples of {plan.multiples()}",
        f"budget {'; '.join(budgets) or 'none'}",
        *filter(None, [plan.doubt()]),
    ]


def _shared(first: Keep, second: Keep) -> int:
    return len(set(first.indices()) & set(second.indices()))


def _check_same_network(first: ChannelPlan, second: ChannelPlan) -> None:
    sizes = [{name: keep.size for name, keep in plan.groups.items()} for plan in (first, second)]
    if first.network != second.network or sizes[0] != sizes[1]:
        raise DmcpError(
            f"The plans are of different networks, {describe_network(first.network)} and"
            f" {describe_network(second.network)}, so their groups cannot be compared."
        )
