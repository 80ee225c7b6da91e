"""Makes the drawings of the docs: `python docs/drawings/draw.py` writes the .svg files beside this one.

One look for all of them: sub-clusters by color from near (blue) to far (orange), arrows for data, dashed arrows for what is only read.
"""

import numpy as np
from matplotlib.patches import FancyBboxPatch, Rectangle
from pencil import (
    CARD,
    INK,
    KEPT,
    LEFT_OUT,
    LINE,
    MUTED,
    NEAR_TO_FAR,
    arrow,
    box,
    canvas,
    note,
    save,
)


def whole_path() -> None:
    """From features to clusters."""
    axes = canvas(9.2, 2.3)
    steps = (
        ("features", "[N, d]", CARD, INK),
        ("k-NN graph", "neighbors [N, n]\nsimilarity [N, n]", CARD, INK),
        (
            "Intraformer",
            "does neighbour j have\nthe identity of i?",
            NEAR_TO_FAR[0],
            "white",
        ),
        ("probabilities", "q [N, n]", CARD, INK),
        ("linking rule", "which edges\nare kept", NEAR_TO_FAR[1], "white"),
        ("labels", "[N]", CARD, INK),
    )
    width, gap = 1.28, 0.26
    for i, (title, below, fill, ink) in enumerate(steps):
        x = 0.1 + i * (width + gap)
        box(axes, x, 1.2, width, 0.66, title, fill=fill, ink=ink, size=10.5)
        note(axes, x + width / 2, 0.78, below)
        if i:
            arrow(axes, (x - gap, 1.53), (x, 1.53))
    note(
        axes,
        4.6,
        0.22,
        "every sample is the centroid of one candidate cluster: itself and its n - 1 nearest neighbours",
    )
    save(axes, "whole-path")


def streams() -> None:
    """The decomposition and the k streams of a block."""
    axes = canvas(8.6, 5.1)
    tokens, k, size = 16, 4, 0.4
    left = 1.0
    note(
        axes,
        left,
        4.85,
        "one cluster: the centroid, then its neighbours in falling similarity",
        ha="left",
        color=INK,
        size=10,
    )
    for j in range(tokens):
        m = j // (tokens // k)
        x = left + j * size + m * 0.16
        axes.add_patch(
            FancyBboxPatch(
                (x, 4.25),
                size * 0.8,
                size * 0.8,
                boxstyle="round,pad=0,rounding_size=0.05",
                fc=NEAR_TO_FAR[m],
                ec="white",
            )
        )
        axes.text(
            x + size * 0.4,
            4.41,
            "0" if j == 0 else str(j),
            ha="center",
            va="center",
            color="white",
            size=8,
        )
    names = (
        "stream 0\nTransformer",
        "stream 1\nCross-transformer",
        "stream 2\nCross-transformer",
        "stream 3\nCross-transformer",
    )
    span = tokens // k * size + 0.16
    for m, name in enumerate(names):
        x, middle = left + m * span, left + m * span + span / 2 - 0.12
        arrow(axes, (middle, 4.2), (middle, 3.92))
        box(axes, x, 1.0, span - 0.22, 2.86, "", fill="white")
        note(axes, middle, 3.62, name, color=INK, size=8.5)
        box(
            axes,
            x + 0.1,
            2.9,
            span - 0.42,
            0.42,
            "self-attention",
            fill=NEAR_TO_FAR[m],
            ink="white",
            size=9,
        )
        if m:
            box(
                axes,
                x + 0.1,
                2.1,
                span - 0.42,
                0.42,
                "C-ATT",
                fill=NEAR_TO_FAR[m],
                ink="white",
                size=9,
            )
        box(
            axes,
            x + 0.1,
            1.3,
            span - 0.42,
            0.42,
            "FFN",
            fill=NEAR_TO_FAR[m],
            ink="white",
            size=9,
        )
        for top, bottom in ((2.9, 2.52), (2.1, 1.72)) if m else ((2.9, 1.72),):
            arrow(axes, (middle, top), (middle, bottom))
        arrow(axes, (middle, 1.3), (middle, 0.66))
    reach = left + span - 0.22
    axes.plot(
        [left + 0.4, left + 0.4],
        [4.2, 4.02],
        color=NEAR_TO_FAR[0],
        lw=1.2,
        ls=(0, (4, 2.5)),
    )
    axes.plot(
        [left + 0.4, reach + 0.11],
        [4.02, 4.02],
        color=NEAR_TO_FAR[0],
        lw=1.2,
        ls=(0, (4, 2.5)),
    )
    axes.plot(
        [reach + 0.11, reach + 0.11],
        [4.02, 2.68],
        color=NEAR_TO_FAR[0],
        lw=1.2,
        ls=(0, (4, 2.5)),
    )
    for m in range(1, k):
        x = left + m * span
        axes.plot(
            [x - 0.11, x + 0.25],
            [2.68, 2.68],
            color=NEAR_TO_FAR[0],
            lw=1.2,
            ls=(0, (4, 2.5)),
        )
        arrow(
            axes, (x + 0.25, 2.7), (x + 0.25, 2.52), dashed=True, color=NEAR_TO_FAR[0]
        )
        if m < k - 1:
            axes.plot(
                [x + 0.25, x + span - 0.11],
                [2.68, 2.68],
                color=NEAR_TO_FAR[0],
                lw=1.2,
                ls=(0, (4, 2.5)),
            )
    note(axes, 0.5, 2.45, "one\nblock,\nL of them", color=INK, size=9)
    note(
        axes,
        left + 2 * span - 0.1,
        0.42,
        "a logit for every neighbour: LayerNorm, Linear(d, 1)",
        color=INK,
        size=9.5,
    )
    note(
        axes,
        left + 2 * span - 0.1,
        0.14,
        "dashed: stream 0 as it enters the block, read by every Cross-transformer; all streams run at once",
    )
    save(axes, "streams")


