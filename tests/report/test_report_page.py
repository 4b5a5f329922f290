"""The page, the Markdown and the JSON of runs whose figures are known."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from html_pages import Page
from report_runs import KEPT, NETWORK, STAGES, edit, make_run

from dmcp_deploy.plan import ChannelPlan
from dmcp_deploy.report.charts import Labels, Point, scatter_chart
from dmcp_deploy.report.markup import Table, script_json, table_html
from dmcp_deploy.report.write import report_text


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


def test_the_page_holds_every_part_of_a_finished_run(run: Path) -> None:
    page = Page(report_text([run]))
    charts = ("channels", "shares", "expected", "search-loss", "loss", "top1", "latency", "rounds")
    charts += ("layers", "layer-ratios")
    assert {f"run1-{name}" for name in charts} <= set(page.ids)
    assert len(set(page.ids)) == len(page.ids)
    for shown in (
        "95.00% of 200",
        "75.00%",
        "6.750",
        "31.2 dB",
        "51 int8, 1 fp32",
        "a cpu",
        "0.38",
    ):
        assert shown in page.words, shown


def test_the_page_asks_for_nothing_beside_itself(run: Path) -> None:
    text = report_text([run])
    assert Page(text).addresses == []
    assert "default-src 'none'" in text.replace("&#x27;", "'")
    assert not re.search(r"url\(|@import|fetch\(|XMLHttp", text)
    # The one address is the name of SVG's elements, which nothing is read from.
    assert set(re.findall(r"https?://[\w./]+", text)) == {"http://www.w3.org/2000/svg"}


def test_the_same_run_gives_the_same_page(run: Path) -> None:
    assert report_text([run]) == report_text([run])


@pytest.mark.parametrize("upto", STAGES)
def test_a_run_of_any_state_has_a_page_that_says_what_is_missing(upto: str, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", upto=upto)
    page = Page(report_text([folder]))
    report = json.loads(report_text([folder], "json"))["runs"][0]
    for lack in report["missing"].values():
        assert lack["what"] in page.words
        assert lack["command"] in page.words
    assert ("run1-latency" in page.ids) == (upto not in STAGES[:4])


def test_a_budget_that_is_missed_is_said_to_be(tmp_path: Path) -> None:
    words = Page(report_text([make_run(tmp_path / "run", macs=210)])).words
    assert "missed105.00% of 200" in words


def test_widths_of_a_budget_in_time_are_explained(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert "Widths are multiples of 8, or full" in report_text([run])
    assert "step of time" not in report_text([run]) + report_text([run], "md")
    plan = ChannelPlan.load(run / "plan.json")
    steps = dict.fromkeys(KEPT, 16) | {"stem": 8}
    replace(plan, steps=steps, is_proven=False).save(run / "plan.json")
    page, text = report_text([run]), report_text([run], "md")
    note = "Widths are multiples of 8 or 16, or full, where the group is larger. They are the last"
    assert note in Page(page).words
    for shown in (page, text):
        assert "step of time" in shown
        assert "3 of 6 by 16" in shown
        assert "It is not proven that no plan" in shown


def test_a_budget_that_is_not_filled_is_said_to_be_with_what_helps(tmp_path: Path) -> None:
    near, far = make_run(tmp_path / "near", macs=196), make_run(tmp_path / "far", macs=190)
    for form in ("html", "md", "json"):
        assert "where 98% is usual" not in report_text([near], form)
        text = report_text([far], form)
        assert (
            "The plan reaches 95.0% of the budget of 200 multiply-adds, where 98% is usual" in text
        )
        assert "--align 1 offers more, and --flops 190 is reached just so" in text


def test_a_training_that_diverged_is_drawn_as_far_as_it_goes(run: Path) -> None:
    steps = [{"step": 0, "loss": 1.0}, {"step": 1, "loss": 2.0}, {"step": 2, "loss": math.nan}]
    lines = "".join(f"{json.dumps(step)}\n" for step in steps)
    (run / "metrics/train.jsonl").write_text(lines)
    page = Page(report_text([run]))
    assert "1 steps reported a loss that is no finite number" in page.words
    assert "run1-loss" in page.ids
    report = json.loads(report_text([run], "json"))
    assert [step["loss"] for step in report["runs"][0]["train_steps"]] == [1.0, 2.0, None]


EVIL = """</script><img src=x onerror=alert(1)>"'&"""


def test_nothing_of_a_run_becomes_markup(tmp_path: Path) -> None:
    network = replace(NETWORK, model=EVIL)
    folder = make_run(tmp_path / "<b>run&amp;", network=network, data=EVIL, method="dmcp")
    edit(folder / "bench.json", "measured", 1, "name", value=EVIL)
    edit(folder / "bench.json", "environment", value={"cpu": EVIL})
    edit(folder / "run.json", "stages", "precision bf16", "figures", "unchecked", value=EVIL)
    edit(folder / "plan.json", "groups", EVIL, value={"size": 8, "keep": 4})
    page = Page(report_text([folder]))
    assert not {"img", "b"} & set(page.tags)
    assert page.words.count(EVIL) > 5
    assert any(EVIL in mark[2] for text in marks(page) for mark in json.loads(text))


def marks(page: Page) -> list[str]:
    """Returns the charts' JSON; the last script is the page's own."""
    return page.scripts[:-1]


