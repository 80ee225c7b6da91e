"""The steps of the recipe of `emoji`, on toy input; no package of drawings is needed."""

import io
import json
import tarfile

import numpy as np
import pytest

from intraformer_fast.bench.data import splits
from intraformer_fast.bench.data.emoji import build, classes, concepts, drawings, views
from intraformer_fast.bench.data.emoji.cells import cells
from intraformer_fast.bench.data.emoji.concepts import GROUPS, Concept


def archive(path, **files):
    with tarfile.open(path, "w:gz") as opened:
        for name, content in files.items():
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            opened.addfile(info, io.BytesIO(data))
    return path


def shape(angle, color, width=5):
    """A bar at an angle in a drawing of its own: uint8 [64, 64, 4]."""
    y, x = np.mgrid[-31.5:32, -31.5:32]
    inside = (np.abs(x * np.sin(angle) - y * np.cos(angle)) < width) & (np.hypot(x, y) < 26)
    drawing = np.zeros((64, 64, 4), np.uint8)
    drawing[inside] = (*color, 255)
    return drawing


# concepts


def test_concepts_are_what_emojibase_groups_but_for_components(tmp_path):
    entries = [
        {"hexcode": "1F600", "label": "grinning face", "group": 0},
        {"hexcode": "0023-FE0F-20E3", "label": "keycap: #", "group": 8},
        {"hexcode": "1F3FB", "label": "light skin tone", "group": 2},
        {"hexcode": "1F1E6", "label": "regional indicator A"},
    ]
    found = concepts.read_concepts(archive(tmp_path / "e.tgz", **{"package/en/data.json": entries}))
    assert found == [
        Concept("0023-20E3", "keycap: #", GROUPS.index("symbols")),
        Concept("1F600", "grinning face", GROUPS.index("smileys")),
    ]
    assert concepts.read_json(tmp_path / "e.tgz", "package/none.json") == {}


def test_names_are_found_in_every_spelling():
    known = [
        Concept("1F1F3-1F1F4", "flag: Norway", GROUPS.index("flags")),
        Concept("1F436", "dog face", GROUPS.index("animals")),
        Concept("1F600", "grinning face", 0),
    ]
    names = concepts.name_table(known, [{"1f436-fe0f": "dogface-two", "1f999": "llama"}], {"1F600": "GRINNING FACE"})
    assert concepts.find(names, ["flag-for-norway"]) == "1F1F3-1F1F4"
    assert concepts.find(names, ["norway"]) == "1F1F3-1F1F4"
    assert concepts.find(names, ["dog-face-2"]) == concepts.find(names, ["dogface-two"]) == "1F436"
    assert concepts.find(names, ["smiley", "grinningface"]) == "1F600"
    assert concepts.find(names, ["llama"]) is None


# drawings


def test_icons_are_found_by_code_points_then_by_name_or_alias():
    data = {
        "icons": {
            "a": {"body": "<g/>"},
            "dog-face": {"body": "<p/>", "width": 8},
            "c": {"body": "<x/>"},
            "d": {"body": ""},
        },
        "aliases": {"grinning-face": {"parent": "c"}, "left": {"parent": "d", "hFlip": True}},
        "width": 32,
        "height": 32,
    }
    names = {"dogface": "1F436", "grinningface": "1F600", "left": "2B05"}
    found = dict(drawings.icons(data, {"1f999-fe0f": "a"}, names))
    assert list(found) == ["1F999", "1F436", "1F600"]
    assert 'viewBox="0 0 32 32"' in found["1F999"]
    assert 'viewBox="0 0 8 32"' in found["1F436"]
    assert "<x/>" in found["1F600"]


def test_openmoji_gives_its_files_by_code_points(tmp_path):
    package = archive(
        tmp_path / "o.tgz",
        **{
            "package/color/svg/1F600.svg": b"<b/>",
            "package/color/svg/0023-FE0F-20E3.svg": b"<a/>",
            "package/black/svg/1F601.svg": b"",
        },
    )
    assert list(drawings.openmoji(package, "color")) == [("0023-20E3", "<a/>"), ("1F600", "<b/>")]


def test_an_svg_is_rendered_without_changing_its_proportions():
    pytest.importorskip("resvg_py", reason="resvg-py is not installed: only the recipe needs it")
    drawing = drawings.render(drawings.SVG.format(box="0 0 2 1", body='<path fill="#f00" d="M0 0h1v1H0z"/>'))
    assert drawing.shape == (64, 64, 4)
    assert (drawing[:32, :32] == (255, 0, 0, 255)).all()
    assert not drawing[:, 32:, 3].any()
    assert not drawing[32:, :, 3].any()


def test_what_a_set_draws_alike_for_two_concepts_is_left_out():
    one, two, empty = shape(0, (255, 0, 0)), shape(1, (255, 0, 0)), np.zeros((64, 64, 4), np.uint8)
    kept = drawings.keep_unlike([("A", one), ("B", two), ("C", one), ("D", empty), ("B", two)])
    assert [points for points, _ in kept] == ["B", "B"]  # one concept may have a drawing twice


# classes


def test_sizes_are_within_the_limits_and_drawings_are_taken_unevenly():
    identities, position = classes.draw_pictures([12] * 400, seed=0)
    sizes = np.bincount(identities)
    assert len(sizes) == 400
    assert sizes.min() >= 8
    assert sizes.max() <= 60
    assert np.quantile(sizes, 0.1) < 12
    assert np.quantile(sizes, 0.9) > 48
    assert position.max() == 11
    most = np.mean([np.bincount(position[identities == i]).max() / sizes[i] for i in range(400)])
    assert 0.3 < most < 0.6  # of a Zipf law with exponent 1.25 over 12, the first has .40
    again = classes.draw_pictures([12] * 400, seed=0)
    np.testing.assert_array_equal(again, (identities, position))


