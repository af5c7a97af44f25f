"""A sign of a run's health with its verdict, and the traces that verdicts are read from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Literal, TypeAlias

Verdict: TypeAlias = Literal["fine", "watch", "stop"]
FILE = "health.json"
"""What a run leaves of its health in its folder."""

ORDER: tuple[Verdict, ...] = ("fine", "watch", "stop")

WINDOWS = 3
"""A logging window holds other prompts than the next, so training is read as the median of so many."""


MEDIAN = 0.67
"""What the median of three windows keeps of the error of one, where they are normal."""

Z = 1.96
"""Standard errors to each end of a 95% interval."""


@dataclass(frozen=True)
class Vital:
    """One sign of a run's health.

    Attributes:
        name: what it is, in a few words.
        reads: what was measured, on what, in which unit.
        value: the number, and ``low`` and ``high`` the ends of its 95% interval over prompts where it has one; infinite
            where there are too few.
        verdict: "fine", "watch" (look at it before you trust the model) or "stop" (training on makes it worse, or the
            run is not what was asked for).
        says: what was found, in words with numbers.
        remedy: what to do; empty where nothing is wrong.
    """

    name: str
    reads: str
    value: float
    verdict: Verdict
    says: str
    remedy: str = ""
    low: float | None = None
    high: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON knows neither infinity nor NaN."""
        return {name: None if isinstance(x, float) and not math.isfinite(x) else x for name, x in asdict(self).items()}

    def __str__(self) -> str:
        return f"{self.verdict:5s} {self.name}: {self.says}" + (f" -> {self.remedy}" if self.remedy else "")


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The gravest of some verdicts, "fine" of none."""
    return max(verdicts, key=ORDER.index, default="fine")


def beyond(value: float, watch: float, stop: float, low: float) -> Verdict:
    """The verdict on a number that is better small, with the lower end of its interval: it stops only if all of the
    interval is beyond, and is watched only if the interval leaves out 0."""
    return "stop" if low > stop else "watch" if value > watch and low > 0 else "fine"


Trace: TypeAlias = "list[tuple[int, float]]"
"""(step, number), in the order of the steps; a later number of a step takes the place of an earlier one."""


@dataclass
class Traces:
    """What the Trainer logged of a run, by name: ``loss``, ``eval_loss``, ``health/...`` and all others."""

    by_name: dict[str, Trace] = field(default_factory=dict)

    @classmethod
    def of(cls, history: Iterable[Mapping[str, Any]]) -> Traces:
        """From the ``log_history`` of a Trainer."""
        traces = cls()
        for row in history:
            traces.add(row)
        return traces

    def add(self, row: Mapping[str, Any]) -> None:
        step = int(row["step"])
        for name, value in row.items():
            if name in ("step", "epoch") or not isinstance(value, int | float):
                continue
            trace = self.by_name.setdefault(name, [])
            if trace and trace[-1][0] == step:
                trace.pop()
            trace.append((step, float(value)))

    def until(self, step: int) -> Traces:
        """What was logged up to a step."""
        return Traces({name: [point for point in trace if point[0] <= step] for name, trace in self.by_name.items()})

    def __getitem__(self, name: str) -> Trace:
        """The trace, empty where nothing of that name was logged."""
        return self.by_name.get(name, [])

    def held_out(self, name: str) -> float | None:
        """The last evaluation's number, else that of ``training``."""
        trace = self[f"eval_{name}"]
        return trace[-1][1] if trace else self.training(name)

    def training(self, name: str) -> float | None:
        """The median of the last windows of training; None while there are too few."""
        last = self[name][-WINDOWS:]
        return median(value for _, value in last) if len(last) == WINDOWS else None

    def source(self, name: str) -> str:
        """The trace that ``held_out`` reads: that of evaluation where there is one."""
        return f"eval_{name}" if self[f"eval_{name}"] else name

    def reach(self, name: str) -> float:
        """How far the 95% interval of what a trace says reaches to each side; infinite where nobody knows."""
        errors, values = self[f"{name}/se"], self[name]
        if not errors or errors[-1][0] != values[-1][0]:
            return math.inf
        if name.startswith("eval_"):
            return Z * errors[-1][1]
        return Z * MEDIAN * median(error for _, error in errors[-WINDOWS:])