def test_what_is_pointed_at_shows_the_records_values(run: Path) -> None:
    page = Page(report_text([run]))
    found = [json.loads(text) for text in marks(page)]
    groups = [mark[2] for mark in found[0]]
    assert groups == [f"{name}\noriginal {s}\nkept {k}" for name, (s, k) in KEPT.items()]
    losses = next(m for m in found if "step 3\ntraining batches 0.5" in [mark[2] for mark in m])
    assert [mark[0] for mark in losses] == pytest.approx([0, 100 / 3, 200 / 3, 100], abs=1e-3)


def test_several_runs_stand_side_by_side(tmp_path: Path) -> None:
    folders = [
        make_run(tmp_path / "small", macs=100, top1=0.7, median_ms=4.0),
        make_run(tmp_path / "large", macs=190, top1=0.75, median_ms=6.0),
        make_run(tmp_path / "board", macs=190, top1=0.74, median_ms=1.0, cpu="a board"),
        make_run(tmp_path / "begun", upto="search"),
    ]
    page = Page(report_text(folders))
    assert {"pareto-latency", "pareto-macs", "run1", "run2", "run3", "run4"} <= set(page.ids)
    assert len(set(page.ids)) == len(page.ids)
    assert page.addresses == ["#run1", "#run2", "#run3", "#run4"]
    assert "Not measured on the same device, or not at all: board." in page.words
    assert "Not trained to the end yet: begun." in page.words
    pareto = json.loads(report_text(folders, "json"))["pareto"]
    assert pareto == {"macs": ["small", "large"], "latency": ["small", "large"]}


def test_runs_of_which_none_is_trained_have_no_pareto_plot(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / name, upto="search") for name in ("a", "b")]
    page = Page(report_text(folders))
    assert not {"pareto-latency", "pareto-macs"} & set(page.ids)
    assert "Not trained to the end yet: a, b." in page.words


def test_the_json_tells_what_the_records_do(run: Path) -> None:
    report = json.loads(report_text([run], "json"))
    assert (report["kind"], report["schema_version"]) == ("report", 1)
    facts = report["runs"][0]
    assert facts["budget_met"] is True
    assert facts["plan"]["groups"]["stem"] == {"size": 32, "keep": 24}
    base, pruned = facts["bench"]["measured"]
    assert (base["median_ms"], base["against_first"]) == (11.25, None)
    assert pruned["against_first"]["latency_ratio"] == pytest.approx(0.6)
    assert pruned["against_first"]["efficiency"] == pytest.approx(190 / 400 / 0.6)


def test_layers_are_compared_with_the_originals(run: Path) -> None:
    original, pruned = json.loads(report_text([run], "json"))["runs"][0]["layers"]["networks"]
    assert [layer["against_first"] for layer in original["layers"]] == [None, None]
    found = pruned["layers"][1]["against_first"]
    assert found["macs_ratio"] == pytest.approx(13 / 16)
    assert found["time_ratio"]["value"] == 1.0
    assert pruned["layers"][1]["gmacs_per_s"] == pytest.approx(3900 / 5.0 / 1e6)
    table = table_lines(report_text([run], "md"), "Time layer by layer")
    assert "0.812 | 1.000 | 1.000 to 1.000 | width not a multiple of 8" in table[-1]
    assert found["reason"] in Page(report_text([run])).words


def test_the_markdown_holds_tables_and_commands(run: Path) -> None:
    text = report_text([run], "md")
    assert "95.00% of the budget of 200 multiply-adds, which is met" in text
    assert "| pruned, trained | 75.00% | 0.5000 | 40 | 64 |" in text
    assert "\n    dmcp-deploy prune --model mobilenet_v2 --flops 200 " in text
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table_lines(text, "Latency")}
    assert widths == {14}


def table_lines(text: str, title: str) -> list[str]:
    part = text.partition(f"## {title}\n\n")[2]
    return part.partition("\n\n")[0].splitlines()


def test_markup_in_markdown_is_text(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    edit(folder / "bench.json", "measured", 1, "name", value="a|b <img> `c`\n# d")
    text = report_text([folder], "md")
    assert r"| a\|b \<img\> \`c\` \# d | 1 |" in text


def test_columns_of_numbers_are_set_flush_right() -> None:
    table = Table("t", ("a", "b", "c"), (("x", "1.5", "2 ms"), ("y", "", "none")))
    assert [table.is_numeric(i) for i in range(3)] == [False, True, False]
    assert '<td class="n">1.5</td>' in table_html(table)


def test_json_cannot_close_its_script() -> None:
    text = script_json(["</script>", "<!--", "&", "\u2028"])
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == ["</script>", "<!--", "&", "\u2028"]


def test_of_many_points_no_names_are_drawn() -> None:
    labels = Labels("k", "t", "w", "x", "y")
    points = [Point(f"name-{i}", float(i), float(i), ()) for i in range(13)]
    assert 'class="name"' in scatter_chart(labels, points[:12])
    assert 'class="name"' not in scatter_chart(labels, points)


def test_names_of_points_in_one_place_are_drawn_at_heights_of_their_own() -> None:
    labels = Labels("k", "t", "w", "x", "y")
    here = [Point(name, 1.0, 1.0, ()) for name in ("one", "two", "three")]
    chart = scatter_chart(labels, [*here, Point("far", 9.0, 9.0, ())])
    found = re.findall(r'class="name" x="-?10" y="(-?\d+)" [^>]*>(\w+)<', chart)
    heights = {name: int(y) for y, name in found}
    assert heights["far"] == heights["one"]
    assert len({heights[name] for name in ("one", "two", "three")}) == 3
