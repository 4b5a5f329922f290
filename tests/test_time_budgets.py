"""Budgets in time as text, and what is said of those that lack their unit."""

from __future__ import annotations

import pytest

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.units import check_unit, format_ms, parse_latency


@pytest.mark.parametrize(
    ("text", "ms"),
    [("25ms", 25.0), ("0.8 ms", 0.8), ("1s", 1000.0), (" .5S ", 500.0), ("800us", 0.8)],
)
def test_latency_is_milliseconds_whatever_the_network(text: str, ms: float) -> None:
    latency = parse_latency(text)
    assert latency.share is None
    assert latency.resolve(7.0) == pytest.approx(ms)


def test_share_of_latency_is_taken_of_the_full_network() -> None:
    assert parse_latency("60%").resolve(5.0) == pytest.approx(3.0)
    assert parse_latency("60%").ms is None


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("0ms", "must be above zero: write it as 25ms"),
        ("0%", "must be above zero"),
        ("4", "has no unit: .*; did you mean 4ms[?]"),
        ("4 msec", "is not understood: .*; did you mean 4ms[?]"),
        ("2 seconds", "is not understood: .*; did you mean 2s[?]"),
        ("-4ms", "is not understood: write it as"),
        ("101%", "is above 100% of the full network's time"),
        ("", "is not understood"),
        ("4,5ms", "is not understood"),
        ("nanms", "is not understood"),
    ],
)
def test_bad_latency_is_one_sentence_with_the_text_and_the_remedy(
    text: str, complaint: str
) -> None:
    with pytest.raises(DmcpError, match=complaint) as caught:
        parse_latency(text)
    assert str(caught.value).startswith(f"The latency budget {text!r} ")
    assert str(caught.value).count(". ") == 0


def test_parameters_lack_their_unit() -> None:
    with pytest.raises(DmcpError, match=r"The parameter budget '2' has no unit: .* 2% or 2M[?]"):
        check_unit("2", "parameter", "2M, 350k or 50%")


def test_milliseconds_show_three_digits() -> None:
    told = [format_ms(value) for value in (25.06, 0.8123, 1240.0, 3.98, 0.0)]
    assert told == ["25.1 ms", "0.812 ms", "1240 ms", "3.98 ms", "0 ms"]
