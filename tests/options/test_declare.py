"""Options as fields: what they say of themselves, their text, their limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

import pytest

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.options.declare import check, declared, merged, option, recorded, words


@dataclass(frozen=True)
class Base:
    shape: str = option("round", choices=("round", "square"), help="Shape.")
    _: KW_ONLY
    seed: int = option(0, least=0, most=9, remark=": it is one digit", later=True, help="Seed.")


@dataclass(frozen=True)
class Sample(Base):
    sizes: Sequence[int] = option((1,), flag="--size", help="Sizes.")
    kinds: tuple[str, ...] = option((), help="Kinds.")
    align: int = option(8, words={"auto": 8}, help="Alignment.")
    weights: str | None = option(None, words={"none": None}, help="Weights.")
    share: float | None = option(None, least=0.5, help="Share.")
    folder: Path | str | None = option(None, help="Folder.")
    graph: bool | None = option(None, flag="--graph/--no-graph", help="Graph.")
    quick: bool = option(False, help="Quick.")
    hidden: int = 3

    def __post_init__(self) -> None:
        check(self)


OPTIONS = {item.name: item for item in declared(Sample)}


def test_fields_without_help_are_no_options_and_keyword_only_ones_come_last() -> None:
    assert list(OPTIONS) == [
        *("shape", "sizes", "kinds", "align", "weights", "share", "folder", "graph", "quick"),
        "seed",
    ]


def test_flags_are_the_fields_names_unless_they_are_given() -> None:
    flags = [OPTIONS[name].flag for name in ("sizes", "graph", "quick")]
    assert flags == ["--size", "--graph/--no-graph", "--quick"]


def test_types_are_told_without_none() -> None:
    kinds = {name: (item.kind, item.is_list) for name, item in OPTIONS.items()}
    assert kinds == {
        **{"shape": (str, False), "sizes": (int, True), "kinds": (str, True)},
        **{"align": (int, False), "weights": (str, False), "share": (float, False)},
        **{"folder": (Path, False), "graph": (bool, False), "quick": (bool, False)},
        "seed": (int, False),
    }


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("sizes", "1, 8", (1, 8)),
        ("kinds", "FP16, int8", ("fp16", "int8")),
        ("kinds", "", ()),
        ("align", "auto", 8),
        ("align", "16", 16),
        ("weights", "none", None),
        ("weights", "imagenet", "imagenet"),
    ],
)
def test_text_stands_for_a_value(name: str, text: str, value: object) -> None:
    assert OPTIONS[name].parse(text) == value


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("sizes", "1,x", "--size '1,x' is not understood: give numbers such as 1,8."),
        ("sizes", "", "--size '' is not understood: give numbers such as 1,8."),
        ("sizes", "1234567890", "--size '1234567890' is not understood"),
        ("align", "0", "--align '0' is not understood: give auto or a number from 1 on."),
        ("align", "²", "--align '²' is not understood"),
    ],
)
def test_text_that_stands_for_nothing_is_refused(name: str, text: str, told: str) -> None:
    with pytest.raises(DmcpError) as caught:
        OPTIONS[name].parse(text)
    assert str(caught.value).startswith(told)


def test_a_default_has_its_text() -> None:
    texts = {name: OPTIONS[name].text(OPTIONS[name].default) for name in ("sizes", "kinds")}
    assert texts == {"sizes": "1", "kinds": ""}
    assert [OPTIONS[name].text(OPTIONS[name].default) for name in ("align", "weights")] == [
        *("auto", "none"),
    ]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"shape": "rund"}, "--shape 'rund' is unknown: choose one of round, square; did you mean"),
        ({"seed": 10}, "--seed 10 must lie in 0..9: it is one digit."),
        ({"share": 0.25}, "--share 0.25 is too small: it must be at least 0.5."),
        ({"share": float("nan")}, "--share nan is too small"),
    ],
)
def test_a_value_that_is_not_allowed_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(DmcpError) as caught:
        Sample(**changes)
    assert str(caught.value).startswith(told)


def test_options_are_merged_with_changes_and_checked() -> None:
    assert merged(Sample, None) == Sample()
    assert merged(Sample, {"seed": 1}, quick=True) == Sample(seed=1, quick=True)
    assert merged(Sample, Sample(seed=1), seed=2) == Sample(seed=2)
    with pytest.raises(DmcpError, match="--seed -1 must lie in"):
        merged(Sample, Sample(), seed=-1)
    with pytest.raises(TypeError, match="sed"):
        merged(Sample, None, sed=1)


def test_a_record_leaves_out_what_records_of_old_lack() -> None:
    assert "seed" not in recorded(Sample())
    assert recorded(Sample(seed=4, kinds=("a",))).items() >= {"seed": 4, "hidden": 3}.items()
    assert recorded(Sample(kinds=("a",)))["kinds"] == ["a"]


def test_words_ask_for_the_values_again() -> None:
    values = {"sizes": [1, 8], "kinds": [], "align": 8, "share": 0.5, "graph": False}
    given = words(Sample, {**values, "quick": True, "weights": None, "seed": 0})
    assert given == [
        *("--size", "1,8", "--align", "8", "--share", "0.5", "--no-graph", "--quick"),
        *("--seed", "0"),
    ]
    assert words(Sample, {"quick": False, "graph": True}) == ["--graph"]
