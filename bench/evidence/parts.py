"""The parts of `bench --all`: what there is to run, and what was stored of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from .. import command
from ..facts import command as facts_command
from ..facts.cases import FACTS
from ..facts.rows import CompiledRow, ExecutedRow
from ..results import Row, Stamp
from ..scale.command import ScaleReport, run_scale
from . import machine

BENCHMARK, FACTS_OF, SCALE = "benchmark ", "facts of ", "scale"
SAMPLES = 100_000
"""Of the largest set of `scale`."""


@dataclass(frozen=True)
class Part:
    """One thing to run.

    Attributes:
        key: that it is stored by.
        names: any of which asks for it; none where it always runs.
        options: that its results depend on, in plain values.
        run: gives a report, which has `to_dict`.
    """

    key: str
    names: tuple[str, ...]
    options: Mapping[str, Any]
    run: Callable[[], Any]


def all_parts(options: command.Options, samples: int | None, say: Callable[[str], None]) -> list[Part]:
    """In the order of the page."""
    timed = {"threads": options.threads, "rounds": options.rounds, "quick": options.quick}
    largest = samples or SAMPLES
    scale = {"threads": options.threads, "quick": options.quick, "samples": largest}
    benchmarks = [
        Part(BENCHMARK + b.name, (b.name, b.file), timed, partial(command.run_benchmarks, [b.name], options, say))
        for b in command.chosen_benchmarks([], "cpu")
    ]
    facts = [
        Part(
            FACTS_OF + name,
            (name,),
            {"quick": options.quick},
            partial(facts_command.run_facts, [name], seed=options.seed, quick=options.quick, say=say),
        )
        for name in sorted(FACTS)
    ]
    return [
        Part(machine.NAME, (), timed, partial(machine.measured, options)),
        *benchmarks,
        *facts,
        Part(
            SCALE,
            (SCALE,),
            scale,
            partial(run_scale, most=largest, threads=options.threads, quick=options.quick, say=say),
        ),
    ]


def chosen(found: Sequence[Part], names: Sequence[str]) -> list[Part]:
    """Those of these names, or all where none is given.

    Raises:
        ValueError: there is none of such a name.
    """
    if unknown := [name for name in names if not any(name in part.names for part in found)]:
        known = ", ".join(sorted({name for part in found for name in part.names}))
        raise ValueError(f"nothing of `bench --all` is {', '.join(map(repr, unknown))}: expected some of {known}")
    return [part for part in found if not names or not part.names or set(names) & set(part.names)]


@dataclass(frozen=True)
class Stored:
    """The reports of a `results.json`, in its order.

    Attributes:
        machine: rates of the processor; None where they were not measured.
        benchmarks: one a benchmark.
        facts: one a name.
        scale: None where it did not run.
        failures: the reason, by what did not run.
    """

    machine: command.Report | None
    benchmarks: Sequence[command.Report]
    facts: Sequence[facts_command.Report]
    scale: ScaleReport | None
    failures: Mapping[str, str]


def stored(content: Mapping[str, Mapping[str, Any]]) -> Stored:
    """From the plain values of a `results.json`: by the key of each part its report, or its failure."""
    done = {key: part["report"] for key, part in content.items() if "report" in part}
    return Stored(
        machine=_timed(done[machine.NAME]) if machine.NAME in done else None,
        benchmarks=[_timed(report) for key, report in done.items() if key.startswith(BENCHMARK)],
        facts=[_facts(report) for key, report in done.items() if key.startswith(FACTS_OF)],
        scale=ScaleReport(Stamp(**done[SCALE]["stamp"]), done[SCALE]["rows"]) if SCALE in done else None,
        failures={key: part["failure"] for key, part in content.items() if "failure" in part},
    )


def _timed(report: Mapping[str, Any]) -> command.Report:
    return command.Report(Stamp(**report["stamp"]), [Row(**row) for row in report["rows"]], report["descriptions"])


def _facts(report: Mapping[str, Any]) -> facts_command.Report:
    compiled = [CompiledRow(**row) for row in report["compiled"]]
    return facts_command.Report(
        Stamp(**report["stamp"]), [*compiled, *(ExecutedRow(**row) for row in report["executed"])]
    )