def who_sees_whom() -> None:
    """Which token looks at which, of one block."""
    n, k = 16, 4
    sizes = [len(part) for part in np.array_split(np.arange(n), k)]
    of = np.repeat(np.arange(k), sizes)
    full = np.zeros((n, n), int)
    split = np.where(of[:, None] == of[None, :], of[:, None], -1)
    cross = np.where((of[None, :] == 0) & (of[:, None] > 0), of[:, None], -1)
    axes = canvas(8.6, 3.5)
    pictures = (
        (full, "k = 1: full attention", "n² scores"),
        (split, "k = 4: self-attention", "n²/k scores"),
        (cross, "k = 4: C-ATT", "(k-1)(n/k)² scores"),
    )
    side = 2.3
    for i, (shown, title, cost) in enumerate(pictures):
        x0, y0, cell = 0.55 + i * 2.75, 0.62, side / n
        axes.add_patch(Rectangle((x0, y0), side, side, fc="#e6eaef", ec="none"))
        for row, column in np.argwhere(shown >= 0):
            corner = (x0 + column * cell, y0 + (n - 1 - row) * cell)
            axes.add_patch(
                Rectangle(
                    corner,
                    cell * 0.9,
                    cell * 0.9,
                    fc=NEAR_TO_FAR[shown[row, column]],
                    ec="none",
                )
            )
        axes.text(
            x0 + side / 2, y0 + side + 0.28, title, ha="center", va="center", size=10.5
        )
        note(axes, x0 + side / 2, 0.4, cost)
    axes.text(
        0.3,
        0.62 + side / 2,
        "who asks",
        rotation=90,
        ha="center",
        va="center",
        color=MUTED,
        size=8.5,
    )
    note(axes, 4.45, 0.13, "columns: who is looked at")
    save(axes, "who-sees-whom")


def correlation() -> None:
    """C-ATT as products."""
    axes = canvas(8.6, 2.7)
    parts = (
        (0.15, 0.75, 1.3, "X_q", "member tokens\n[s_q, d]", NEAR_TO_FAR[2]),
        (1.35, 1.2, 1.2, "W", "one matrix a\nstream and block\n[d, d]", "#7b6ba8"),
        (3.05, 1.2, 0.8, "X_cᵀ", "sub-cluster 0\n[d, s_c]", NEAR_TO_FAR[0]),
    )
    for x, width, height, name, below, color in parts:
        box(
            axes,
            x,
            1.65 - height / 2,
            width,
            height,
            name,
            fill=color,
            ink="white",
            size=12,
        )
        note(axes, x + width / 2, 0.42, below)
    note(axes, 1.12, 1.65, "·", size=18, color=INK)
    note(axes, 2.8, 1.65, "·", size=18, color=INK)
    arrow(axes, (4.3, 1.65), (4.75, 1.65))
    box(axes, 4.8, 1.0, 0.95, 1.3, "softmax\nof each\nrow", fill=CARD)
    note(axes, 5.27, 0.42, "[s_q, s_c]\nno scale")
    note(axes, 5.98, 1.65, "·", size=18, color=INK)
    box(axes, 6.2, 1.25, 0.75, 0.8, "X_c", fill=NEAR_TO_FAR[0], ink="white", size=12)
    note(axes, 6.57, 0.42, "the same\nagain")
    arrow(axes, (7.0, 1.65), (7.4, 1.65))
    box(axes, 7.45, 1.0, 0.85, 1.3, "O", fill=NEAR_TO_FAR[2], ink="white", size=12)
    note(axes, 7.87, 0.42, "[s_q, d]")
    save(axes, "correlation-attention")


