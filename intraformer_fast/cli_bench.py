"""`intraformer-fast bench`: its options, and which of its kinds of runs takes which."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from intraformer_fast.cli_options import JsonOption, show

TIMED = ("--device", "--threads", "--rounds", "--seed")
TAKES = {
    "bench": TIMED,
    "bench --compare": ("--compare", *TIMED),
    "bench --facts": ("--facts", "--seed"),
    "bench --all": ("--all", "--redraw", "--threads", "--rounds", "--seed", "--samples"),
    "bench scale": ("--threads", "--samples", "--mean-size"),
    "bench systems": ("--threads", "--data", "--root", "--seeds", "--size", "--classes", "--ablation"),
}
"""The options of each kind of run, beside --quick, --output and --json, which all of them have."""


def bench(
    benchmarks: Annotated[
        list[str] | None, typer.Argument(help="What to time; everything by default.", metavar="BENCHMARK")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="Of torch, on the CPU; its own choice by default.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Of each case; 25, 15 with --all, 5 with --quick.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the inputs; another in every run by default.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder of the pages, tables and pictures; --all keeps its results there as they come."),
    ] = None,
    everything: Annotated[
        bool,
        typer.Option(
            "--all", help="Time, gather facts and scale, all on one page; what is in the folder is not run again."
        ),
    ] = False,
    redraw: Annotated[
        bool, typer.Option("--redraw", help="With --all: run nothing, draw the page of what is in the folder.")
    ] = False,
    facts: Annotated[
        bool, typer.Option("--facts", help="Time nothing: compile the Triton kernels and execute them on the CPU.")
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="The first case of each, few rounds, no memory.")] = False,
    compare: Annotated[
        str | None,
        typer.Option(help="A commit of this clone: build it, run it too, and flag what is over 5 % slower here."),
    ] = None,
    list_only: Annotated[bool, typer.Option("--list", help="Say what there is, and run nothing.")] = False,
    samples: Annotated[
        int | None,
        typer.Option(help="Of `bench scale`: the largest set, of 10,000 to 2,000,000; 100,000 by default with --all."),
    ] = None,
    mean_size: Annotated[
        float | None,
        typer.Option(min=1, help="Of `bench scale`: samples of an identity; 69 by default, as in the paper's data."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Of `bench systems`: glyphs (default), emoji, a folder, or learn-to-cluster.")
    ] = None,
    root: Annotated[Path | None, typer.Option(help="Of `bench systems --data learn-to-cluster`: its files.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Of `bench systems`: how many runs of each; 3.", min=1)] = None,
    size: Annotated[str | None, typer.Option(help="Of the systems: small (default), published or quick.")] = None,
    classes: Annotated[int | None, typer.Option(help="Of `bench systems`: take so many identities.", min=2)] = None,
    ablation: Annotated[
        bool, typer.Option("--ablation", help="Of `bench systems`: what each part of the Intraformer is worth.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check ops against float64, then time them beside eager and compiled PyTorch. Exit code 1 if one computes wrongly, or is slower.

    `bench --all` gathers the whole evidence of a machine on one page; names restrict it to those benchmarks, and `scale`.

    `bench scale` clusters synthetic sets of growing size instead: time, memory, and the exponent of the growth.

    `bench systems [NAME...]` trains and compares clustering systems; what is in the folder of --output is not run again.
    With --ablation it is one system with changes, a row each.
    """
    from intraformer_fast.bench.command import Options, listing, run_benchmarks, run_compared

    names = benchmarks or []
    if list_only:
        found = listing(names)
        show(found, as_json, "\n".join(f"{name:<26}{of['description']}" for name, of in found.items()))
        return
    kind = kind_of(names, everything=everything, facts=facts, compare=compare is not None)
    check_options(
        kind,
        {
            "--device": None if device == "cpu" else device,
            "--threads": threads,
            "--rounds": rounds,
            "--seed": seed,
            "--all": everything or None,
            "--redraw": redraw or None,
            "--facts": facts or None,
            "--compare": compare,
            "--samples": samples,
            "--mean-size": mean_size,
            "--data": data,
            "--root": root,
            "--seeds": seeds,
            "--size": size,
            "--classes": classes,
            "--ablation": ablation or None,
        },
    )

    def say(line: str) -> None:
        typer.echo(line, err=True)

    options = Options(device, threads, rounds, seed, quick)
    report: Any
    if kind == "bench --all":
        from intraformer_fast.bench.evidence.command import run_all

        report = run_all(names, options, samples=samples, output=output, redraw=redraw, say=say)
    elif kind == "bench --facts":
        from intraformer_fast.bench.facts.command import run_facts

        report = run_facts(names, seed=seed, quick=quick, say=say)
    elif kind == "bench scale":
        from intraformer_fast.bench.scale.command import run_scale

        report = run_scale(most=samples, threads=threads, quick=quick, mean_size=mean_size, say=say)
    elif kind == "bench systems":
        from intraformer_fast.bench.systems.command import run_systems

        report = run_systems(
            names[1:],
            data=data or "glyphs",
            root=root,
            classes=classes,
            size="quick" if quick else size or "small",
            seeds=seeds or 3,
            threads=threads,
            output=output,
            say=say,
            of_parts=ablation,
        )
    elif compare is not None:
        report = run_compared(compare, names, options, say)
    else:
        report = run_benchmarks(names, options, say)
    if output:
        report.write(output)
    show(report.to_dict(), as_json, report.text())
    raise typer.Exit(report.exit_code)


def kind_of(names: list[str], *, everything: bool, facts: bool, compare: bool) -> str:
    """Which of TAKES is asked for."""
    if everything:
        return "bench --all"
    if names[:1] == ["systems"]:
        return "bench systems"
    if names == ["scale"]:
        return "bench scale"
    return "bench --facts" if facts else "bench --compare" if compare else "bench"


def check_options(kind: str, given: Mapping[str, object]) -> None:
    """Refuse options, those that are not None, which this kind of run has no use for.

    Raises:
        ValueError: there are some.
    """
    if wrong := [name for name, value in given.items() if value is not None and name not in TAKES[kind]]:
        takers = " or ".join(f"`{other}`" for other, taken in TAKES.items() if wrong[0] in taken)
        raise ValueError(
            f"`{kind}` does not take {', '.join(wrong)}: expected some of {', '.join(TAKES[kind])}; {wrong[0]} belongs to {takers}"
        )
