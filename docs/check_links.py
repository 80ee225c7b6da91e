"""Checks a built site: every link inside it leads to a page that is there, and to an anchor that is in it."""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The links and anchors of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value and name in ("href", "src"):
                self.links.add(value)
            elif value and (name == "id" or (tag == "a" and name == "name")):
                self.anchors.add(value)


def broken_links(site: Path) -> list[str]:
    """Sentences on the links that lead nowhere."""
    # 404.html is served at any address, so that its links begin at the root of the site.
    pages = {
        path.resolve(): Page(path)
        for path in site.rglob("*.html")
        if path.name != "404.html"
    }
    broken = []
    for path, page in pages.items():
        for link in sorted(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (
                (path.parent / unquote(parts.path)).resolve() if parts.path else path
            )
            target = target / "index.html" if target.is_dir() else target
            anchor = unquote(parts.fragment)
            if not target.exists():
                broken.append(
                    f"{path.relative_to(site.resolve())}: {link} leads to no file"
                )
            elif anchor and target in pages and anchor not in pages[target].anchors:
                broken.append(
                    f"{path.relative_to(site.resolve())}: {link} leads to no anchor"
                )
    return broken


if __name__ == "__main__":
    found = broken_links(Path(sys.argv[1]))
    print(*found, f"{len(found)} broken links", sep="\n")
    sys.exit(bool(found))
