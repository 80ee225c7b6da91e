"""What the docs say of the sources is there: messages, links, and the site as a whole."""

import ast
import re
import runpy
import subprocess
import sys

import pytest
from cases.pages import PAGES, ROOMS, ROOT, name

MESSAGE = re.compile(r"^> (`+) ?(.*?) ?\1$", re.MULTILINE)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
TROUBLE = ROOT / "docs" / "troubleshooting.md"


def texts_of(path):
    """All strings of a file, with … for what is filled in."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.fixture(scope="module")
def texts():
    files = [*(ROOT / "intraformer_fast").rglob("*.py"), ROOT / "setup.py"]
    return "\n".join(text for path in files for text in texts_of(path))


@pytest.mark.parametrize("message", [found[2] for found in MESSAGE.finditer(TROUBLE.read_text(encoding="utf-8"))])
def test_a_message_of_the_troubleshooting_page_is_one_of_the_sources(message, texts):
    assert message in texts


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOMS, *PAGES], ids=name)
def test_links_to_files_lead_somewhere(page):
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        target = link.partition("#")[0]
        if target and "://" not in target and target != "commands.md":  # the site makes that page
            assert (page.parent / target).exists(), f"{link} leads nowhere"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_site_has_no_broken_link_and_no_formula_left_over(site):
    broken_links = runpy.run_path(str(ROOT / "docs" / "check_links.py"))["broken_links"]
    assert broken_links(site) == []
    assert '<math xmlns="http://www.w3.org/1998/Math/MathML"' in (site / "model" / "index.html").read_text()
    for page in site.rglob("*.html"):
        text = page.read_text()
        assert not re.search(r"arithmatex|\\(frac|sum|mathrm)", text)
        assert "{{ contract" not in text


def test_a_broken_link_is_found(tmp_path):
    broken_links = runpy.run_path(str(ROOT / "docs" / "check_links.py"))["broken_links"]
    (tmp_path / "index.html").write_text(
        '<a href="other.html#there">a</a> <a href="other.html#gone">b</a> <img src="no.svg">'
    )
    (tmp_path / "other.html").write_text('<h2 id="there">c</h2>')
    assert [sentence.split()[1] for sentence in broken_links(tmp_path)] == ["no.svg", "other.html#gone"]
