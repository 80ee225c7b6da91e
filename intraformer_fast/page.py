"""A web page in one file: elements that escape what they are given, and the style."""

from html import escape

VOID_ELEMENTS = frozenset({"br", "img", "meta"})


class Markup(str):
    """HTML. A plain `str` is text, and is escaped where it meets HTML."""

    __slots__ = ()


def element(name: str, /, *children: str, **attributes: object) -> Markup:
    """An HTML element. Text among `children` and every attribute value is escaped; `class_` is the attribute class."""
    opening = name + "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"' for key, value in attributes.items()
    )
    return Markup(f"<{opening}>" if name in VOID_ELEMENTS else f"<{opening}>{join(children)}</{name}>")


def join(children: tuple[str, ...] | list[Markup], separator: str = "") -> Markup:
    """The children in a row, text among them escaped."""
    return Markup(separator.join(child if isinstance(child, Markup) else escape(child) for child in children))


def document(title: str, *body: Markup, style: str = "") -> Markup:
    """A whole page that needs nothing from elsewhere; `style` is CSS in addition to what all pages have."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Markup(STYLE + style)),
    )
    return Markup("<!doctype html>\n" + element("html", head, "\n", element("body", *body), lang="en") + "\n")


# A table or a sheet wider than the screen scrolls in its own box; the page itself never does. Pictures are drawn on white, so
# in the dark they stand on a white card. Frames of tiles differ in line as well as in color.
STYLE = """
:root { --page: #f7f8fa; --card: #fff; --ink: #1f2933; --muted: #5f6c7b; --line: #dfe3e8; --ours: #eaf2fb; --accent: #2f6fb0;
  --in: #228833; --out: #cc3311; }
@media (prefers-color-scheme: dark) { :root { --page: #14181d; --card: #1c2229; --ink: #e6eaef; --muted: #9aa7b5; --line: #333c47;
  --ours: #1f3247; --accent: #7db4ea; --in: #5fc06f; --out: #ff7f66; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); line-height: 1.5;
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
header, main, footer { max-width: 72rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 2.5rem; }
h1 { font-size: clamp(1.6rem, 4vw, 2.3rem); line-height: 1.2; margin: 0 0 .75rem; letter-spacing: -.01em; }
h2 { font-size: 1.35rem; margin: 3rem 0 .5rem; }
h3 { font-size: 1.05rem; margin: 1.75rem 0 .5rem; }
p { max-width: 46rem; margin: .5rem 0; overflow-wrap: anywhere; }
.note, figcaption, caption, footer { color: var(--muted); font-size: .9rem; }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: .6rem; margin: .75rem 0; }
.scroll:focus-visible { outline: 2px solid var(--accent); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: .7rem .9rem; }
caption span { display: block; position: sticky; left: .9rem; max-width: min(64rem, calc(100vw - 4rem)); }
th, td { padding: .45rem .7rem; text-align: right; white-space: nowrap; border-top: 1px solid var(--line); }
thead th { color: var(--muted); font-size: .82rem; font-weight: 600; vertical-align: bottom; }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--card); min-width: 9.5rem; white-space: normal; }
tbody th { font-weight: 600; line-height: 1.3; }
tbody th small { display: block; font-weight: 400; color: var(--muted); }
tr.ours td, tr.ours th { background: var(--ours); }
.tag { display: inline-block; font-size: .7rem; font-weight: 600; line-height: 1.4; padding: 0 .4rem;
  border-radius: 1rem; color: var(--accent); border: 1px solid var(--accent); }
td strong { font-weight: 750; color: var(--accent); }
td.split, th.split { border-left: 1px solid var(--line); }
.grid { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20.5rem), 1fr)); align-items: start; }
figure { margin: .5rem 0; background: var(--card); border: 1px solid var(--line); border-radius: .6rem; overflow: hidden; }
.grid figure { margin: 0; max-width: 35rem; }
figure > img { display: block; width: 100%; height: auto; background: #fff; padding: .6rem .6rem .3rem; }
figcaption { padding: .6rem .9rem .8rem; overflow-wrap: anywhere; }
figcaption b { color: var(--ink); }
.warning { color: var(--out); }
.tiles { list-style: none; display: grid; grid-template-columns: repeat(auto-fill, 70px); justify-content: space-between;
  gap: .45rem; margin: 0; padding: .9rem .9rem .2rem; }
.tiles li { width: 70px; text-align: center; font-size: .85rem; line-height: 1.35; overflow-wrap: anywhere; }
.tiles img { display: block; width: 70px; height: 70px; background: #fff; border: 3px solid var(--in); border-radius: .35rem;
  object-fit: none; }
.tiles .out img { border: 3px dashed var(--out); }
.tiles .out { color: var(--out); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; font-size: .9rem; }
dt { color: var(--muted); }
dd { margin: 0; overflow-wrap: anywhere; }
pre { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .75rem .9rem; }
footer { padding-bottom: 3rem; }
@media (max-width: 40rem) { th, td { padding: .4rem .5rem; } header, main, footer { padding-left: .9rem; padding-right: .9rem; } }
"""
