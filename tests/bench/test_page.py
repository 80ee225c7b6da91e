"""The table and the web page of given rows."""

from html.parser import HTMLParser

import pytest

from intraformer_fast.bench import page
from intraformer_fast.bench.results import Row, Stamp
from intraformer_fast.page import VOID_ELEMENTS

STAMP = Stamp(
    date="2026-01-02T03:04:05+00:00", device="cpu", machine="A CPU", cores=2, threads=2, instruction_set="avx512",
    commit="0123456789abcdef" * 2, dirty=True, python="3.11.7", torch="2.13.0", triton="", intraformer_fast="0.1.0", seed=7,
)  # fmt: skip
DESCRIPTION = {"op": "What it does."}


def row(candidate, role, median=None, *, case="[4, 4] <b>|", parity="passed", detail="", **more):
    times = {} if median is None else {"median": median, "p25": 0.9 * median, "p75": 1.1 * median, "min": 0.8 * median}
    rate = {} if median is None else {"gb_per_s": 1.0}
    return Row("op", case, candidate, role, 100, 0, parity, detail, **times, **rate, **more)


ROWS = [
    row("ours", "ours", 2e-3, error_ratio=0.5, ours_faster=1.0, of_limit=0.25, extra_bytes=4 * 2**20),
    row("eager", "baseline", 20e-3, error_ratio=0.5, ours_faster=10.0, of_limit=0.025),
    row("torch.compile", "baseline", 1e-3, error_ratio=0.5, ours_faster=0.5, of_limit=0.5),
    row("torch.add", "limit", 5e-4, parity="none"),
    row(
        "ours", "ours", case="small", parity="FAILED", error_ratio=1234.0, detail="the error of loss is 1.23e+03 times"
    ),
    row("eager", "baseline", 3e-6, case="small", error_ratio=0.5),
    row("torch.compile", "baseline", case="small", parity="did not run", detail="NoCompiler: none found"),
]


class Elements(HTMLParser):
    """Start tags with their attributes, and the text; fails on tags that do not nest."""

    def __init__(self, text):
        super().__init__()
        self.open, self.found, self.text = [], [], ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in VOID_ELEMENTS:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def cells(line):
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def test_the_table_tells_each_candidate():
    text = page.text(STAMP, ROWS, DESCRIPTION)
    heading, _, *lines = (line for line in text.splitlines() if line.startswith("|"))
    assert len({len(line) for line in (heading, *lines)}) == 1
    table = [dict(zip(cells(heading), cells(line), strict=True)) for line in lines]
    assert [line["candidate"] for line in table] == [row.candidate for row in ROWS]
    ours, eager, compiled, add, failed, alone, absent = table
    assert (ours["median"], ours["quartiles"], ours["minimum"]) == ("2.00 ms", "1.80 ms – 2.20 ms", "1.60 ms")
    assert (ours["parity"], ours["of limit"], ours["extra memory"]) == ("passed (0.5)", "25 %", "4.0 MiB")
    assert (eager["ours is"], compiled["ours is"], add["ours is"]) == ("10.00x faster", "2.00x slower", "")
    assert eager["of limit"] == "2.5 %"
    assert failed["parity"] == "FAILED (1.2e+03)"
    assert absent["parity"] == "did not run"
    for line in (failed, absent):
        assert {line[name] for name in page.COLUMNS[1:]} == {""}
    assert (alone["median"], alone["ours is"]) == ("3.00 µs", "")
    assert "- small: ours FAILED parity (the error of loss is 1.23e+03 times)" in text
    assert "- small: torch.compile did not run (NoCompiler: none found)" in text
    for fact in ("A CPU", "2 threads", "PyTorch 2.13.0", "commit 0123456789ab with changes", "seed 7", "avx512"):
        assert fact in text
    assert "Triton" not in text
    assert text in page.markdown(STAMP, ROWS, DESCRIPTION)


def test_the_web_page_shows_the_same():
    html = page.html(STAMP, ROWS, DESCRIPTION)
    read = Elements(html)
    for words in (
        "[4, 4] <b>|",
        "What it does.",
        "10.00x faster",
        "2.00x slower",
        "small: ours FAILED parity",
        "A CPU",
    ):
        assert words in read.text
    bars = [
        attributes
        for _, attributes in read.found
        if attributes.get("class", "").startswith("bar ") or attributes.get("class") == "bar"
    ]
    # log 10 : log 2 to the right and to the left of the line
    assert [bar["class"] for bar in bars] == ["bar", "bar slower"]
    right, left = (float(bar["style"].split("width: ")[1].rstrip("%")) for bar in bars)
    assert right + left == pytest.approx(100, abs=0.02)
    assert right / left == pytest.approx(2.302585 / 0.693147, rel=1e-2)
    assert not any("src" in attributes or "href" in attributes for _, attributes in read.found)


def test_a_page_where_nothing_can_be_compared():
    alone = Elements(page.html(STAMP, ROWS[4:], DESCRIPTION))
    assert not any(attributes.get("class") == "bars" for _, attributes in alone.found)
    assert "3.00 µs" in alone.text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12.3456, "12.3 s"),
        (1.0, "1.00 s"),
        (0.99951, "1.00 s"),
        (0.123456, "123 ms"),
        (1.5e-3, "1.50 ms"),
        (4.2e-8, "0.0420 µs"),
    ],
)
def test_seconds(value, text):
    assert page.seconds(value) == text
