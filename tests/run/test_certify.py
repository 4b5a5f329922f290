"""A budget in time is kept by measurement, before the pruned network is trained."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from pipeline_table import FULL_MS, bench_record, measuring, of_a_board, pipeline_table
from tiny_pipeline_net import tiny_pipeline_net
from tiny_runs import asked, changed, library, refused, snapshot, succeed

import dmcp_deploy
from dmcp_deploy.bench.certificate import (
    FILE,
    MET,
    MISSED,
    PREDICTED,
    Certificate,
    certificate_text,
)
from dmcp_deploy.bench.tables.table import LatencyTable
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.options.measure import Setting
from dmcp_deploy.plan import ChannelPlan
from dmcp_deploy.report.gather import gather
from dmcp_deploy.report.write import report_text
from dmcp_deploy.run import certificates, certify
from dmcp_deploy.run.budgets import for_each_budget
from dmcp_deploy.run.certificates import table_ms
from dmcp_deploy.run.summary import summarize
from dmcp_deploy.rundir.directory import RunDir
from dmcp_deploy.rundir.stages import CERTIFY, SLICE
from dmcp_deploy.units import format_ms

#: As `_OVER` of the certificate: what two loads of one network may differ by.
WITHIN = 1.01


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "given.json"
    pipeline_table().save(path)
    return path


@pytest.fixture
def slower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes measurements of the run "run" say that plans take so many times what is predicted."""

    def is_slower(factor: float) -> None:
        stand_in = measuring(tmp_path / "run", pipeline_table(), factor)
        monkeypatch.setattr(certify, "measure", stand_in)

    return is_slower


def search(data: Path, out: Path, table: Path, **changes) -> RunDir:
    options = {"method": "uniform", "flops": None, "latency": "2.4ms", "table": table, **changes}
    return dmcp_deploy.run.search(**library(data, out, **options))


def plan_of(run: RunDir) -> ChannelPlan:
    return ChannelPlan.load(run.file("plan.json"))


def certificate_of(run: RunDir) -> Certificate:
    return Certificate.load(run.file(FILE))


def test_a_plan_that_takes_what_was_predicted_is_kept(tiny_folder, tmp_path, table, slower):
    slower(1.0)
    run = search(tiny_folder, tmp_path / "run", table)
    certificate = certificate_of(run)
    (tried,) = certificate.rounds
    assert certificate.verdict == MET
    assert tried.plan == plan_of(run)
    assert 0.98 * 2.4 <= tried.predicted_ms <= 2.4
    assert certificate.limit_ms == 2.4
    assert certificate.seen[0].ms == pytest.approx(tried.predicted_ms, rel=0.01)
    assert CERTIFY in run.stages()
    assert not run.file("certify").exists()


@pytest.mark.parametrize("latency", ["2.4ms", "60%"])
@pytest.mark.parametrize("factor", [1.2, 0.8])
def test_a_plan_that_misses_is_decoded_again(latency, factor, tiny_folder, tmp_path, table, slower):
    slower(factor)
    run = search(tiny_folder, tmp_path / "run", table, latency=latency)
    certificate, known = certificate_of(run), LatencyTable.load(table)
    first, last = certificate.rounds
    assert certificate.verdict == MET
    assert certificate.verdict_on(0) == (MISSED if factor > 1 else MET)
    truth_ms = [factor * table_ms(known, item.plan) for item in (first, last)]
    assert last.factor == pytest.approx(factor, rel=0.01)
    assert 0.95 * 2.4 <= truth_ms[1] <= WITHIN * 2.4
    assert (truth_ms[1] < truth_ms[0]) == (factor > 1)
    assert plan_of(run) == last.plan
    dmcp_deploy.slice(run.path)


def test_the_target_is_the_tables_where_none_is_asked_for(tiny_folder, tmp_path):
    setting = Setting(runtime="tensorrt", precision="fp16", batch=8)
    of_a_board(setting=setting).save(tmp_path / "orin.json")
    options = {"flops": None, "latency": "60%", "table": tmp_path / "orin.json"}
    succeed(*asked("search", tiny_folder, tmp_path / "run", method="uniform", **options))
    run = RunDir(tmp_path / "run")
    assert run.request().target == setting
    assert certificate_of(run).setting == setting
    told = refused(*asked("search", tiny_folder, tmp_path / "other", batch=1, **options))
    assert "was measured with batch 8, and 1 is asked for" in told


