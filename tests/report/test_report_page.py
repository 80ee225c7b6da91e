"""The page as a browser reads it: parsed with html.parser, its pictures opened with Pillow."""

import errno
import os
import re
import subprocess
import sys
from collections import defaultdict
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from intraformer_fast import report
from intraformer_fast.errors import MissingDependencyError
from intraformer_fast.metrics import fairness_report
from intraformer_fast.page import VOID_ELEMENTS
from intraformer_fast.report import ContactSheet, EdgeHistogram, ReportContent, Row, write_report

GROUPS = ("latin", "kana", "han")
HOSTILE = """<script>alert("1")</script> & 'x' $\\frac{$ </title></style> 永"""


class Page(HTMLParser):
    """Text by element, attributes of each start tag, and the cells of each table; fails on tags that do not nest."""

    def __init__(self, path):
        super().__init__(convert_charrefs=True)
        self.open = []
        self.tags = []
        self.text = defaultdict(list)
        self.tables = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID_ELEMENTS:
            self.open.append(tag)
            self.text[tag].append("")
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("th", "td"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        for tag in set(self.open):
            self.text[tag][-1] += data
        if {"th", "td"} & set(self.open):
            self.tables[-1][-1][-1] += data

    def attributes(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def clustering(wrong, seed):
    """A report on 120 samples of which a share `wrong` has a random label."""
    rng = np.random.default_rng(seed)
    truth = np.arange(120) // 10
    predicted = np.where(rng.random(120) < wrong, rng.integers(0, 12, 120), truth)
    return fairness_report(truth, predicted, truth // 4, group_names=GROUPS)


ROWS = (
    Row("Intraformer", clustering(0.1, 1), 151.0, "intimacy, 0.6", "ours"),
    Row("k-means", clustering(0.3, 2), 7.25, "12 clusters"),
    Row("HDBSCAN", clustering(0.5, 3)),
)
EPOCH = {
    "epoch": 1,
    "step": 10,
    "loss": 0.5,
    "fmi": 0.4,
    "bce": 0.6,
    "fairness": 0.1,
    "purity": 0.7,
    "auc": 0.9,
    "f1": 0.8,
}
HISTORY = [{**EPOCH, "collapse": None}, {**EPOCH, "epoch": 2, "collapse": "it has <collapsed>"}]


def sheet(count=5, **changes):
    rng = np.random.default_rng(count)
    parts = {
        "title": "A merged cluster",
        "caption": "Two characters.",
        "pictures": rng.integers(0, 256, (count, 32, 32), dtype=np.uint8),
        "labels": ["永", "<b>", "ش", "g", "ক"][:count],
        "majority": np.arange(count) < 3,
    }
    return ContactSheet(**{**parts, **changes})


def histogram(**changes):
    rng = np.random.default_rng(0)
    parts = {
        "title": "Cosine",
        "quantity": "cosine similarity",
        "same": rng.random(90),
        "different": rng.random(50) / 2,
    }
    return EdgeHistogram(**{**parts, **changes})


FULL = ReportContent(
    title="Glyphs",
    summary=("One sentence.", "Another."),
    rows=ROWS,
    notes=("Groups are scripts.",),
    histograms=(histogram(), histogram(title="Model", quantity="probability")),
    sheets=(sheet(), sheet(2, title="A good cluster")),
    histories={"Intraformer": HISTORY},
    environment={"python": "3.11", "cuda": [], "packages": {"faiss-cpu": "1.15", "triton": None}},
    command="intraformer-fast demo --seed 0",
)


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    return write_report(tmp_path_factory.mktemp("report"), FULL)


def percents(values):
    return [f"{100 * value:.1f}" for value in values]


def test_summary_table_holds_the_scores_of_all_samples_and_their_std(full):
    head, *body = Page(full).tables[0]
    assert head == ["method", "F_P", "F_B", "NMI", "STD F_P", "STD F_B", "STD NMI", "clusters", "time"]
    for row, cells in zip(ROWS, body, strict=True):
        scores = row.report.overall
        assert cells[0].startswith(row.name)
        assert cells[0].endswith(row.settings)
        assert ("ours" in cells[0]) == (row.kind == "ours")
        assert cells[1:4] == percents([scores.pairwise_f, scores.bcubed_f, scores.nmi])
        spreads = [
            np.std([getattr(group, metric) for group in row.report.groups.values()], ddof=1)
            for metric in ("pairwise_f", "bcubed_f", "nmi")
        ]
        assert cells[4:7] == percents(spreads)
        assert cells[7] == str(scores.num_clusters)
    assert [cells[8] for cells in body] == ["2 min 31 s", "7.2 s", ""]


@pytest.mark.parametrize(("position", "metric"), [(1, "pairwise_f"), (2, "bcubed_f"), (3, "nmi")])
def test_group_tables_hold_every_group_with_mean_and_std(position, metric, full):
    head, *body = Page(full).tables[position]
    assert head == ["method", *GROUPS, "mean", "STD", "max - min"]
    for row, cells in zip(ROWS, body, strict=True):
        values = np.array([getattr(row.report.groups[name], metric) for name in GROUPS])
        assert cells[1:] == percents([*values, values.mean(), values.std(ddof=1), np.ptp(values)])


def test_best_of_a_column_is_bold_and_ours_is_marked(full):
    page = Page(full)
    best = [max(getattr(row.report.overall, metric) for row in ROWS) for metric in ("pairwise_f", "bcubed_f", "nmi")]
    assert page.text["strong"][:3] == percents(best)
    assert [tag["class"] for tag in page.attributes("tr") if tag][:3] == ["ours", "baseline", "baseline"]


def test_a_tie_in_the_shown_digits_is_bold_twice(tmp_path):
    rows = (Row("a", ROWS[0].report), Row("b", ROWS[0].report))
    page = Page(write_report(tmp_path, ReportContent("t", rows=rows)))
    assert len(page.text["strong"]) == 2 * (6 + 3 * (len(GROUPS) + 3))


def test_page_says_what_std_and_the_protocol_are(full):
    text = " ".join(Page(full).text["p"])
    assert "ddof = 1" in text
    assert "Protocol: joint" in text
    assert "Groups are scripts." in text


def test_every_picture_is_there_and_says_what_it_shows(full):
    images = Page(full).attributes("img")
    names = {image["src"] for image in images}
    assert names == {path.name for path in full.parent.iterdir()} - {"index.html"}
    assert all(image["alt"].strip() for image in images)
    for name in names:
        with Image.open(full.parent / name) as picture:
            picture.load()
            assert picture.format == "PNG"
            assert min(picture.size) >= 64
    figures = len(Page(full).attributes("figure"))
    assert figures == len(Page(full).text["figcaption"]) == len(names) == 8
    assert all(len(caption.split()) > 8 for caption in Page(full).text["figcaption"])


def test_tiles_show_their_own_picture_with_label_and_frame(full):
    page = Page(full)
    first = FULL.sheets[0]
    tiles = [tag for tag in page.attributes("img") if tag["src"] == "cluster-1.png"]
    assert [tile["alt"] for tile in tiles] == [
        f"{label}, {'majority' if inside else 'another'} identity"
        for label, inside in zip(first.labels, first.majority, strict=True)
    ]
    assert page.text["li"][:5] == list(first.labels)
    assert [tag["class"] for tag in page.attributes("li")][:5] == ["in", "in", "in", "out", "out"]
    with Image.open(full.parent / "cluster-1.png") as sprite:
        for tile, picture in zip(tiles, first.pictures, strict=True):
            x, y = map(int, re.fullmatch(r"object-position: -(\d+)px -(\d+)px", tile["style"]).groups())
            side = int(tile["width"])
            shown = np.asarray(sprite.crop((x, y, x + side, y + side)).resize((32, 32), Image.Resampling.BOX))
            # Ink is dark on the page. Scaling up and down smooths the noise, but no other picture is as near.
            distances = [np.abs(shown - (255.0 - other)).mean() for other in first.pictures]
            assert np.abs(shown - (255.0 - picture)).mean() == min(distances) < 40


def test_page_needs_nothing_from_elsewhere(full):
    page = Page(full)
    assert not {"script", "link", "iframe", "object", "embed"} & {tag for tag, _ in page.tags}
    assert "://" not in page.source
    assert "url(" not in page.source
    assert all("/" not in image["src"] for image in page.attributes("img"))


def test_tables_have_headers_a_reader_can_follow(full):
    page = Page(full)
    assert {tag.get("scope") for tag in page.attributes("th")} == {"row", "col"}
    assert len(page.text["caption"]) == 4
    assert page.attributes("html") == [{"lang": "en"}]


def test_collapse_and_environment_are_told(full):
    page = Page(full)
    training = next(text for text in page.text["figcaption"] if text.startswith("Intraformer."))
    assert "it has <collapsed>" in training
    facts = dict(zip(page.text["dt"], page.text["dd"], strict=True))
    assert facts == {"python": "3.11", "cuda": "none", "packages": "faiss-cpu 1.15, triton none"}
    assert page.text["code"] == ["intraformer-fast demo --seed 0"]


def test_hostile_text_stays_text(tmp_path):
    scores = fairness_report(np.arange(8) // 2, np.arange(8) // 2, np.arange(8) // 4, group_names=[HOSTILE, "b"])
    content = ReportContent(
        title=HOSTILE,
        summary=(HOSTILE,),
        rows=(Row(HOSTILE, scores, 1.0, HOSTILE, "ours"),),
        notes=(HOSTILE,),
        histograms=(histogram(title=HOSTILE, quantity=HOSTILE),),
        sheets=(sheet(2, title=HOSTILE, caption=HOSTILE, labels=[HOSTILE, HOSTILE]),),
        histories={HOSTILE: [{HOSTILE + "_loss": 1.0, "loss": 2.0, "collapse": HOSTILE}]},
        environment={HOSTILE: HOSTILE},
        command=HOSTILE,
    )
    page = Page(write_report(tmp_path, content))
    assert "script" not in {tag for tag, _ in page.tags}
    for tag in ("title", "h1", "code", "dt", "dd"):
        assert page.text[tag] == [HOSTILE]
    assert page.text["li"] == [HOSTILE, HOSTILE]
    assert page.tables[1][0][1] == HOSTILE
    assert page.tables[0][1][0].startswith(HOSTILE)
    for tag in ("p", "figcaption", "small", "b"):
        assert any(HOSTILE in text for text in page.text[tag])
    assert sum(HOSTILE in image["alt"] for image in page.attributes("img")) == len(page.attributes("img"))


PARTS = {
    "summary": "One sentence.",
    "rows": "Every group",
    "histograms": "Which neighbors belong together",
    "sheets": "Clusters",
    "histories": "Training",
}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_alone_makes_a_page_of_itself(part, tmp_path):
    page = Page(write_report(tmp_path, ReportContent("Glyphs", **{part: getattr(FULL, part)})))
    shown = {name for name, words in PARTS.items() if any(words in text for text in page.text["body"])}
    assert shown == {part}


def test_an_empty_report_is_its_title(tmp_path):
    empty = ReportContent("Glyphs", histories={"untrained": [], "odd": [{"note": "x"}]})
    page = Page(write_report(tmp_path, empty))
    assert page.text["body"][0].strip() == "Glyphs"
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]


def test_the_same_content_gives_the_same_bytes(full, tmp_path):
    write_report(tmp_path, FULL)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {
        p.name: p.read_bytes() for p in full.parent.iterdir()
    }


def test_the_page_takes_its_place_after_its_pictures(tmp_path, monkeypatch):
    order = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append(Path(b).name), replace(a, b)))
    write_report(tmp_path / "new" / "folder", ReportContent("Glyphs", sheets=3 * FULL.sheets))
    assert order[-1] == "index.html"
    assert set(order[:-1]) == {f"cluster-{i}.png" for i in range(1, 7)}


def test_folder_that_is_a_file_is_refused_in_words(tmp_path):
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(OSError, match=r"the report cannot be written .*choose another folder") as caught:
        write_report(tmp_path / "taken", FULL)
    assert caught.value.errno in (errno.EEXIST, errno.ENOTDIR)
    assert caught.value.filename == str(tmp_path / "taken")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
    assert (tmp_path / "taken").read_text() == "mine"


def test_full_disk_leaves_the_older_report(tmp_path, monkeypatch):
    write_report(tmp_path, ReportContent("Old", sheets=FULL.sheets[:1]))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write_bytes = Path.write_bytes
    written = []

    def until_full(path, data):
        if len(written) == 3:
            write_bytes(path, data[:100])
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        return write_bytes(path, data)

    monkeypatch.setattr(Path, "write_bytes", until_full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_report(tmp_path, ReportContent("New", sheets=3 * FULL.sheets))
    assert caught.value.errno == errno.ENOSPC
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


OTHER_GROUPS = fairness_report([0, 0, 1], [0, 0, 1], [0, 0, 1], group_names=["latin", "kana"])
OTHER_PROTOCOL = fairness_report([0, 0, 1], [0, 0, 1], [0, 0, 1], "separate", group_names=["latin", "kana"])


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"rows": (ROWS[0], Row("b", OTHER_GROUPS))}, r"Intraformer has the groups .* and b \['latin', 'kana'\]"),
        ({"rows": (Row("a", OTHER_GROUPS), Row("b", OTHER_PROTOCOL))}, "a has the protocol joint and b separate"),
        ({"rows": (ROWS[0], ROWS[0])}, "a name twice: Intraformer, Intraformer"),
        ({"sheets": (sheet(5, labels=["a"]),)}, r"\(5, 32, 32\), 1 labels and 5 majority"),
        ({"sheets": (sheet(5, majority=np.ones(4, bool)),)}, "5 labels and 4 majority"),
        ({"sheets": (sheet(0),)}, "at least 1"),
        ({"sheets": (sheet(2, pictures=np.zeros((2, 32, 32))),)}, "float64"),
        ({"histograms": (histogram(same=np.array([0.5, np.nan])),)}, "'Cosine' holds NaN"),
        ({"histograms": (histogram(different=np.array([np.inf])),)}, "'Cosine' holds NaN or infinity"),
    ],
)
def test_content_that_does_not_fit_is_refused_before_anything_is_written(parts, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        write_report(tmp_path / "report", ReportContent("Glyphs", **parts))
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    ("module", "package", "part"), [("matplotlib.figure", "matplotlib", "histograms"), ("PIL", "pillow", "sheets")]
)
def test_a_missing_package_is_named_with_its_extra(module, package, part, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=rf"{package}.*intraformer-fast\[plots\]"):
        write_report(tmp_path / "report", ReportContent("Glyphs", **{part: getattr(FULL, part)}))
    assert not (tmp_path / "report").exists()


def test_the_module_alone_loads_no_plotting_package():
    code = "import sys, intraformer_fast.report; print({'matplotlib', 'PIL'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_metrics_of_the_page_are_those_of_the_report():
    assert set(report.METRICS) == set(ROWS[0].report.to_dict()["statistics"])
