"""Preferences in context (arXiv 2407.14916): which of two responses is better depends on a context that comes along."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from zlib import crc32

import numpy as np

from mmpo.data.contexts import contextual_prompt, first_wins, stated_contexts, unfolded
from mmpo.data.rows import BadRow, Row
from mmpo.data.texts import key
from mmpo.evaluate.agreement import accuracy
from mmpo.evaluate.suites.rules import each_subset, share, stacked
from mmpo.evaluate.suites.suite import Floats, Item, Made, Numbers, Part, Suite, Sums, many_texts
from mmpo.types import About, Datum

NONSENSE = (
    "Prefer the response that would weigh less if it were a cloud.",
    "The reader's shoes are numbered in the order of the tides.",
    "A good answer is as purple as the third Tuesday is loud.",
    "Choose so that the lanterns agree with the arithmetic of spoons.",
)
"""Contexts that say nothing of any response; a prompt always gets the same one."""

OWN = "contexts"
"""The subset of rows that do not name one."""

REVERSALS = "contexts that disagree"
"""Beside the kinds of contexts: the items that hold a reversal."""

BEFORE = 2
"""Pairs of responses in front of those in a context: one without any, one with a nonsense context."""


@dataclass(frozen=True)
class InContexts(Item):
    """Two responses, once without a context, once with a nonsense one, and once in each stated context.

    Attributes:
        first: for each context whether the first response is the better one in it.
        kinds: for each context its kind, by which it is counted.
    """

    first: tuple[bool, ...] = ()
    kinds: tuple[str, ...] = ()

    def leads(self, margins: Floats) -> Floats:
        """[contexts], the lead of the better response in each context."""
        return self.pairs(margins)[BEFORE:] * self.signs

    @property
    def signs(self) -> Floats:
        return np.where(self.first, 1.0, -1.0)

    def pairs(self, margins: Floats) -> Floats:
        """[2 + contexts], the margin of the first response over the second: without, with nonsense, in each context."""
        return np.diagonal(margins, 1)[::2]


COLUMNS = ("right", "right without", "right with nonsense", "turned", "turned by nonsense", "all right")
"""What an item earns, each as a mean over its contexts: verdicts that are right; verdicts without a context and with a
nonsense one that would be right; verdicts in context, and with nonsense, that differ from that without; whether all are
right."""


def earned(item: Item, margins: Floats) -> list[float]:
    assert isinstance(item, InContexts)
    without, nonsense = item.pairs(margins)[:BEFORE]
    given, verdicts = accuracy(1.0, item.leads(margins)), item.pairs(margins)[BEFORE:]
    return [
        float(given.mean()),
        float(accuracy(1.0, without * item.signs).mean()),
        float(accuracy(1.0, nonsense * item.signs).mean()),
        float((np.sign(verdicts) != np.sign(without)).mean()),
        float(np.sign(nonsense) != np.sign(without)),
        float((given == 1).all()),
    ]


@dataclass(frozen=True)
class Rule:
    """Accuracy in context, where a tie of the model counts one half: whoever ignores the context has exactly 1/2 on
    contexts that disagree."""

    def tables(self, items: Sequence[Item], margins: Sequence[Floats]) -> dict[str, Floats]:
        parts = [part for item, m in zip(items, margins, strict=True) for part in _parts(item, m)]
        return stacked([item for item, _ in parts], [m for _, m in parts], earned)

    def numbers(self, sums: Sums) -> Numbers:
        kinds = tuple(sorted(sums.keys() - {REVERSALS}))
        total = np.sum([sums[kind] for kind in kinds], axis=0)
        given, without, nonsense, turned, by_nonsense, _ = (share(total, n) for n in range(1, len(COLUMNS) + 1))
        overall = {"accuracy with the context": Made(given, kinds)}
        if REVERSALS in sums:
            both = share(sums[REVERSALS], COLUMNS.index("all right") + 1)
            overall["all contexts right where they disagree"] = Made(both, (REVERSALS,))
        further = {
            "accuracy without a context": without,
            "gain over no context": given - without,
            "accuracy with a nonsense context": nonsense,
            "gain over a nonsense context": given - nonsense,
            "verdicts turned by the context": turned,
            "verdicts turned by a nonsense context": by_nonsense,
        }
        return {
            "overall": overall,
            "sections": {},
            "subsets": each_subset(sums),
            "further": {name: Made(value, kinds) for name, value in further.items()},
        }


def _parts(item: Item, margins: Floats) -> list[tuple[Item, Floats]]:
    """The item by the kinds of its contexts, and once more where contexts of one kind disagree."""
    assert isinstance(item, InContexts)
    out: list[tuple[Item, Floats]] = []
    for kind in dict.fromkeys(item.kinds):
        at = [n for n, other in enumerate(item.kinds) if other == kind]
        first = tuple(item.first[n] for n in at)
        places = [i for n in (*range(BEFORE), *(BEFORE + n for n in at)) for i in (2 * n, 2 * n + 1)]
        for name in (kind, *([REVERSALS] if len(set(first)) > 1 else [])):
            datum = replace(item.datum, subset=name)
            one = replace(item, datum=datum, first=first, kinds=(kind,) * len(at))
            out.append((one, margins[np.ix_(places, places)]))
    return out


def read(row: Row, part: str) -> Item:
    """prompt, response_a, response_b, criteria_x, criteria_y, scenario_x, scenario_y, as on the hub; or prompt, two
    responses and contexts, each with context and preferred (0 or 1) or p_first, and subset."""
    (kind, whole), *more = unfolded({name: row.value(name) for name in row.columns})
    if whole.get("contexts") is None:
        raise BadRow("no context", "there is no context; give contexts, or the columns of microsoft/rpr")
    told = Row(whole)
    prompt, responses = told.prompt(), many_texts(told, "responses")
    if len(responses) != 2:
        raise BadRow("not a pair", f"responses has {len(responses)} entries; a context says which of 2 is better")
    own, first, kinds = [], [], []
    for name, one in ((kind, whole), *more):
        for n, entry in enumerate(stated_contexts(one)):
            p = first_wins(entry, f"contexts[{n}]")
            if p == 0.5:
                raise BadRow("no preference", f"contexts[{n}] prefers neither response; leave that context out")
            own.append(entry["context"])
            first.append(p > 0.5)
            kinds.append(name or str(one.get("subset") or OWN))
    nonsense = NONSENSE[crc32(key(prompt).encode("utf-8", "replace")) % len(NONSENSE)]
    asked = [About(contextual_prompt(prompt, context)) for context in (nonsense, *own)]
    about = (About(), About(), *(one for about in asked for one in (about, about)))
    better = tuple(2 * (BEFORE + n) + (not wins) for n, wins in enumerate(first))
    datum = Datum("", prompt, responses * (BEFORE + len(own)), about=about)
    return InContexts(datum, better, tuple(first), tuple(kinds))


RPR = Suite(
    "rpr",
    "Preferences in context (RPR)",
    "arXiv 2407.14916",
    (Part("microsoft/rpr", "test"),),
    read,
    Rule(),
    "a tie counts one half",
)