@pytest.mark.slow
def test_the_whole_chain_rehearses_keeps_the_budget_and_trains(
    tiny_folder, tmp_path, table, slower
):
    slower(1.2)
    options = {"method": "dmcp", "flops": None, "latency": "60%", "table": table}
    compute = {"seconds": 0.2, "no_rehearse": None}
    text = succeed(*asked("prune", tiny_folder, tmp_path / "run", **options, **compute))
    run = RunDir(tmp_path / "run")
    certificate = certificate_of(run)
    assert f"{certificate_text(certificate)}\n" in text
    plan = plan_of(run)
    assert certificate.verdict == MET
    assert plan == certificate.rounds[1].plan
    assert sum(p.numel() for p in dmcp_deploy.load(run.path).parameters()) == plan.params
    before = snapshot(run.path)
    succeed(*asked("prune", tiny_folder, tmp_path / "run", **options, **compute))
    assert not changed(before, snapshot(run.path))


def test_what_is_kept_says_what_it_comes_to(tiny_folder, tmp_path, table, slower):
    slower(1.0)
    run = search(tiny_folder, tmp_path / "run", table, latency="60%")
    told = json.loads(run.file(FILE).read_text())
    seen = certificate_of(run).seen[0]
    assert told["kind"] == "latency-certificate"
    assert (told["asked"], told["verdict"]) == ("60%", "met")
    assert told["measured_ms"] == pytest.approx(seen.ms)
    assert told["interval_ms"][0] <= told["measured_ms"] <= told["interval_ms"][1]


def test_a_report_tells_what_was_asked_predicted_and_measured(tiny_folder, tmp_path, table, slower):
    slower(1.2)
    run = search(tiny_folder, tmp_path / "run", table, latency="60%")
    certificate = certificate_of(run)
    first, second = certificate.seen
    page = report_text([run.path], "html")
    assert "<h3>Latency budget</h3>" in page or "Latency budget</h" in page
    assert certificate_text(certificate) in page
    text = report_text([run.path], "md")
    assert f"{format_ms(first.ms)} | {format_ms(first.low_ms)} to" in text
    assert f"{format_ms(second.low_ms)} to {format_ms(second.high_ms)} | met |" in text
    assert "| missed |" in text
    told = json.loads(report_text([run.path], "json"))["runs"][0]["certificate"]
    assert (told["verdict"], told["measured_ms"]) == (MET, second.ms)
    assert certificate_text(certificate) in summarize(run)


def test_the_report_names_the_command_that_makes_the_run_again(
    tiny_folder, tmp_path, table, slower
):
    slower(1.0)
    run = search(tiny_folder, tmp_path / "run", table, latency="60%")
    command = gather(run.path, "run").commands[0]
    assert f"--latency 60% --table {run.file('table.json')}" in command
    assert "--flops" not in command


def test_all_budgets_hold_at_once(tiny_folder, tmp_path, table, slower):
    slower(1.0)
    run = search(tiny_folder, tmp_path / "run", table, flops="50%", latency="90%", params="40%")
    plan = plan_of(run)
    full = sum(p.numel() for p in tiny_pipeline_net(3).parameters())
    assert plan.params <= 0.4 * full
    assert plan.macs <= 0.5 * plan.full_macs
    assert table_ms(LatencyTable.load(table), plan) <= 0.9 * FULL_MS
    assert len(certificate_of(run).rounds) == 1


def test_a_run_that_is_done_is_not_measured_again(tiny_folder, tmp_path, table, slower):
    slower(1.0)
    run = search(tiny_folder, tmp_path / "run", table)
    table.unlink()
    before = snapshot(run.path)
    search(tiny_folder, run.path, None)
    assert not changed(before, snapshot(run.path))


