"""Turns -> the figures that the page shows: for each the median over the turns, and the least and the most of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bench.workload import Workload

Turn = Mapping[str, Mapping[str, Any]]
"""What each side measured in one turn."""


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def rate(side: Mapping[str, Any], what: str) -> float:
    """Pairs, prompts, tokens or needed FLOPs a second."""
    return float(side[what] / sum(side["seconds"]))


def taken(side: Mapping[str, Any]) -> float:
    """MiB that training took on top of what was there before it."""
    return float(side["memory"]["peak"] - side["memory"]["before"])


def off_the_line(x: Sequence[float], y: Sequence[float]) -> float:
    """The largest distance of a point from the straight line through all, as a share of the line there."""
    line = np.polyval(np.polyfit(x, y, 1), x)
    return float(np.max(np.abs(np.asarray(y) - line) / line))


def seconds_a_step(side: Mapping[str, Any]) -> float:
    return float(statistics.median(side["seconds"]))


def summarise(workload: Workload, turns: Sequence[Turn], peak: float) -> dict[str, Any]:
    """All metrics that the workload's sides allow, by name; ``sides`` holds each side's own."""

    def over(value: Callable[[Turn], float]) -> dict[str, float]:
        return spread([value(turn) for turn in turns])

    if workload.measure == "again":
        return {"passes": over(lambda turn: turn["mmpo"]["passes"][1])}
    out: dict[str, Any] = {"sides": {name: _side(name, turns, peak) for name in workload.sides}}
    if workload.versus:
        first, second = workload.versus
        out["speed"] = over(lambda turn: rate(turn[first], "pairs") / rate(turn[second], "pairs"))
        out["memory"] = over(lambda turn: taken(turn[first]) / taken(turn[second]))
        out["of peak"] = out["sides"][first]["of peak"]
        return out
    cost = {name: spread([1 / rate(turn[name], "tokens") for turn in turns])["median"] for name in workload.sides}
    out["flat"] = over(lambda turn: _widest([1 / rate(turn[name], "tokens") for name in workload.sides]))
    out["cost"] = cost
    sizes = [side.responses for side in workload.sides.values()]
    if len(set(sizes)) > 1:
        out["off the line"] = over(
            lambda turn: off_the_line(sizes, [seconds_a_step(turn[name]) for name in workload.sides])
        )
    return out


def _widest(values: Sequence[float]) -> float:
    return max(values) / min(values)


def _side(name: str, turns: Sequence[Turn], peak: float) -> dict[str, Any]:
    mine = [turn[name] for turn in turns]
    out = {
        "pairs/s": spread([rate(side, "pairs") for side in mine]),
        "step": spread([seconds_a_step(side) for side in mine]),
        "memory": spread([taken(side) for side in mine]),
        "before": spread([side["memory"]["before"] for side in mine]),
        "positions/pair": mine[0]["positions"] / mine[0]["pairs"],
    }
    if "prompts" in mine[0]:
        out["prompts/s"] = spread([rate(side, "prompts") for side in mine])
    if "flops" in mine[0]:
        out["of peak"] = spread([rate(side, "flops") / peak for side in mine])
        out["tokens/s"] = spread([rate(side, "tokens") for side in mine])
    return out
