"""What the docs show runs: Python blocks are executed, a page in one namespace; commands exist, with the options shown."""

import re
import shlex

import pytest
import typer.main
from cases.pages import PAGES, ROOMS, ROOT, blocks, name

from intraformer_fast.cli import app

SHELL = ("", "bash")
README = ROOT / "README.md"


@pytest.mark.usefixtures("one_thread")
@pytest.mark.filterwarnings("ignore::UserWarning")  # epochs of so little teach nothing, and training says so
@pytest.mark.parametrize("page", [p for p in PAGES if any(b.language == "python" for b in blocks(p))], ids=name)
def test_python_blocks_of_a_page_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    for block in blocks(page):
        if block.language == "python":
            # Lines of an error are those of the page.
            exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), namespace)


@pytest.mark.parametrize("page", [README, ROOT / "CONTRIBUTING.md", *ROOMS], ids=name)
def test_python_blocks_elsewhere_are_python(page):
    for block in blocks(page):
        if block.language == "python":
            compile(block.text, str(page), "exec")


def shell_lines():
    for page in (README, ROOT / "CONTRIBUTING.md", *ROOMS, *PAGES):
        for block in blocks(page):
            if block.language in SHELL:
                for number, line in enumerate(block.text.splitlines()):
                    yield pytest.param(line, id=f"{name(page)}:{block.line + number}")


@pytest.mark.parametrize("line", list(shell_lines()))
def test_a_command_exists_as_shown(line):
    words = shlex.split(line, comments=True)
    if "intraformer-fast" in words:
        check_command(words[words.index("intraformer-fast") + 1 :])
    elif words[:1] == ["make"]:
        check_targets(words[1:])
    elif words[:2] == ["pip", "install"]:
        check_extras(words[2:])


def check_command(words):
    command = typer.main.get_command(app)
    assert words[0] in command.commands, f"there is no command {words[0]}"
    parameters = command.commands[words[0]].params
    options = {option: p for p in parameters for option in (*p.opts, *p.secondary_opts)}
    positional, rest = 0, list(words[1:])
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            positional += 1
            continue
        assert word in options, f"{words[0]} has no option {word}"
        if not options[word].is_flag:
            assert rest, f"{word} needs a value"
            rest.pop(0)
    given = set(words[1:])
    for parameter in parameters:
        if parameter.required and parameter.param_type_name == "option":
            assert given & set(parameter.opts), f"{words[0]} needs {parameter.opts[0]}"
    assert positional >= sum(p.required for p in parameters if p.param_type_name == "argument")


def check_targets(words):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for word in words:
        assert word in targets or "=" in word, f"there is no target {word}"


def check_extras(words):
    section = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    extras = re.findall(r"^([\w-]+) = \[", section, re.MULTILINE)
    for word in words:
        if found := re.fullmatch(r"(?:\.|intraformer-fast)\[([\w,-]+)\]", word):
            assert set(found[1].split(",")) <= set(extras), f"{word} names an extra that there is not"


@pytest.mark.parametrize(
    "words",
    [
        ["fly"],
        ["cluster", "model.safetensors", "x.npy"],
        ["knn", "--output", "knn.npz"],
        ["knn", "x.npy", "--output", "k.npz", "--fast"],
    ],
)
def test_a_command_that_does_not_exist_is_found(words):
    with pytest.raises(AssertionError):
        check_command(words)
