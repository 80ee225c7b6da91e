"""The charts by their pixels: what is drawn has the size of what was given."""

import io

import numpy as np
import pytest
from PIL import Image

from intraformer_fast import charts


def pixels(png):
    with Image.open(io.BytesIO(png)) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def mask(image, color, tolerance=12):
    target = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return (np.abs(image - target) <= tolerance).all(axis=-1)


def longest_run(rows):
    """The longest horizontal run of True."""
    padded = np.pad(rows, ((0, 0), (1, 1))).astype(int)
    starts, ends = np.nonzero(np.diff(padded) == 1)[1], np.nonzero(np.diff(padded) == -1)[1]
    return (ends - starts).max()


def test_bars_are_as_long_as_their_values():
    methods = [charts.MethodBars("only", [0.2, 0.4, 0.8], 0.467, 0.306, True)]
    image = pixels(charts.group_bars("F_P, percent", ["a", "b", "c"], methods))
    lengths = np.array([longest_run(mask(image, color)) for color in charts.GROUP_COLORS[:3]])
    np.testing.assert_allclose(lengths / lengths[0], [1, 2, 4], rtol=0.02)


def test_whiskers_are_two_std_long():
    def whisker(std):
        methods = [charts.MethodBars("", [0.6], 0.6, std, False)]
        return longest_run(mask(pixels(charts.group_bars("", [""], methods)), charts.INK))

    assert whisker(0.3) == pytest.approx(3 * whisker(0.1), rel=0.04)


def test_more_groups_than_colors_are_still_drawn():
    count = len(charts.GROUP_COLORS) + 2
    names = [f"group {i}" for i in range(count)]
    image = pixels(charts.group_bars("F_P", names, [charts.MethodBars("m", [0.5] * count, 0.5, 0.0, False)]))
    few = pixels(charts.group_bars("F_P", names[:3], [charts.MethodBars("m", [0.5] * 3, 0.5, 0.0, False)]))
    assert len(image) > len(few)


def test_speedups_are_as_long_as_their_logarithms():
    image = pixels(charts.speedups([("a", [("x", 2.0), ("y", 8.0)]), ("b", [("z", 0.5)])]))
    x, y, z = (longest_run(mask(image, color)) for color in charts.GROUP_COLORS[:3])
    assert y == pytest.approx(3 * x, rel=0.03)
    assert z == pytest.approx(x, rel=0.03)