# views


def test_the_box_is_that_of_the_ink():
    drawing = np.zeros((64, 64, 4), np.uint8)
    drawing[10:30, 20:25, 3] = 255
    assert views.ink_box(drawing) == (20, 22.5, 20)


def test_a_view_without_pose_and_light_is_the_drawing_on_white(monkeypatch):
    still = {"TURN": 0, "STRETCH": 0, "SHIFT": 0, "TINT": 0, "CAST": 0, "SLOPE": 0}
    fixed = {"FILL": (0.5, 0.5), "PAPER": (1, 1), "LIGHT": (1, 1), "BLUR": (0, 0), "NOISE": (0, 0)}
    for name, value in (still | fixed).items():
        monkeypatch.setattr(views, name, value)
    drawing = np.zeros((64, 64, 4), np.uint8)
    drawing[8:32, 30:42] = (200, 100, 0, 255)  # 24 high, as half of the picture is
    (picture,) = views.views(drawing[None], np.array([0]), seed=0)
    assert (picture[13:35, 19:29] == (200, 100, 0)).all()
    outside = picture.copy()
    outside[12:36, 18:30] = 255
    assert (outside == 255).all()


def test_turning_is_clockwise_for_a_positive_angle_and_keeps_the_center(monkeypatch):
    monkeypatch.setattr(views, "TURN", 0)
    bar = shape(np.radians(30), (0, 0, 0))
    dark = 255 - views.views(bar[None], np.zeros(40, int), seed=0).mean(-1)
    y, x = np.mgrid[-23.5:24, -23.5:24]
    weight = np.clip(dark - np.median(dark, axis=(1, 2), keepdims=True), 0, None)
    angles = 0.5 * np.arctan2(2 * (weight * x * y).sum((1, 2)), (weight * (x * x - y * y)).sum((1, 2)))
    assert np.degrees(np.mean(angles)) == pytest.approx(30, abs=4)


def test_views_differ_and_come_again_with_the_seed():
    pair = np.stack([shape(0, (255, 0, 0)), shape(1, (0, 0, 255))])
    which = np.array([0, 0, 1])
    pictures = views.views(pair, which, seed=0)
    assert pictures.shape == (3, views.SIZE, views.SIZE, 3)
    assert pictures.dtype == np.uint8
    assert (pictures[0] != pictures[1]).any()
    np.testing.assert_array_equal(pictures, views.views(pair, which, seed=0))
    assert (pictures != views.views(pair, which, seed=1)).any()
    middle = pictures[:, 20:28, 20:28].reshape(3, -1, 3).mean(1)
    assert (middle[:2, 0] > middle[:2, 2]).all()  # red
    assert middle[2, 2] > middle[2, 0]  # blue


# features


def test_cells_are_gradients_and_then_colors():
    picture = np.zeros((1, 48, 48, 3), np.uint8)
    picture[:, :12, :12] = (255, 0, 0)
    found = cells(picture)
    assert found.shape == (1, 7 * 7 * 8 + 48)
    colors = found[0, 392:].reshape(4, 4, 3)
    np.testing.assert_allclose(colors[0, 0], [1 - 0.299, -0.299, 0.299], atol=1e-5)
    assert not colors[1:].any()
    assert not colors[0, 1:].any()


# the file


@pytest.fixture(scope="module")
def toy():
    """45 concepts of 9 groups, drawn by six sets in colours of their own; the last concept by four of them."""
    known = [Concept(f"{0x1F600 + i:X}", f"bar {i}", i % 9) for i in range(45)]
    random = np.random.default_rng(0)
    sets = []
    for number in range(6):
        colors = random.integers(0, 200, 3)
        drawn = [(one.code_points, shape(i * np.pi / 45, colors, 3 + number)) for i, one in enumerate(known)]
        sets.append((f"set {number}", [*(drawn if number > 1 else drawn[:-1]), ("1F999", shape(0, colors, 20))]))
    return known, sets


def test_the_arrays_agree_with_each_other(toy, monkeypatch):
    monkeypatch.setattr(classes, "MAX_PICTURES", 16)
    known, sets = toy
    arrays = build.build(known, sets)
    kept = 44  # one has too few drawings
    split = splits.split_classes(np.array([one.group for one in known[:kept]]), build.SEED)
    names = arrays["class_names"].tolist()
    assert sorted(names) == sorted(
        one.label for one, part in zip(known, split, strict=False) if part != splits.EMBEDDING
    )
    by_label = {one.label: one for one in known}
    for label, group, test in zip(arrays["labels"], arrays["groups"], arrays["test"], strict=True):
        concept = by_label[names[label]]
        assert concept.group == group
        assert (split[known.index(concept)] == splits.TEST) == test
        assert arrays["code_points"][label] == concept.code_points
    assert arrays["set_names"].tolist() == [f"set {number}" for number in range(6)]
    assert set(arrays["sets"]) == set(range(6))
    assert arrays["features"].dtype == np.int8
    assert np.abs(arrays["features"]).max() == 127
    assert not any(array.dtype.hasobject for array in arrays.values())

    again = build.build(known, sets)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, again[name])


def test_the_command_names_the_packages_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"openmoji-.*\.tgz: not there; the README tells how to fetch"):
        build.main(["--packages", str(tmp_path), "--out", str(tmp_path / "emoji.npz")])
    assert list(tmp_path.iterdir()) == []


def test_packages_and_checksums_list_the_same_files(tmp_path):
    listed = [line.split()[1] for line in build.CHECKSUMS.read_text().splitlines()]
    assert sorted(listed) == sorted(file.name for file in build.package_files(tmp_path).values())
