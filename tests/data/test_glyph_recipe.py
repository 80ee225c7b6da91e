"""The steps of the recipe of `glyphs`, on toy input; no font package is needed."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import ImageFont

from intraformer_fast.bench.data import assemble, embed, splits
from intraformer_fast.bench.data.glyphs import build, classes, fonts, render, scripts
from intraformer_fast.bench.data.glyphs.fonts import Font
from intraformer_fast.data.dataset import unpack_pictures


def font(characters, package="p", path="f.ttf"):
    return Font(package, Path(path), 0, frozenset(map(ord, characters)))


def bars(angles, seed=0):
    """Pictures of a bar at an angle, each a little different: uint8 [N, 32, 32]."""
    random = np.random.default_rng(seed)
    angles = np.asarray(angles) + random.normal(0, 0.02, len(angles))
    y, x = np.mgrid[-15.5:16, -15.5:16]
    across = np.abs(x * np.sin(angles)[:, None, None] - y * np.cos(angles)[:, None, None])
    width = random.uniform(2, 4, len(angles))[:, None, None]
    picture = np.clip(width - across, 0, 1) * (np.hypot(x, y) < 13)
    return (255 * picture).astype(np.uint8)


# scripts


def test_no_character_is_in_two_scripts_or_twice_in_one():
    points = [point for script in scripts.SCRIPTS for point in script.code_points]
    assert len(points) == len(set(points))
    assert not scripts.LOOKALIKES & set(points)


def test_every_group_has_a_script_and_every_script_a_group():
    assert {script.group for script in scripts.SCRIPTS} == set(scripts.GROUPS)
    assert len({script.name for script in scripts.SCRIPTS}) == len(scripts.SCRIPTS) == 24


def test_a_script_is_strings_and_ranges_without_lookalikes():
    script = scripts.script("toy", "kana", "ab", (0x3041, 0x3043), limit=2)
    assert script.code_points == (ord("a"), ord("b"), 0x3042)  # U+3041 is the small form of U+3042, U+3043 too
    assert script.limit == 2


# fonts


def test_a_glyph_shared_inside_a_script_is_a_stand_in():
    cmap = {ord("a"): "one", ord("b"): "box", ord("d"): "box", ord("α"): "one", ord("β"): ".notdef", 0x20: "space"}
    assert fonts.own_code_points(cmap) == {ord("a"), ord("α")}


def test_a_folder_without_packages_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no \.deb file; the README tells how to fetch them"):
        fonts.unpack(tmp_path, tmp_path)


@pytest.fixture
def dejavu():
    matplotlib = pytest.importorskip("matplotlib")
    return Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"


def test_fonts_are_listed_one_of_each_package_first(tmp_path, dejavu):
    pytest.importorskip("fontTools")
    for name in ("one/usr/share/fonts/a/x.ttf", "one/usr/share/fonts/b.TTF", "two/usr/share/fonts/c.ttf"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(dejavu, tmp_path / name)
    (tmp_path / "one/usr/share/fonts/link.ttf").symlink_to(dejavu)
    (tmp_path / "one/usr/share/fonts/readme.txt").write_text("not a font")
    listed = fonts.list_fonts(tmp_path, seed=0)
    assert [found.package for found in listed] == ["one", "two", "one"]
    assert {found.path.name for found in listed} == {"x.ttf", "b.TTF", "c.ttf"}
    assert {ord("a"), ord("ж")} <= listed[0].code_points
    assert ord("가") not in listed[0].code_points
    assert listed == fonts.list_fonts(tmp_path, seed=0)


# pictures


def test_ink_is_cut_out_centered_and_scaled_to_fill_the_frame():
    mask = np.zeros((60, 50), np.uint8)
    mask[10:38, 20:34] = 255  # 28 high, 14 wide: as high as the frame inside its margin
    picture = render.square(mask)
    assert picture.shape == (32, 32)
    expected = np.zeros((32, 32), np.uint8)
    expected[2:30, 9:23] = 255
    np.testing.assert_array_equal(picture, expected)


@pytest.mark.parametrize(("height", "width"), [(80, 40), (9, 9), (5, 300), (31, 30)])
def test_every_size_of_ink_fills_the_frame(height, width):
    mask = np.pad(np.full((height, width), 255, np.uint8), 7)
    picture = render.square(mask)
    rows, columns = np.flatnonzero(picture.max(1)), np.flatnonzero(picture.max(0))
    assert max(np.ptp(rows), np.ptp(columns)) == 27
    assert min(rows[0], columns[0]) == 2
    if height != width:
        assert (np.ptp(rows) < np.ptp(columns)) == (height < width)


@pytest.mark.parametrize("shape", [(2, 30), (30, 2)])
def test_specks_and_faint_marks_give_no_picture(shape):
    assert render.square(np.pad(np.full(shape, 255, np.uint8), 5)) is None
    assert render.square(np.full((30, 30), render.INK, np.uint8)) is None


def test_a_letter_is_drawn_and_a_space_is_not():
    face = ImageFont.load_default(render.FONT_SIZE)
    letter = render.draw(face, ord("L"))
    assert letter[2:30, 2:].any(1).all()  # as high as the frame
    assert letter[:16].sum() < letter[16:].sum()  # its foot is below
    assert render.draw(face, ord(" ")) is None


def test_characters_drawn_alike_by_one_font_are_left_out(dejavu):
    drawn = render.draw_all(font("AΑbж ", path=dejavu), map(ord, "AΑbж "))
    assert sorted(drawn) == [ord("b"), ord("ж")]  # Latin A and Greek Alpha are one shape, a space has none


# classes


def test_characters_need_enough_fonts():
    found = [font("ab")] * 7 + [font("bж")]
    assert classes.choose_characters(found) == [(ord("b"), scripts.GROUPS.index("latin"))]


def test_big_scripts_are_thinned_evenly_among_the_well_covered(monkeypatch):
    toy = scripts.script("toy", "han", (0x5000, 0x5013), limit=3)
    monkeypatch.setattr(classes, "SCRIPTS", (toy,))
    everywhere, rare = [chr(point) for point in toy.code_points[5:]], chr(0x5000)
    found = [font("".join(everywhere))] * 20 + [font(rare)] * 10
    chosen = classes.choose_characters(found)
    assert [point for point, _ in chosen] == [0x5005, 0x500C, 0x5013]


def test_a_character_goes_to_its_first_fonts(monkeypatch):
    monkeypatch.setattr(classes, "MAX_FONTS", 2)
    tasks = classes.assign_fonts([font("ab"), font("a"), font("ab"), font("b")], [ord("b"), ord("a")])
    assert tasks == [[ord("a"), ord("b")], [ord("a")], [ord("b")], []]


def test_near_copies_of_a_picture_are_left_out(monkeypatch):
    one, other = bars([0.0, 1.0])
    copy = np.maximum(one, 3)
    assert classes.keep_different([one, copy, other, one]) == [0, 2]
    monkeypatch.setattr(classes, "MAX_PICTURES", 1)
    assert classes.keep_different([one, copy, other]) == [0]
    assert classes.keep_different([]) == []


def test_classes_are_split_in_equal_shares_inside_each_group():
    groups = np.random.default_rng(0).permutation(np.repeat(np.arange(7), 20))
    split = splits.split_classes(groups, seed=0)
    for group in range(7):
        assert np.bincount(split[groups == group], minlength=3).tolist() == [8, 6, 6]
    np.testing.assert_array_equal(split, splits.split_classes(groups, seed=0))
    assert (split != splits.split_classes(groups, seed=1)).any()


# features


def test_cells_are_square_roots_of_shares():
    cells = embed.gradient_cells(np.concatenate([bars(np.linspace(0, 3, 9)), np.zeros((1, 32, 32), np.uint8)]))
    assert cells.shape == (10, 7 * 7 * 8)
    np.testing.assert_allclose((cells[:9] ** 2).sum(1), 1, atol=1e-4)
    assert not cells[9].any()


@pytest.mark.parametrize(("turns", "direction"), [(0, 0), (3, 2), (2, 4), (1, 6)])
def test_an_edge_counts_to_its_own_direction(turns, direction):
    """Ink to the right is direction 0, ink below 2, to the left 4, above 6 (eighths of the circle)."""
    edge = np.zeros((32, 32), np.uint8)
    edge[:, 16:] = 255
    cells = embed.gradient_cells(np.rot90(edge, turns)[None]).reshape(49, 8)
    assert cells[:, direction].sum() > 0
    assert np.delete(cells, direction, axis=1).sum() < 1e-3


def test_a_direction_between_two_counts_to_both():
    y, x = np.mgrid[:32, :32]
    slope = (4 * x + 2 * y).astype(np.uint8)  # arctan(1/2) = 0.59 of an eighth
    shares = (embed.gradient_cells(slope[None]).reshape(49, 8)[24] ** 2).round(6)
    part = np.arctan2(2, 4) / (np.pi / 4)
    np.testing.assert_allclose(shares[:2] / shares.sum(), [1 - part, part], atol=1e-3)
    assert not shares[2:].any()


def test_cells_equal_a_pixel_by_pixel_twin():
    picture = np.random.default_rng(0).integers(0, 256, (32, 32)).astype(np.uint8)
    gray = np.pad(picture / 255, 1, mode="edge")
    blurred = np.zeros((32, 32))
    for y, x in np.ndindex(32, 32):
        around = gray[y, x + 1] + gray[y + 2, x + 1] + gray[y + 1, x] + gray[y + 1, x + 2]
        blurred[y, x] = gray[y + 1, x + 1] / 2 + around / 8
    dy, dx = np.gradient(blurred)
    blocks = np.zeros((7, 7, 8))
    for y, x in np.ndindex(32, 32):
        turn = np.arctan2(dy[y, x], dx[y, x]) / (2 * np.pi) * 8 % 8
        strength, low = np.hypot(dy[y, x], dx[y, x]), int(turn)
        for bin_, share in ((low, 1 - (turn - low)), (low + 1, turn - low)):
            for row in {max(y // 4 - 1, 0), min(y // 4, 6)}:
                for column in {max(x // 4 - 1, 0), min(x // 4, 6)}:
                    blocks[row, column, bin_ % 8] += strength * share
    expected = np.sqrt(blocks / blocks.sum()).ravel()
    np.testing.assert_allclose(embed.gradient_cells(picture[None])[0], expected, atol=1e-4)


def test_pictures_are_worked_on_in_blocks(monkeypatch):
    pictures = bars(np.linspace(0, 3, 11))
    whole = embed.gradient_cells(pictures)
    monkeypatch.setattr(embed, "BLOCK", 4)
    np.testing.assert_allclose(embed.gradient_cells(pictures), whole, atol=1e-6)


def test_the_axes_are_those_of_scikit_learns_discriminant_analysis():
    discriminant_analysis = pytest.importorskip("sklearn.discriminant_analysis")
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), 50)
    cells = (random.normal(size=(6, 12))[labels] + random.normal(size=(300, 12)) @ random.normal(size=(12, 12))).astype(
        np.float32
    )
    ours = embed.fit(cells, labels + 40, pca_width=12, width=5).axes
    theirs = discriminant_analysis.LinearDiscriminantAnalysis(solver="eigen", shrinkage=embed.RIDGE)
    theirs = theirs.fit(cells.astype(np.float64), labels).scalings_[:, :5]
    cosines = np.linalg.svd(np.linalg.qr(ours)[0].T @ np.linalg.qr(theirs)[0], compute_uv=False)
    assert cosines.min() > 0.999


def test_the_embedding_tells_apart_classes_it_was_not_fitted_on():
    angles = np.repeat(np.linspace(0, np.pi, 24, endpoint=False), 12)
    labels = np.repeat(np.arange(24), 12)
    cells = embed.gradient_cells(bars(angles))
    fitted = labels % 2 == 0
    features = embed.fit(cells[fitted], labels[fitted], pca_width=60, width=16)(cells[~fitted])
    assert features.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-6)
    cosine = features @ features.T - 2 * np.eye(len(features))
    nearest = labels[~fitted][cosine.argmax(1)]
    assert np.mean(nearest == labels[~fitted]) > 0.95


# the file


def test_the_arrays_agree_with_each_other(monkeypatch):
    counts = np.repeat(np.arange(8, 12), 14)
    labels = np.repeat(np.arange(56), counts)
    class_groups = np.arange(56) % 7
    code_points = np.arange(56) + 0x4E00
    pictures = bars(labels * np.pi / 56)
    packages = np.array(["b", "a", "c"])[labels % 3]
    arrays = build.arrays_of(pictures, labels, packages, code_points, class_groups)

    kept = np.isin(labels, arrays["code_points"] - 0x4E00)
    original = labels[kept]
    np.testing.assert_array_equal(arrays["code_points"][arrays["labels"]] - 0x4E00, original)
    np.testing.assert_array_equal(arrays["groups"], class_groups[original])
    np.testing.assert_array_equal(arrays["package_names"][arrays["packages"]], packages[kept])
    assert (
        np.abs(unpack_pictures(arrays["pictures"])[:, 2:-2, 2:-2].astype(int) - pictures[kept, 2:-2, 2:-2]).max() < 43
    )
    np.testing.assert_array_equal(np.unique(arrays["labels"]), np.arange(len(arrays["code_points"])))
    split = splits.split_classes(class_groups, build.SEED)
    np.testing.assert_array_equal(np.where(arrays["test"], splits.TEST, splits.TRAIN), split[original])
    assert np.abs(arrays["features"]).max() == 127
    assert not any(array.dtype.hasobject for array in arrays.values())


def test_quantizing_keeps_cosines():
    features = np.random.default_rng(0).normal(size=(50, 128)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    rounded = assemble.quantize(features).astype(np.float32)
    rounded /= np.linalg.norm(rounded, axis=1, keepdims=True)
    np.testing.assert_allclose(rounded @ rounded.T, features @ features.T, atol=5e-3)


def test_packages_unlike_the_pinned_ones_are_named(tmp_path):
    everything = assemble.unlike_pinned(build.CHECKSUMS, tmp_path)
    assert len(everything) == 181
    assert any(name.startswith("fonts-noto-core_") for name in everything)
    (tmp_path / "one_1_all.deb").write_bytes(b"right")
    (tmp_path / "two_1_all.deb").write_bytes(b"wrong")
    digest = hashlib.sha256(b"right").hexdigest()
    listed = tmp_path / "packages.sha256"
    listed.write_text(f"{digest}  one_1_all.deb\n{digest}  two_1_all.deb\n{digest}  three_1_all.deb\n")
    assert assemble.unlike_pinned(listed, tmp_path) == ["two_1_all.deb", "three_1_all.deb"]


def test_the_command_needs_its_packages(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no \.deb file"):
        build.main(["--debs", str(tmp_path), "--out", str(tmp_path / "glyphs.npz")])
    assert list(tmp_path.iterdir()) == []
