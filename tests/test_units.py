from __future__ import annotations

import pytest

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.units import (
    Budget,
    format_bytes,
    format_macs,
    parse_budget,
    parse_bytes,
    parse_params,
)


@pytest.mark.parametrize(
    ("text", "macs"),
    [
        ("211M", 211_000_000),
        ("1.04G", 1_040_000_000),
        ("2.2g", 2_200_000_000),
        ("1.5T", 1_500_000_000_000),
        (".5k", 500),
        ("300774272", 300_774_272),
        (" 43 m ", 43_000_000),
        ("1.", 1),
    ],
)
def test_absolute_budget_is_macs_whatever_the_network(text: str, macs: int) -> None:
    budget = parse_budget(text)
    assert (budget.amount, budget.share) == (macs, None)
    assert budget.resolve(full=7) == macs


@pytest.mark.parametrize(
    ("text", "full_macs", "macs"),
    [("50%", 101, 50), ("100%", 300_774_272, 300_774_272), ("12.5 %", 800, 100)],
)
def test_share_is_taken_of_the_full_network_and_rounded_down(
    text: str, full_macs: int, macs: int
) -> None:
    budget = parse_budget(text)
    assert budget.amount is None
    assert budget.resolve(full_macs) == macs


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "not understood"),
        ("lots", "not understood"),
        ("-5M", "not understood"),
        ("1e9", "not understood"),
        ("211 MB", "not understood"),
        ("211,5M", "not understood"),
        ("nan", "not understood"),
        ("9" * 400, "not understood"),
        ("0", "above zero"),
        ("0.0G", "above zero"),
        ("0%", "above zero"),
        ("100.1%", "above 100%"),
        ("0.4", "below one multiply-add"),
    ],
)
def test_bad_budget_is_one_sentence_with_the_text_and_the_remedy(text: str, complaint: str) -> None:
    with pytest.raises(DmcpError, match=complaint) as caught:
        parse_budget(text)
    assert repr(text) in str(caught.value)
    assert "write it as 211M, 1.04G or 50%" in str(caught.value)


@pytest.mark.parametrize(
    ("macs", "text"),
    [
        (211_000_000, "211.0M"),
        (1_040_000_000, "1.04G"),
        (4_089_184_256, "4.09G"),
        (43_210, "43.2K"),
        (999, "999"),
        (1e9, "1.00G"),
    ],
)
def test_macs_are_written_as_people_write_them(macs: float, text: str) -> None:
    assert format_macs(macs) == text


@pytest.mark.parametrize("text", ["211.0M", "1.04G", "43.2K"])
def test_formatted_macs_parse_back(text: str) -> None:
    macs = parse_budget(text).amount
    assert macs is not None
    assert format_macs(macs) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (13_900_000, "13.9 MB"), (1_000, "1.0 kB"), (2.5e9, "2.5 GB")],
)
def test_bytes_are_written_in_decimal_units(count: float, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("text", "amount"),
    [("8MB", 8_000_000), ("350 kB", 350_000), ("1.5GB", 1_500_000_000), ("2048", 2048), ("9b", 9)],
)
def test_bytes_of_weights_have_an_optional_b(text: str, amount: int) -> None:
    assert parse_bytes(text) == Budget(text, amount, None)


@pytest.mark.parametrize(("text", "share"), [("50%", 0.5), ("100 %", 1.0)])
def test_every_count_may_be_a_share(text: str, share: float) -> None:
    for parse in (parse_budget, parse_params, parse_bytes):
        assert parse(text) == Budget(text, None, share)


@pytest.mark.parametrize(
    ("parse", "text", "sentence"),
    [
        (parse_params, "0", "The parameter budget '0' must be above zero: write it as 2M, 350k"),
        (parse_params, "two", "The parameter budget 'two' is not understood: write it as 2M"),
        (parse_params, "0.4", "The parameter budget '0.4' is below one parameter"),
        (parse_bytes, "8mib", "The weight budget '8mib' is not understood: write it as 8MB"),
        (parse_bytes, "B", "The weight budget 'B' is not understood"),
        (parse_bytes, "101%", "The weight budget '101%' is above 100% of the network"),
    ],
)
def test_other_counts_are_refused_by_their_name(parse, text: str, sentence: str) -> None:
    with pytest.raises(DmcpError) as error:
        parse(text)
    assert str(error.value).startswith(sentence)
