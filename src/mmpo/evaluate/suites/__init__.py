"""Benchmarks of reward models, scored by their published rules on margins, so that any scorer can take them.

A scorer is a model that ``mmpo.evaluate.scoring.Scorer`` reads, or any function that gives each datum [K] rewards or
[K, K] margins.
"""

from __future__ import annotations

from typing import Any

from mmpo.errors import UserError, nearest
from mmpo.evaluate.suites.judgebench import JUDGEBENCH, JUDGEBENCH_CLAUDE
from mmpo.evaluate.suites.page import write_suites
from mmpo.evaluate.suites.ragrewardbench import RAG_REWARDBENCH
from mmpo.evaluate.suites.rewardbench import REWARDBENCH, REWARDBENCH_PRIOR
from mmpo.evaluate.suites.rewardbench2 import REWARDBENCH_2
from mmpo.evaluate.suites.rmbench import RM_BENCH
from mmpo.evaluate.suites.rpr import RPR
from mmpo.evaluate.suites.run import Says, lines_of, run_suite
from mmpo.evaluate.suites.suite import Item, Made, Outcome, Part, Rule, Suite, Value

__all__ = [
    "SUITES",
    "Item",
    "Made",
    "Outcome",
    "Part",
    "Rule",
    "Says",
    "Suite",
    "Value",
    "evaluate_suite",
    "lines_of",
    "write_suites",
]

SUITES: dict[str, Suite] = {
    suite.name: suite
    for suite in (
        REWARDBENCH,
        REWARDBENCH_PRIOR,
        REWARDBENCH_2,
        RM_BENCH,
        JUDGEBENCH,
        JUDGEBENCH_CLAUDE,
        RAG_REWARDBENCH,
        RPR,
    )
}
"""The suites by name."""


def evaluate_suite(suite: str | Suite, scorer: Says, path: str | None = None, **how: Any) -> Outcome:
    """What a scorer reaches on a suite, by name or as a record of your own; ``how`` as in ``run_suite``.

    >>> outcome = evaluate_suite("rewardbench", scorer)                        # doctest: +SKIP
    >>> outcome.sections["Chat Hard"].value                                    # doctest: +SKIP

    Raises UserError for an unknown name, with the nearest one.
    """
    if isinstance(suite, str):
        if suite not in SUITES:
            raise UserError(f"unknown suite {suite!r}. {nearest(suite, SUITES)}")
        suite = SUITES[suite]
    return run_suite(suite, scorer, path, **how)
