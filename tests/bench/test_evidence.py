"""`bench --all`: parts stored as they come, kept or run again, and drawn from what is stored."""

import dataclasses
import json
from types import SimpleNamespace

import pytest

from intraformer_fast.bench import results
from intraformer_fast.bench.command import Options, Report
from intraformer_fast.bench.evidence import command as evidence
from intraformer_fast.bench.evidence import machine, page, parts, quoted
from intraformer_fast.bench.evidence.losses import losses
from intraformer_fast.bench.facts.command import Report as FactsReport
from intraformer_fast.bench.facts.rows import CompiledRow, ExecutedRow
from intraformer_fast.bench.results import Row
from intraformer_fast.bench.scale.command import ScaleReport

STAMP = results.Stamp(
    date="2026-01-02T03:04:05+00:00", device="cpu", machine="A CPU", cores=2, threads=2, instruction_set="avx512",
    commit="0123456789abcdef" * 2, dirty=False, python="3.11.7", torch="2.13.0", triton="3.8.0", intraformer_fast="0.1.0", seed=7,
)  # fmt: skip


def row(candidate, median, *, case="[4, 4]", role="baseline", faster=None, spread=0.1, extra=None, parity="passed"):
    times = {} if median is None else {"median": median, "p25": (1 - spread) * median, "p75": (1 + spread) * median}
    more = {} if median is None else {"min": 0.8 * median, "gb_per_s": 1.0, "rounds": 5, "of_limit": 0.25}
    return Row(
        "op",
        case,
        candidate,
        role,
        100,
        2000,
        parity,
        error_ratio=0.5,
        ours_faster=faster,
        extra_bytes=extra,
        **times,
        **more,
    )


def ours(median, case="[4, 4]", **more):
    return row("ours", median, case=case, role="ours", faster=1.0, **more)


ROWS = [
    ours(2.0, extra=2**20),
    row("eager", 20.0, faster=10.0, extra=4 * 2**20),
    row("compiled", 1.0, faster=0.5, extra=2**18),
    row("library", 1.9, faster=0.95, extra=2**20 - 1),
    ours(2.0, case="small"),
    row("eager", 4.0, case="small", faster=2.0),
]
GPU_ROWS = [
    CompiledRow(
        "op", "[4, 4] forward", 90, 0, "tile", 10, 4, 64, 0, 0, 0, 1024, 232448, "8 HGMMA.64x64x16.F32.BF16", 100, 2000, 2000,
        gpu="H100-SXM5-80GB", programs_per_multiprocessor=4, limiter="registers", on_chip="issue", bound=1e-3, of_roofline=1.0,
        binding="memory", on_chip_share=0.5,
    ),
    ExecutedRow("op", "[4, 4] forward", "tile", 2, 10, 2000, "passed", "", 0.2, 8, 4, 2000, 20, 0),
]  # fmt: skip
PEAK = row("multiply and add", 1e-3, role="limit")
LIMITS = [PEAK, dataclasses.replace(PEAK, candidate="copy", least_flops=0)]
SCALE_ROW = {
    "samples": 1000, "neighbors": 1.0, "prediction": 2.0, "linking": 0.5, "seconds": 3.5, "anonymous_bytes": 2**20,
    "resident_bytes": 2**21, "index": "exact", "recall": 1.0, "pairwise_f": 0.9, "threads": 2,
}  # fmt: skip


def part(key, names, options, report):
    ran = []

    def run():
        ran.append(key)
        if isinstance(report, Exception):
            raise report
        return report

    return SimpleNamespace(key=key, names=names, options=options, run=run, ran=ran)


@pytest.fixture
def found(monkeypatch):
    """Parts that take no time, in place of the real ones; `ran` of each says how often it ran."""
    made = [
        part(machine.NAME, (), {"quick": True}, Report(STAMP, LIMITS, {machine.NAME: ""})),
        part("benchmark op", ("op", "file"), {"quick": True}, Report(STAMP, ROWS, {"op": "What it does."})),
        part("benchmark broken", ("broken",), {"quick": True}, RuntimeError("no more memory\nat all")),
        part("facts of op", ("op",), {}, FactsReport(STAMP, GPU_ROWS)),
        part("scale", ("scale",), {"samples": 1000}, ScaleReport(STAMP, [SCALE_ROW, SCALE_ROW | {"samples": 2000}])),
    ]
    monkeypatch.setattr(evidence, "all_parts", lambda options, samples, say: made)
    monkeypatch.setattr(evidence.results, "stamp", lambda device, seed: STAMP)
    return made


def run(folder, *names, redraw=False):
    said = []
    report = evidence.run_all(names, Options(), samples=None, output=folder, redraw=redraw, say=said.append)
    return report, said


def test_a_part_that_fails_loses_nothing(found, tmp_path):
    report, said = run(tmp_path)
    assert list(report.content) == [p.key for p in found]
    assert report.content["benchmark broken"]["failure"] == "RuntimeError: no more memory"
    assert any("Traceback" in line for line in said)
    assert report.exit_code == 1
    assert "benchmark broken failed: RuntimeError: no more memory" in report.text()
    assert json.loads((tmp_path / "results.json").read_text()) == json.loads(json.dumps(report.to_dict()))


