"""What the papers print, on data that none but their authors have: beside ours, never as ours."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

FILE = Path(__file__).with_name("published.csv")

TABLES = ("paper, table I", "paper, table X", "paper, table XI")
SMALLEST, LARGEST = "C1: BUPT-In-the-wild (485K)", "C3: BUPT-In-the-wild (3.4M)"
MILLION = "MS-Celeb-1M, test split of 584K"

NAMES = {
    "intraformer-paper": "Intraformer",
    "omhc": "OMHC",
    "star-fc": "STAR-FC",
    "clusformer": "Clusformer",
    "gcn-ve": "GCN-V/E",
    "gcn-v": "GCN-V",
    "ltc": "LTC",
    "infomap": "k-NN + Infomap",
    "paper": "Intraformer, whole",
    **{f"k-{k}": f"Intraformer, k = {k}" for k in (5, 8, 10, 16)},
    "no-catt": "Intraformer, without C-ATT",
    "no-catt-fair": "Intraformer, without C-ATT and L_fair",
    "no-catt-fair-fmi": "Intraformer, without C-ATT, L_fair and L_FMI",
}
"""What systems of the catalogue and rows of the ablation are called there; of Ada-NETS only the whole is, of which ours is a part."""


class Published(NamedTuple):
    """A printed row, in percent and as text: `groups` and `values` are separated by "; "; `std` is empty where it is not printed."""

    source: str
    attribute: str
    data: str
    system: str
    metric: str
    groups: str
    values: str
    mean: str
    std: str


def read() -> list[Published]:
    """All rows."""
    with FILE.open(newline="", encoding="utf-8") as file:
        return [Published(**row) for row in csv.DictReader(file)]


def beside(name: str, rows: list[Published]) -> list[str]:
    """Of a system of the catalogue: mean and STD of F_P on both BUPT sets of table I, F_P and F_B on MS-Celeb-1M; "" where unknown."""

    def find(data: str, metric: str, field: str, sources: Sequence[str] = ()) -> str:
        of = (r for r in rows if r.system == NAMES.get(name) and r.data == data and r.metric == metric)
        return next((getattr(row, field) for row in of if not sources or row.source in sources), "")

    table = [find(data, "F_P", field, TABLES) for data in (SMALLEST, LARGEST) for field in ("mean", "std")]
    return [*table, *(find(MILLION, metric, "mean") for metric in ("F_P", "F_B"))]