def test_a_run_that_was_stopped_between_rounds_ends_the_same(
    tiny_folder, tmp_path, table, slower, monkeypatch
):
    slower(1.2)
    undisturbed = search(tiny_folder, tmp_path / "run", table, method="dmcp")
    kept = undisturbed.path.rename(tmp_path / "undisturbed")
    rounds = Certificate.load(kept / FILE).rounds
    whole, calls = certify.measure, []

    def stops(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(*args)

    monkeypatch.setattr(certify, "measure", stops)
    with pytest.raises(KeyboardInterrupt):
        search(tiny_folder, tmp_path / "run", table, method="dmcp")
    assert len(Certificate.load(tmp_path / "run" / FILE).rounds) == 1
    run = search(tiny_folder, tmp_path / "run", None, method="dmcp")
    assert len(calls) == len(rounds) + 1 == 3
    for name in ("plan.json", "supernet.safetensors", FILE):
        assert run.file(name).read_bytes() == (kept / name).read_bytes(), name


class TestElsewhere:
    @pytest.fixture
    def run(self, tiny_folder, tmp_path) -> RunDir:
        of_a_board().save(tmp_path / "board.json")
        return search(tiny_folder, tmp_path / "run", tmp_path / "board.json")

    def test_nothing_is_measured_here(self, run):
        certificate = certificate_of(run)
        assert certificate.verdict == PREDICTED
        assert certificate.device == "a board's processor"
        assert {path.name for path in run.file("certify").iterdir()} == {
            *("original.onnx", "pruned.onnx", "plan.json")
        }
        told = refused("certify", run.path)
        assert "is for a board's processor, which cannot be measured here (cpu a board's" in told

    def test_it_is_completed_on_the_device(self, run, monkeypatch):
        monkeypatch.setattr(certificates, "elsewhere", lambda table, environment: None)
        text = succeed("certify", run.path, "--certify-seconds", 0.2)
        certificate = certificate_of(run)
        assert len(certificate.rounds) == 1
        assert certificate.seen[0] is not None
        assert certificate.verdict in text

    def test_what_misses_there_is_decoded_again_here(self, run):
        known = of_a_board()
        certificate, before = certificate_of(run), plan_of(run)
        succeed("slice", run.path)
        told = refused("certify", run.path, "--again")
        assert "was not measured yet: run certify on the target (a board's processor)" in told
        missing = bench_record(FULL_MS, 1.25 * 2.4, known)
        certificate.with_record(missing).save(run.file(FILE))

        text = succeed("certify", run.path, "--again")
        assert PREDICTED in text
        after, rounds = plan_of(run), certificate_of(run).rounds
        assert [item.record is None for item in rounds] == [False, True]
        assert rounds[1].plan == after
        factor = 1.25 * 2.4 / table_ms(known, before)
        assert 0.9 * 2.4 <= factor * table_ms(known, after) <= 2.4
        assert not run.is_current(SLICE)

    @pytest.mark.parametrize(("method", "name"), [("dmcp", "search"), ("amc", "episodes")])
    def test_a_search_whose_checkpoints_are_gone_is_not_done_again(
        self, method, name, tiny_folder, tmp_path
    ):
        of_a_board().save(tmp_path / "board.json")
        run = search(tiny_folder, tmp_path / "run", tmp_path / "board.json", method=method)
        missing = bench_record(FULL_MS, 1.25 * 2.4, of_a_board())
        certificate_of(run).with_record(missing).save(run.file(FILE))
        for path in run.file("checkpoints").glob(f"{name}.*"):
            path.unlink()
        before = snapshot(run.path)
        told = refused("certify", run.path, "--again")
        assert f"{name}.safetensors does not hold the last step of what is done" in told
        assert not changed(before, snapshot(run.path))

    def test_what_is_met_there_stays(self, run):
        meeting = bench_record(FULL_MS, 2.38, of_a_board())
        certificate_of(run).with_record(meeting).save(run.file(FILE))
        assert "There is no better plan to decode" in refused("certify", run.path, "--again")


def test_a_run_without_a_budget_in_time_has_nothing_to_certify(finished_run):
    assert "has no budget in time" in refused("certify", finished_run)
    assert "has no certificate yet" in refused("certify", finished_run, "--again")


def test_several_budgets_share_a_supernet(tiny_folder, tmp_path, table, monkeypatch):
    def measure(files, setting, compute):
        folder = next(iter(files.values())).parents[1]
        return measuring(folder, pipeline_table(), 1.0)(files, setting, compute)

    monkeypatch.setattr(certify, "measure", measure)
    options = {"flops": None, "latency": "3ms,60%", "table": table}
    runs = for_each_budget(
        dmcp_deploy.run.search, **library(tiny_folder, tmp_path / "all", **options)
    )
    assert [run.path.name for run in runs] == ["3ms", "60%"]
    assert [certificate_of(run).verdict for run in runs] == [MET, MET]
    steps = [(run.path / "metrics/search.jsonl").read_text().splitlines()[0] for run in runs]
    assert [json.loads(line)["step"] for line in steps] == [0, 2]


class TestRefused:
    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"latency": "0ms"}, "The latency budget '0ms' must be above zero"),
            ({"latency": "4"}, "has no unit: .*; did you mean 4ms?"),
            ({"latency": "1s"}, r"1000 ms \(.*%\) is above the full network: choose one from"),
            (
                {"latency": "0.01ms"},
                "is below the narrowest network: choose one from .* to 4.00",
            ),
            ({"latency": "3ms,2ms", "params": "50%,40%"}, "Both --latency and --params name sever"),
            ({"latency": None, "params": None}, "There is no budget: give --flops 211M, --latency"),
            ({"latency": None, "params": "50%"}, "--table .* is for a budget in time"),
            ({"threads": 2}, "was measured with threads 1, and 2 is asked for"),
            ({"runtime": "openvino"}, "was measured with runtime onnxruntime, and openvino"),
            ({"latency-precision": "fp16"}, "was measured with precision fp32, and fp16"),
        ],
    )
    def test_bad_input_is_one_sentence(self, changes, told, tiny_folder, tmp_path, table):
        options = {"flops": None, "latency": "2ms", "table": table, **changes}
        sentence = refused(*asked("search", tiny_folder, tmp_path / "run", **options))
        assert re.search(told, sentence), sentence
        assert not (tmp_path / "run").exists()

    def test_tables_that_do_not_fit(self, tiny_folder, tmp_path):
        whole = pipeline_table()
        libraries = {"onnxruntime": "0.1"}
        spread = replace(whole.whole, spread_ms=tuple(0.5 * ms for ms in whole.whole.ms))
        bad = {
            "classes": (replace(whole, network=replace(whole.network, num_classes=9)), "is of"),
            "version": (
                replace(whole, environment={**whole.environment, "libraries": libraries}),
                "of another version of this device's runtime (onnxruntime 0.1 there,",
            ),
            "noisy": (replace(whole, whole=spread), "is too noisy"),
        }
        for name, (one, told) in bad.items():
            one.save(tmp_path / f"{name}.json")
            assert told in self.sentence(tiny_folder, tmp_path, f"{name}.json")

    def test_tables_that_are_none(self, tiny_folder, tmp_path, table):
        (tmp_path / "short.json").write_text(table.read_text()[:1000])
        (tmp_path / "plan.json").write_text('{"kind": "plan"}')
        told = {
            "short.json": "is not readable as the JSON of a latency-table",
            "plan.json": "is not a latency-table file: its kind is 'plan'",
            "absent.json": "There is no latency-table file",
        }
        for name, what in told.items():
            assert what in self.sentence(tiny_folder, tmp_path, name)

    def sentence(self, data: Path, folder: Path, table: str) -> str:
        options = {"flops": None, "latency": "2ms", "table": folder / table}
        sentence = refused(*asked("search", data, folder / "run", **options))
        assert not (folder / "run").exists()
        return sentence

    def test_a_table_that_was_replaced_in_the_run(self, tiny_folder, tmp_path, table, slower):
        slower(1.0)
        run = search(tiny_folder, tmp_path / "run", table)
        pipeline_table(seed=5).save(run.file("table.json"))
        with pytest.raises(DmcpError, match="is another latency table than the one that the sear"):
            certificates_table(run)


def certificates_table(run: RunDir) -> LatencyTable:
    from dmcp_deploy.options.run import Compute
    from dmcp_deploy.run.context import RunContext

    return RunContext.resume(run.path, Compute()).table