def test_marks_of_a_roofline_lie_as_far_apart_as_their_logarithms():
    points = [charts.Point(name, 100.0, rate) for name, rate in (("a", 8e11), ("b", 8e10), ("c", 8e9))]
    image = pixels(charts.roofline("r", {"peak": 1e12}, {"memory": 1e11}, points, ""))
    above = image[: 6 * len(image) // 10]  # below stands the legend
    a, b, c = (np.median(np.nonzero(mask(above, color))[0]) for color in charts.GROUP_COLORS[:3])
    assert b - a == pytest.approx(c - b, abs=3)
    assert b - a > 50


def test_a_sweep_rises_where_its_values_do():
    def points(values):
        image = mask(pixels(charts.sweep("k", [1, 4, 16], {"F_P": values})), charts.SAME)
        heights = [np.nonzero(column)[0] for column in np.array_split(image, 3, axis=1)]
        return [(rows.min() + rows.max()) / 2 for rows in (heights[0], heights[2])], image

    (first, last), _ = points([(0.2, 0.0), (0.5, 0.0), (0.8, 0.0)])
    assert first > last  # rows count from the top
    (first, last), _ = points([(0.8, 0.0), (0.5, 0.0), (0.2, 0.0)])
    assert first < last
    one, two = (
        pixels(charts.sweep("k", [1], {name: [(0.5, 0.1)] for name in panels}))
        for panels in (["F_P"], ["F_P", "STD $"])
    )
    assert len(two) > len(one)


def spreads(*stds):
    return [charts.Spread(f"m{i}", [0.9] * 3, [std] * 3, False) for i, std in enumerate(stds)]


def test_bars_of_std_are_as_long_as_it():
    gray = mask(pixels(charts.std_and_mean("F_P", spreads(0.1, 0.2))), charts.GROUP_COLORS[6])
    half = len(gray) // 2
    assert longest_run(gray[half:]) == pytest.approx(2 * longest_run(gray[:half]), rel=0.03)


def test_radar_reaches_as_far_as_the_std():
    image = pixels(charts.std_radar(["F_P", "F_B", "NMI"], spreads(0.05, 0.1)))
    image = image[: len(image) * 9 // 10]  # without the legend
    width = [np.ptp(np.nonzero(mask(image, color))[1]) for color in charts.GROUP_COLORS[:2]]
    assert width[1] == pytest.approx(2 * width[0], rel=0.03)
    assert pixels(charts.std_radar(["F_P", "F_B", "NMI"], spreads(0.0))).size


def test_names_that_look_like_formulas_are_text():
    broken = "$\\frac{ cost"
    methods = [charts.MethodBars(f"{broken}$", [0.5], 0.5, 0.0, False)]
    assert pixels(charts.group_bars(f"{broken}$", [f"{broken}$"], methods)).size
    assert pixels(charts.std_and_mean(f"{broken}$", [charts.Spread(f"{broken}$", [0.5] * 3, [0.1] * 3, True)])).size
    assert pixels(charts.std_radar([f"{broken}$"] * 3, [charts.Spread(f"{broken}$", [0.5] * 3, [0.1] * 3, True)])).size
    assert pixels(charts.edge_histogram(np.ones(3), np.ones(3), f"{broken}$")).size
    assert pixels(charts.loss_curves([{f"{broken}$_loss": 1.0}])).size


def test_histogram_puts_each_kind_where_its_values_are():
    same, different = np.full(40, 0.9), np.full(7, 0.1)
    image = pixels(charts.edge_histogram(same, different, "cosine"))
    # Outlines only: the fill is paler.
    columns = {color: np.nonzero(mask(image, color).sum(axis=0) > 50)[0] for color in (charts.SAME, charts.DIFFERENT)}
    middle = image.shape[1] / 2
    assert columns[charts.SAME].min() > middle > columns[charts.DIFFERENT].max()
    # Shares, not counts: both are 100 % of their kind, so both are as high.
    heights = [mask(image, color).sum(axis=0).max() for color in (charts.SAME, charts.DIFFERENT)]
    assert heights[0] == pytest.approx(heights[1], rel=0.02)


@pytest.mark.parametrize("same", [np.array([]), np.array([-0.5, 1.0])])
def test_histogram_of_one_kind_or_none(same):
    assert pixels(charts.edge_histogram(same, np.array([]), "cosine")).size


def test_curves_are_what_training_writes_and_what_can_be_drawn():
    history = [
        {
            "epoch": 1,
            "step": 9,
            "learning_rate": 1e-3,
            "loss": 2.0,
            "val_auc": None,
            "f1": 0.5,
            "scored_on": "training",
        },
        {
            "epoch": 2,
            "step": 18,
            "learning_rate": 1e-4,
            "loss": 1.0,
            "val_auc": 0.75,
            "f1": float("nan"),
            "threshold": 1.0,
        },
    ]
    losses, scores = charts.curves(history)
    assert losses == {"loss": [2.0, 1.0]}
    assert list(scores) == ["val_auc", "f1"]
    np.testing.assert_array_equal(scores["val_auc"], [np.nan, 0.75])
    np.testing.assert_array_equal(scores["f1"], [0.5, np.nan])


def test_loss_curves_leave_out_an_empty_panel():
    both, one = ({"loss": 1.0, "auc": 0.5}, {"loss": 1.0})
    assert len(pixels(charts.loss_curves([both, both]))) > len(pixels(charts.loss_curves([one, one])))
    assert charts.loss_curves([]) is None
    assert charts.loss_curves([{"epoch": 1, "note": "x", "loss": None}]) is None


def test_every_curve_of_a_single_epoch_can_be_seen():
    """The cosine was a line of one point, and stood in the legend alone."""
    image = pixels(charts.loss_curves([{"epoch": 1, "auc": 0.9, "cosine_auc": 0.5, "f1": 0.7}]))
    plotted = image[:, : image.shape[1] // 2]
    for color in charts.GROUP_COLORS[:3]:
        assert mask(plotted, color).any()


def test_sprite_inverts_ink_and_places_each_picture():
    pictures = np.stack([np.full((32, 32), value, dtype=np.uint8) for value in (255, 0, 85, 170, 255)])
    png, corners = charts.sprite(pictures)
    image = pixels(png)[:, :, 0]
    assert len(set(corners)) == 5
    for picture, (x, y) in zip(pictures, corners, strict=True):
        tile = image[y : y + charts.TILE, x : x + charts.TILE]
        assert tile.shape == (charts.TILE, charts.TILE)
        np.testing.assert_array_equal(tile, 255 - int(picture[0, 0]))
