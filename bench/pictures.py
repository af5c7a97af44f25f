"""The pictures of the page, in the style of the reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from mmpo.report.figures import GREY, MARKERS, PALETTE, Series, curves

TICKS = (0.5, 1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100)


@dataclass(frozen=True)
class Ratio:
    """One measured ratio: its row, its colour, median, least and most, and the target where there is one."""

    row: str
    series: str
    median: float
    low: float
    high: float
    target: float | None = None


def save(figure: Figure, path: Path) -> None:
    # A fixed salt gives the same file for the same results.
    with mpl.rc_context({"svg.hashsalt": "mmpo"}):
        figure.savefig(path, metadata={"Date": None})


def curve(x: Sequence[int], y: Sequence[Mapping[str, float]], xlabel: str, ylabel: str) -> Figure:
    """A line through the medians, with a band from least to most."""
    median, low, high = ([point[key] for point in y] for key in ("median", "low", "high"))
    figure = curves({"mmpo": Series(x, median, low, high)}, xlabel=xlabel, ylabel=ylabel)
    (axes,) = figure.axes
    axes.set_xticks(x)
    axes.set_ylim(bottom=0)
    return figure


def ratios(points: Sequence[Ratio], xlabel: str) -> Figure:
    """A row of dots for each ``row``, a colour for each ``series``, from least to most, and the targets as bars."""
    rows = list(dict.fromkeys(point.row for point in points))
    series = list(dict.fromkeys(point.series for point in points))
    figure = Figure(figsize=(7.2, 1.2 + 0.5 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for n, name in enumerate(series):
        mine = [point for point in points if point.series == name]
        y = [rows.index(point.row) + 0.24 * (n - (len(series) - 1) / 2) for point in mine]
        error = [[p.median - p.low for p in mine], [p.high - p.median for p in mine]]
        x = [p.median for p in mine]
        axes.errorbar(x, y, xerr=error, ls="", color=PALETTE[n], marker=MARKERS[n], ms=5, capsize=2, label=name)
        aims = [(p.target, at) for p, at in zip(mine, y, strict=True) if p.target is not None]
        axes.vlines([aim for aim, _ in aims], [at - 0.1 for _, at in aims], [at + 0.1 for _, at in aims], GREY, lw=2)
    axes.plot([], [], color=GREY, lw=2, label="target")
    axes.set(xscale="log", xlabel=xlabel, yticks=range(len(rows)), yticklabels=rows)
    axes.axvline(1, color=GREY, lw=1)
    low, high = axes.get_xlim()
    ticks = [tick for tick in TICKS if low <= tick <= high]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.invert_yaxis()
    axes.grid(axis="x", color="#e9ecef", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure
