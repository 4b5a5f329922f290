"""The page in a real browser: no complaint, plots drawn, values those of the records."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser
from report_runs import KEPT, LOSSES, make_run

from dmcp_deploy.report.write import write_report

pytestmark = [pytest.mark.slow, pytest.mark.needs("chromium")]

PHONE, DESK = 390, 1280


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    runs = [
        make_run(folder / "small", macs=100, top1=0.7, median_ms=4.0),
        make_run(folder / "large-with-a-long-name-that-has-to-be-broken-on-a-phone", macs=190),
        make_run(folder / "begun", upto="search"),
    ]
    return write_report(runs, folder / "report.html")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as found:
        yield found


@pytest.mark.parametrize("width", [PHONE, DESK])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_opens_without_complaint_and_fits(
    browser: Browser, page: Path, width: int, dark: bool
) -> None:
    browser.complaints.clear()
    browser.show(width, dark=dark)
    browser.open(page)
    assert browser.run("document.documentElement.scrollWidth") == width
    light = browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(246, 247, 249)"
    assert light != dark
    assert browser.complaints == []


def test_the_browser_of_these_tests_sees_what_is_wrong(browser: Browser, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    fetched = "<script>fetch('http://192.0.2.1/');</script>"
    bad.write_text(f"{fetched}<script>console.error('said'); nothing();</script>")
    browser.complaints.clear()
    browser.open(bad)
    found = "\n".join(browser.complaints)
    assert "nothing is not defined" in found
    assert "said" in found
    assert "request: http://192.0.2.1/" in found


def test_every_plot_is_drawn_within_its_place(browser: Browser, page: Path) -> None:
    browser.show(DESK)
    browser.open(page)
    found = browser.run("""[...document.querySelectorAll(".chart")].map((chart) => {
      const plot = chart.querySelector(".plot").getBoundingClientRect();
      const shapes = [...chart.querySelectorAll(".plot .line, .plot .b1, .plot .dot")];
      const inside = (r) => r.left > plot.left - 9 && r.right < plot.right + 9
        && r.top > plot.top - 9 && r.bottom < plot.bottom + 9;
      return {id: chart.id, count: shapes.length, wide: plot.width > 300, high: plot.height > 200,
        inside: shapes.every((shape) => inside(shape.getBoundingClientRect()))};
    })""")
    assert len(found) == 2 + 2 * 10 + 4
    for chart in found:
        assert chart["count"], chart
        assert chart["wide"], chart
        assert chart["high"], chart
        assert chart["inside"], chart


def test_bars_are_as_high_as_the_plan_says(browser: Browser, page: Path) -> None:
    browser.show(DESK)
    browser.open(page)
    heights = browser.run(
        "[...document.querySelectorAll('#run1-channels .b1')].filter((b) => b.height)"
        ".map((b) => b.getBoundingClientRect().height)"
    )
    kept = [kept for _, kept in KEPT.values()]
    assert [h / heights[-1] for h in heights] == pytest.approx([k / kept[-1] for k in kept], 0.02)


def middle_of(browser: Browser, chart: str) -> dict[str, float]:
    script = f"""(() => {{
      const plot = document.querySelector("#{chart} .plot");
      plot.scrollIntoView({{block: "center"}});
      const {{left, top, width, height}} = plot.getBoundingClientRect();
      return {{left, top, width, height}};
    }})()"""
    return dict(browser.run(script))


def tip(browser: Browser, chart: str) -> str | None:
    shown = f"""(() => {{
      const tip = document.querySelector("#{chart} .tip");
      const box = tip.getBoundingClientRect();
      const inside = box.left >= 0 && box.right <= document.documentElement.clientWidth;
      return getComputedStyle(tip).visibility === "visible" && inside ? tip.textContent : null;
    }})()"""
    found = browser.run(shown)
    return None if found is None else str(found)


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_pointing_at_a_plot_shows_the_records_values(
    browser: Browser, page: Path, width: int
) -> None:
    browser.show(width)
    browser.open(page)
    for chart, share, shown in (
        ("run1-loss", 0.34, f"step 1\ntraining batches {LOSSES[1]}"),
        ("run1-loss", 0.99, f"step 3\ntraining batches {LOSSES[3]}"),
        ("run1-channels", 0.5, "block.1\noriginal 96\nkept 40"),
        ("run1-expected", 0.01, "step 1\nexpected 1.2"),
    ):
        box = middle_of(browser, chart)
        browser.point(box["left"] + share * box["width"], box["top"] + box["height"] / 2)
        assert tip(browser, chart) == shown
    browser.point(1, 1)
    assert tip(browser, "run1-expected") is None


def test_a_point_of_the_pareto_plot_tells_its_run(browser: Browser, page: Path) -> None:
    browser.show(DESK)
    browser.open(page)
    box = browser.run("""(() => {
      const dot = document.querySelector("#pareto-latency .point .dot");
      dot.scrollIntoView({block: "center"});
      const {left, top} = dot.getBoundingClientRect();
      return {left, top};
    })()""")
    browser.point(box["left"] + 6, box["top"] + 6)
    assert tip(browser, "pareto-latency") == (
        "small\ntop-1 70.00% at 64 px\n100 multiply-adds\nmedian 4.500 ms"
    )


def test_the_arrow_keys_go_from_mark_to_mark_and_are_read_aloud(
    browser: Browser, page: Path
) -> None:
    browser.show(DESK)
    browser.open(page)
    browser.run("document.querySelector('#run1-loss .plot').focus()")
    said = []
    for key in ("ArrowRight", "ArrowRight", "End", "ArrowRight", "Home"):
        browser.press(key)
        said.append(browser.run("document.querySelector('#run1-loss .say').textContent"))
    steps = [text.splitlines()[0] for text in said]
    assert steps == ["step 0", "step 1", "step 3", "step 3", "step 0"]
    browser.press("Escape")
    assert tip(browser, "run1-loss") is None


def test_tables_on_the_page_hold_what_the_plots_do(browser: Browser, page: Path) -> None:
    browser.open(page)
    rows = browser.run(
        "[...document.querySelectorAll('#run1-loss tbody tr')]"
        ".map((row) => [...row.cells].map((cell) => Number(cell.textContent)))"
    )
    assert rows == [[i, loss] for i, loss in enumerate(LOSSES)]
    names = browser.run(
        "JSON.stringify([...document.querySelectorAll('[role=img]')].map((e) =>"
        " e.getAttribute('aria-labelledby').split(' ').map((i) => document.getElementById(i))"
        ".every((label) => label && label.textContent)))"
    )
    assert all(json.loads(names))


def test_without_scripts_nothing_runs_but_the_pages_own(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.run(
        "(() => { const s = document.createElement('script');"
        " s.textContent = 'window.foreign = 1'; document.body.append(s); })()"
    )
    assert browser.run("typeof window.foreign") == "undefined"
