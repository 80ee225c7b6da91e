"""The launches whose facts are looked at, by name. A file in `bench/cases/` registers its own, beside its benchmark."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from ..registry import Work
from .compiled import Launch


@dataclass(frozen=True)
class Small:
    """Launches as for capability 80, to be executed on the CPU: a few programs, of the tiles that the real size has.

    Attributes:
        launches: one after the other, of tensors on the CPU.
        work: the least that any kernels have to do for it.
        found: the tensors that they write, by name.
        eager: what they should be, from the reference in the same dtype.
        exact: the same in float64.
    """

    launches: Sequence[Launch]
    work: Work
    found: Mapping[str, Tensor]
    eager: Mapping[str, Tensor]
    exact: Mapping[str, Tensor]


@dataclass(frozen=True)
class FactsCase:
    """One op at one size.

    Attributes:
        label: unique among the cases of a name.
        launches: for a capability (80, 90 or 100), at the size it is meant for, of tensors on `meta`; they are compiled, not run.
        work: the least that any kernels have to do for it.
        small: makes what is executed, with inputs from the generator.
        precision: whose peak rate the roofline has: "bf16" (fp16 as well), "tf32" or "fp32".
        trips: of each loop of such a launch, an outer loop before the inner; see `sass.Code.executions`.
    """

    label: str
    launches: Callable[[int], Sequence[Launch]]
    work: Work
    small: Callable[[torch.Generator], Small]
    precision: str = "bf16"
    trips: Callable[[Launch], Sequence[int]] = field(default=lambda launch: ())


@dataclass(frozen=True)
class Facts:
    """The cases of one name."""

    name: str
    make_cases: Callable[[], Iterable[FactsCase]]

    @cached_property
    def cases(self) -> tuple[FactsCase, ...]:
        """At least one, and no label twice."""
        cases = tuple(self.make_cases())
        labels = [case.label for case in cases]
        if not labels or len(set(labels)) < len(labels):
            raise ValueError(
                f"the facts of {self.name!r} have the cases {labels}: expected at least one, no label twice"
            )
        return cases


FACTS: dict[str, Facts] = {}

MakeCases = TypeVar("MakeCases", bound=Callable[[], Iterable[FactsCase]])


def register_facts(name: str) -> Callable[[MakeCases], MakeCases]:
    """Decorate a function that yields the cases whose facts `intraformer-fast bench NAME --facts` looks at."""

    def decorate(make_cases: MakeCases) -> MakeCases:
        if name in FACTS:
            taken = FACTS[name].make_cases.__module__
            raise ValueError(f"facts of {name!r} are there already, from {taken}: expected another name")
        FACTS[name] = Facts(name, make_cases)
        return make_cases

    return decorate


def select_facts(names: Sequence[str]) -> list[Facts]:
    """Those of these names, or all of them where none is given.

    Raises:
        ValueError: there are none of such a name.
    """
    if unknown := [name for name in names if name not in FACTS]:
        known = ", ".join(sorted(FACTS))
        raise ValueError(
            f"no facts of {', '.join(map(repr, unknown))}: expected {f'some of {known}' if known else 'none'}"
        )
    return [FACTS[name] for name in dict.fromkeys(names or sorted(FACTS))]