def test_an_interrupt_keeps_what_was_done(found, tmp_path):
    found[3].run = lambda: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert list(json.loads((tmp_path / "results.json").read_text())) == [p.key for p in found[:3]]


def test_what_is_stored_is_not_run_again(found, tmp_path):
    run(tmp_path)
    _, said = run(tmp_path)
    assert [len(p.ran) for p in found] == [1, 1, 2, 1, 1], "only what failed runs again"
    assert "[2/5] benchmark op: stored already" in said
    found[4].options = {"samples": 2000}
    run(tmp_path)
    assert [len(p.ran) for p in found] == [1, 1, 3, 1, 2], "other options"


def test_results_of_another_commit_are_replaced(found, tmp_path, monkeypatch):
    run(tmp_path)
    later = SimpleNamespace(**(vars(STAMP) | {"commit": "f" * 32}))
    monkeypatch.setattr(evidence.results, "stamp", lambda device, seed: later)
    run(tmp_path, "scale")
    assert [len(p.ran) for p in found] == [2, 1, 1, 1, 2], "the machine and what was named"


def test_names_choose(found, tmp_path):
    run(tmp_path, "file")
    assert [len(p.ran) for p in found] == [1, 1, 0, 0, 0]
    with pytest.raises(
        ValueError, match="nothing of `bench --all` is 'huge': expected some of broken, file, op, scale"
    ):
        run(tmp_path, "huge")


def test_the_same_results_make_the_same_pages(found, tmp_path):
    report, _ = run(tmp_path)
    report.write(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert {
        "benchmarks.md",
        "benchmarks.html",
        "op.png",
        "roofline-cpu.png",
        "roofline-h100.png",
        "scale.png",
    } <= before.keys()
    ran = [len(p.ran) for p in found]
    report, _ = run(tmp_path, redraw=True)
    report.write(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert [len(p.ran) for p in found] == ran


def test_both_pages_say_the_same(found, tmp_path):
    report, _ = run(tmp_path)
    report.write(tmp_path)
    markdown, html = ((tmp_path / name).read_text() for name in ("benchmarks.md", "benchmarks.html"))
    for words in (
        "2 cases. All of ours pass parity; in 1 ours is faster than every baseline",
        "static bound; never run on a GPU",
        "8\u00a0HGMMA.64x64x16.F32.BF16",
        "benchmark broken failed",
        "time grows as",
        "Quoted from kernels/block_attention/README.md; not of this run.",
    ):
        assert words in markdown, words
        assert words in html, words
    assert "![" in markdown
    assert html.count("data:image/png;base64,") == markdown.count("![")


def test_every_loss_is_listed():
    """Slower, within the spread or not; and memory, beyond what can be measured."""
    listed = [(loss.baseline, loss.of, round(loss.ratio, 3), loss.sure) for loss in losses(ROWS)]
    assert listed == [
        ("compiled", "time", 2.0, True),
        ("library", "time", 1.053, False),
        ("compiled", "memory", 4.0, True),
    ]
    stored = parts.Stored(None, [Report(STAMP, ROWS[4:], {"op": ""})], [], None, {})
    assert page.lost(stored).blocks == ["In no case, to no baseline."]


def test_a_case_that_was_not_timed_is_no_win():
    rows = [ours(None, parity="FAILED"), row("eager", 1.0)]
    (words, _) = page.in_short(parts.Stored(None, [Report(STAMP, rows, {"op": ""})], [], None, {})).blocks
    assert words.startswith("1 cases. 1 of ours do not pass parity; in 0 ours is faster")
    assert losses(rows) == []


def test_the_real_parts_are_all_there():
    keys = [p.key for p in parts.all_parts(Options(quick=True), None, print)]
    assert keys[0] == "machine"
    assert keys[-1] == "scale"
    assert {"benchmark purity_fmi", "benchmark model_cpu", "facts of block_attention"} <= set(keys)


def test_what_was_measured_on_gpus_is_quoted_with_its_origin():
    found = list(quoted.sections())
    assert {op for op, _, _ in found} >= {"block_attention", "correlation_attention"}
    assert all("H100" in heading for _, heading, _ in found)
    tables = [block for _, _, text in found for block in quoted.blocks(text) if not isinstance(block, str)]
    assert all(len(line.cells) == len(table.columns) for table in tables for _, lines in table.groups for line in lines)


def test_items_of_a_list_stay_apart():
    text = "Where we lose:\n\n- one run\n  of **256**;\n- float32\n\n| a | b |\n| --- | --- |\n| 1 | `2` |"
    words, one, two, table = quoted.blocks(text)
    assert (words, one, two) == ("Where we lose:", "- one run of 256;", "- float32")
    assert table.groups[0][1][0].cells == ["1", "2"]


def test_without_a_folder_or_results(tmp_path):
    with pytest.raises(ValueError, match="expected a folder"):
        run(None)
    with pytest.raises(ValueError, match=r"there is no .* to draw"):
        run(tmp_path, redraw=True)
