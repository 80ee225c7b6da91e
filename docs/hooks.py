"""What the site is made of beside its Markdown: the reference of the command, the contracts in csrc/, the list of benchmarked machines,
and formulas as MathML."""

import html
import json
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = "commands.md"
MACHINES = "{{ benchmarks }}"
CONTRACT = re.compile(r"^\{\{ contract (\S+) \}\}$", re.MULTILINE)
FORMULA = re.compile(
    r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page of the command."""
    files.append(File.generated(config, COMMANDS, content=commands_page()))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the contract of a header of csrc/, and the list of machines, where a page names them."""
    return CONTRACT.sub(
        lambda found: contract(found[1]), markdown.replace(MACHINES, machines())
    )


def on_page_content(content: str, **_: Any) -> str:
    """Formulas as MathML, which browsers draw without a script."""
    return FORMULA.sub(
        lambda found: convert(
            html.unescape(found[3]), display="inline" if found[2] == "(" else "block"
        ),
        content,
    )


def contract(path: str) -> str:
    """The comment that a header begins with, as Markdown: what is indented is code, all else is text."""
    lines = (ROOT / path).read_text().partition("#pragma once")[0].splitlines()
    parts: list[str] = []
    was_code = False
    for line in (line.removeprefix("//").removeprefix(" ") for line in lines):
        is_code = line.startswith("  ")
        if line and is_code != was_code:
            parts.append("")
            was_code = is_code
        parts.append(f"  {line}" if is_code else re.sub(r"[*<\[]", r"\\\g<0>", line))
    return "\n".join(parts)


def machines() -> str:
    """A line for each folder of docs/benchmarks/ with results: the machine, the commit and the day."""
    lines = ["| machine | run | |", "| --- | --- | --- |"]
    for file in sorted((ROOT / "docs" / "benchmarks").glob("*/results.json")):
        reports = [
            part["report"]
            for part in json.loads(file.read_text()).values()
            if "report" in part
        ]
        stamp, folder = reports[0]["stamp"], file.parent.name
        machine = (
            f"[{stamp['machine']}, {stamp['threads']} threads]({folder}/benchmarks.md)"
        )
        run = f"{stamp['date'][:10]}, commit {stamp['commit'][:12]}, PyTorch {stamp['torch']}"
        lines.append(f"| {machine} | {run} | [one file]({folder}/benchmarks.html) |")
    return "\n".join(lines) if len(lines) > 2 else "No run is kept here yet."


def commands_page() -> str:
    """The reference of `intraformer-fast`, from the command itself."""
    import typer.main

    from intraformer_fast.cli import app

    command: Any = typer.main.get_command(app)
    parts = [
        "# Command line",
        "Made from the command itself; `intraformer-fast COMMAND --help` says the same.",
        "Exit codes: 0 done; 1 a bug of ours, or with `bench` an op that computes wrongly; 2 wrong usage; 3 input or environment at "
        "fault, told in one sentence on standard error; 130 interrupted.",
    ]
    for name, sub in command.commands.items():
        arguments = [p for p in sub.params if p.param_type_name == "argument"]
        options = [p for p in sub.params if p.param_type_name == "option"]
        shown = " ".join(
            p.metavar if p.required else f"[{p.metavar}]" for p in arguments
        )
        parts += [
            f"## {name}",
            sub.help,
            f"```\nintraformer-fast {name} {shown}{' ' if shown else ''}[OPTIONS]\n```",
        ]
        if arguments:
            rows = [f"| `{p.metavar}` | {cell(p.help)} |" for p in arguments]
            parts.append("\n".join(["| argument | |", "| --- | --- |", *rows]))
        if options:
            rows = [f"| {names(p)} | {cell(p.help)} | {default(p)} |" for p in options]
            parts.append(
                "\n".join(["| option | | default |", "| --- | --- | --- |", *rows])
            )
        if sub.epilog:
            parts.append(f"```\n{sub.epilog.removeprefix('Example: ')}\n```")
    return "\n\n".join(parts) + "\n"


def cell(text: str) -> str:
    """Text inside a table."""
    return text.replace("|", "\\|")


def names(option: Any) -> str:
    """An option as it is typed."""
    return " / ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))


def default(option: Any) -> str:
    """What an option is without being given."""
    if option.required:
        return "required"
    if option.default is None or (option.is_flag and not option.secondary_opts):
        return ""
    return f"`{str(option.default).lower() if option.is_flag else option.default}`"