def linking() -> None:
    """Intimacy: two dense groups, and an edge that is kept but links nothing."""
    axes = canvas(9.4, 3.0)
    rng = np.random.default_rng(3)
    angle = np.linspace(0, 2 * np.pi, 6, endpoint=False) + 0.3
    ring = np.stack([np.cos(angle), 0.8 * np.sin(angle)], 1) * 0.85 + rng.normal(
        0, 0.05, (6, 2)
    )
    left, right = np.add(ring, (1.5, 1.65)), np.add(ring[:, ::-1] * 0.95, (4.1, 1.65))
    for group, color in ((left, NEAR_TO_FAR[0]), (right, NEAR_TO_FAR[3])):
        for i in range(6):
            for j in range(i):
                axes.plot(
                    *zip(group[i], group[j], strict=True), color=KEPT, lw=1.1, zorder=1
                )
        axes.scatter(*group.T, s=110, color=color, zorder=3, edgecolor="white")
    a, b = left[np.argmax(left[:, 0])], right[np.argmin(right[:, 0])]
    axes.plot(
        *zip(a, b, strict=True), color=LEFT_OUT, lw=1.6, ls=(0, (4, 2.5)), zorder=1
    )
    lines = (
        ("1", "an edge is kept where q > threshold"),
        (
            "2",
            "common neighbours of its ends: 6 of 6 in a group,\nonly the two ends themselves across (2 of 7)",
        ),
        (
            "3",
            "an edge links where the share exceeds the\nintimacy threshold, 0.65: the dashed one does not",
        ),
        ("4", "clusters are the connected components"),
    )
    for i, (number, text) in enumerate(lines):
        y = 2.55 - i * 0.65
        axes.text(
            5.55, y, number, color=NEAR_TO_FAR[0], weight="bold", size=11, va="center"
        )
        axes.text(5.8, y, text, size=8.8, va="center", linespacing=1.35)
    save(axes, "linking")


def shards() -> None:
    """What stands in the folder of a run larger than memory."""
    axes = canvas(9.2, 3.2)
    box(axes, 0.1, 1.35, 1.3, 0.7, "features.npy\nmapped, not read", size=9)
    box(
        axes,
        1.95,
        2.3,
        2.2,
        0.75,
        "graph/: rows at length 1,\nindex, search.json",
        size=9,
    )
    box(
        axes,
        1.95,
        0.75,
        2.2,
        1.2,
        "graph/: shards of\nneighbors and similarity\n(16,384 rows each)",
        fill=NEAR_TO_FAR[0],
        ink="white",
        size=9,
    )
    box(
        axes,
        4.95,
        0.75,
        2.0,
        1.2,
        "edges/: shards of\ntargets and probability\nof the edges kept",
        fill=NEAR_TO_FAR[1],
        ink="white",
        size=9,
    )
    box(axes, 7.75, 1.0, 1.3, 0.7, "labels", size=9.5)
    arrow(axes, (1.4, 1.85), (1.95, 2.6))
    arrow(axes, (3.05, 2.3), (3.05, 1.95))
    arrow(axes, (4.15, 1.35), (4.95, 1.35))
    arrow(axes, (6.95, 1.35), (7.75, 1.35))
    note(axes, 5.3, 2.45, "the model, in an order\nthat keeps like with like", size=8.5)
    note(axes, 7.6, 2.45, "linking, by the\nfirst process", size=8.5)
    arrow(axes, (4.9, 2.25), (4.55, 1.42), color=MUTED)
    arrow(axes, (7.5, 2.25), (7.35, 1.42), color=MUTED)
    note(
        axes,
        4.6,
        0.35,
        "a shard appears whole or not at all; what is there is not made again; several processes take turns at the missing ones",
    )
    save(axes, "shards")


def purity() -> None:
    """What the fairness loss pulls together."""
    axes = canvas(8.6, 2.9)
    before, after = (
        (0.92, 0.88, 0.62, 0.95, 0.7, 0.85),
        (0.86, 0.84, 0.78, 0.87, 0.8, 0.84),
    )
    for x0, values, title in (
        (0.55, before, "purity of each cluster of a batch"),
        (4.75, after, "what the fairness loss pulls towards"),
    ):
        mean = float(np.mean(values))
        axes.text(x0 + 1.6, 2.65, title, ha="center", size=10)
        for i, value in enumerate(values):
            x, low = x0 + 0.15 + i * 0.52, 0.5
            height = 1.9 * value
            axes.add_patch(
                Rectangle(
                    (x, low), 0.34, height, fc=NEAR_TO_FAR[0], ec="none", alpha=0.85
                )
            )
            line = low + 1.9 * mean
            axes.plot([x + 0.17, x + 0.17], [low + height, line], color=LEFT_OUT, lw=2)
        axes.plot(
            [x0, x0 + 3.3], [0.5 + 1.9 * mean] * 2, color=INK, lw=1.2, ls=(0, (4, 2.5))
        )
        axes.text(x0 + 3.36, 0.5 + 1.9 * mean, "$\\gamma_f$", va="center", size=11)
        axes.plot([x0, x0 + 3.3], [0.5, 0.5], color=LINE, lw=1)
    note(
        axes,
        4.3,
        0.2,
        "red: |γ_i - γ_f|, whose mean is the fairness loss; it knows nothing of groups",
    )
    save(axes, "purity")


def main() -> None:
    """Write all drawings."""
    for draw in (
        whole_path,
        streams,
        who_sees_whom,
        correlation,
        linking,
        shards,
        purity,
    ):
        draw()


if __name__ == "__main__":
    main()
