"""What is benchmarked, by name. A file in `bench/cases/` registers its own; nothing else needs to know of it."""

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor

from intraformer_fast.cost import Work as Work

Inputs: TypeAlias = Mapping[str, Tensor]
Step: TypeAlias = Callable[[], Mapping[str, Tensor]]
"""One run of what is timed. It returns what parity looks at: outputs and gradients, by name."""
Make: TypeAlias = Callable[[Inputs], Step]
"""Everything that is done once, before the clock runs: compiling, packing, allocating."""

OURS, EAGER = "ours", "eager"
DEVICES = ("cpu", "cuda")


class Limit(NamedTuple):
    """What does nothing but move bytes, or multiply: its rate is what a case can reach at best."""

    make: Callable[[Inputs], Callable[[], object]]
    work: Work


@dataclass(frozen=True)
class Case:
    """One op on one kind of input, and what it is compared with.

    Attributes:
        label: shapes, dtypes and options; unique among the cases of a benchmark.
        inputs: makes the inputs on the CPU from a generator; the same tensors go to every candidate.
        candidates: by name. OURS is the one measured; EAGER is the plain PyTorch reference, which must also run with the
            floating-point inputs in float64: that run is what all are checked against. The others are further baselines.
        work: the least any candidate has to do.
        limits: by name, at least one.
        coarse: of candidates in a precision below that of EAGER, the |found - exact| / |exact| that is theirs, in place of parity.
    """

    label: str
    inputs: Callable[[torch.Generator], Inputs]
    candidates: Mapping[str, Make]
    work: Work
    limits: Mapping[str, Limit]
    coarse: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if missing := {OURS, EAGER} - self.candidates.keys():
            raise ValueError(f"case {self.label!r} lacks {', '.join(sorted(missing))}: expected {OURS} and {EAGER}")
        if not self.limits:
            raise ValueError(f"case {self.label!r} has no limit: expected one at least, such as moving the same bytes")
        if unknown := self.coarse.keys() - self.candidates.keys():
            raise ValueError(f"case {self.label!r} has no candidate {', '.join(sorted(unknown))}: `coarse` names some")
        if twice := self.candidates.keys() & self.limits.keys():
            raise ValueError(f"case {self.label!r} has {', '.join(sorted(twice))} twice: expected different names")


@dataclass(frozen=True)
class Benchmark:
    """The cases of one name.

    Attributes:
        name: on the command line, and in the results.
        description: one sentence.
        devices: where it runs.
        make_cases: yields the cases, the most telling first.
    """

    name: str
    description: str
    devices: Sequence[str]
    make_cases: Callable[[], Iterable[Case]]

    @property
    def file(self) -> str:
        """The name of the file in `cases/` that registers it."""
        return self.make_cases.__module__.rpartition(".")[2]

    @cached_property
    def cases(self) -> tuple[Case, ...]:
        """At least one, and no label twice."""
        cases = tuple(self.make_cases())
        labels = [case.label for case in cases]
        if not labels or len(set(labels)) < len(labels):
            raise ValueError(f"benchmark {self.name!r} has the cases {labels}: expected at least one, no label twice")
        return cases


BENCHMARKS: dict[str, Benchmark] = {}

MakeCases = TypeVar("MakeCases", bound=Callable[[], Iterable[Case]])


def register(name: str, description: str, devices: Sequence[str] = DEVICES) -> Callable[[MakeCases], MakeCases]:
    """Decorate a function that yields the cases of the benchmark `name`."""

    def decorate(make_cases: MakeCases) -> MakeCases:
        if name in BENCHMARKS:
            taken = BENCHMARKS[name].make_cases.__module__
            raise ValueError(f"benchmark {name!r} is there already, from {taken}: expected another name")
        BENCHMARKS[name] = Benchmark(name, description, devices, make_cases)
        return make_cases

    return decorate


def load() -> None:
    """Import every file in `bench/cases/`."""
    from . import cases

    for found in pkgutil.iter_modules(cases.__path__, f"{cases.__name__}."):
        importlib.import_module(found.name)


def select(names: Sequence[str]) -> list[Benchmark]:
    """The benchmarks of these names, or all of them where none is given. The name of a file in `cases/` stands for all that are in it.

    Raises:
        ValueError: there is no benchmark of such a name.
    """
    found = {name: [b for b in BENCHMARKS.values() if name in (b.name, b.file)] for name in names or sorted(BENCHMARKS)}
    if unknown := [name for name, benchmarks in found.items() if not benchmarks]:
        expected = ", ".join(sorted(BENCHMARKS.keys() | {b.file for b in BENCHMARKS.values()}))
        raise ValueError(f"no benchmark {', '.join(map(repr, unknown))}: expected some of {expected}")
    return list({b.name: b for benchmarks in found.values() for b in benchmarks}.values())
