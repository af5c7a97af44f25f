"""Contexts: for whom, or by which rule, a response is better. Rows with contexts -> rows that any method can read.

Context-aware preference modelling, arXiv 2407.14916: p(i over j | x) is sum_z p(z | x) p(i over j | x, z), of a
context z that is inferred and a judgement that is given in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmpo.data.answers import Place, in_front
from mmpo.data.read import Numbered
from mmpo.data.rows import BadRow, Row, items, numbers, share, weight
from mmpo.data.source import Source
from mmpo.data.statements import vote
from mmpo.errors import UserError
from mmpo.types import Text

Raw = Mapping[str, Any]

TEMPLATE = "Context: {context}"
"""How a context is written where nobody says."""

RPR_KINDS = ("criteria", "scenario")
"""The contexts of a row of microsoft/rpr: a short rule, or the situation of the one who asks."""

_OWN_PROMPTS = ("prompts", "about", "prompt_chosen", "prompt_rejected")


def contextual_prompt(prompt: Text, context: str, template: str = TEMPLATE, place: Place = "system") -> Text:
    """The prompt as it is asked in a context; use it in training, and with the user's context after it.

    Plain text gets the context in a block of its own in front. Chat messages get it in the system message (in front of
    one that is there), or with ``place`` "user" in front of the first user turn.

    Raises:
        UserError: a template without ``{context}``, or another place.
    """
    if "{context}" not in template:
        raise UserError(f"template is {template!r} and has no place for the context; write {{context}} where it stands")
    return in_front(prompt, template.replace("{context}", context), place)


def reversal_pairs(prompt: Text, y_a: Text, y_b: Text, z_a: str, z_b: str) -> dict[str, Any]:
    """A row in which the first response is better in the context z_a, and the second in z_b (reasonable preference
    reversal): whoever ignores the context is right in exactly one of them."""
    stated = [{"context": z_a, "preferred": 0}, {"context": z_b, "preferred": 1}]
    return {"prompt": prompt, "responses": [y_a, y_b], "contexts": stated}


def unfolded(raw: Raw) -> list[tuple[str, dict[str, Any]]]:
    """Rows of microsoft/rpr as rows with ``contexts``, one for each kind of context; any other row as it stands.

    There ``response_a`` is the better one under ``criteria_x`` and ``scenario_x``, ``response_b`` under the other two.
    Beside each row stands the kind of its contexts, "" where the row has none of its own.
    """
    if not {"response_a", "response_b"} <= raw.keys() or not any(f"{kind}_x" in raw for kind in RPR_KINDS):
        return [("", dict(raw))]
    row = Row(raw)
    prompt, a, b = row.prompt(), row.response("response_a"), row.response("response_b")
    stated = [kind for kind in RPR_KINDS if raw.get(f"{kind}_x") is not None or raw.get(f"{kind}_y") is not None]
    texts = {kind: [_context(raw.get(name), name) for name in (f"{kind}_x", f"{kind}_y")] for kind in stated}
    if not texts:
        raise BadRow("no context", "criteria and scenario are null; give criteria_x and criteria_y")
    named = {name: raw[name] for name in ("id", "split") if name in raw}
    return [(kind, {**named, **reversal_pairs(prompt, a, b, *both), "subset": kind}) for kind, both in texts.items()]


def stated_contexts(raw: Raw) -> list[dict[str, Any]]:
    """``contexts`` of a row, each a mapping of ``context`` (text), and what was said in it. Raises BadRow."""
    entries = items(raw["contexts"], "contexts")
    if not entries:
        raise BadRow("no context", "contexts is empty; give at least one")
    for n, entry in enumerate(entries):
        if not isinstance(entry, Mapping):
            raise BadRow("wrong type", f"contexts[{n}] is no mapping; give {{context: text, preferred: 0 or 1}}")
        _context(entry.get("context"), f"contexts[{n}].context")
    return [dict(entry) for entry in entries]


def first_wins(entry: Raw, name: str) -> float:
    """The probability that the first response is the better one in a context, of ``p_first`` or ``preferred``."""
    if entry.get("p_first") is not None:
        return share(entry["p_first"], f"{name}.p_first")
    if entry.get("preferred") is None:
        raise BadRow("no feedback", f"{name} says nothing of its two responses; give preferred or p_first")
    return vote(entry["preferred"], f"{name}.preferred")


def _context(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise BadRow("no context", f"{name} is {'empty' if value == '' else value!r}; give a text")
    return value


# ---------------------------------------------------------------------------------------------- one preference of many


def marginal_preference(p_z: ArrayLike, q_z: ArrayLike) -> float:
    """p(i over j | x) = sum_z p(z) q_z: probabilities of the contexts [Z], and of the preference in each [Z]."""
    p, q = (np.asarray(one, dtype=float) for one in (p_z, q_z))
    return float(p @ q)


def borda(scores: ArrayLike, p: ArrayLike) -> NDArray[np.float64]:
    """Expected Borda points of K responses, scored [Z, K] in Z contexts of probabilities [Z]: over how many others each
    is put, a tie counting one half."""
    s = np.asarray(scores, dtype=float)
    over = (1 + np.sign(s[:, :, None] - s[:, None, :])) / 2  # [Z, K, K], one half on the diagonal
    return np.asarray(np.asarray(p, dtype=float) @ (over.sum(-1) - 0.5))


# ---------------------------------------------------------------------------------------------- rows


@dataclass
class Contexts:
    """Rows with contexts as rows whose prompt states the context: ``mmpo build contexts``.

    A row with ``context`` becomes one row, a row with ``contexts`` one for each of them, with what was said in it; rows
    of microsoft/rpr become rows with contexts first. With ``pooled`` a row with ``contexts`` becomes one row without
    any, whose feedback is the mixture over its contexts: the marginal preference of ``p_first`` or ``preferred``, Borda
    points of ``scores``; ``p`` of a context is its share, equal ones where it is absent.

    Attributes:
        counts: "rows in", "rows with contexts", "contexts stated", "rows without a context" (kept as they are), "shares
            p of contexts not read" (without ``pooled``).

    Raises UserError for a wrong template or place, and for one beside ``pooled``, which writes no context.
    """

    template: str = TEMPLATE
    place: Place = "system"
    pooled: bool = False
    counts: Counter[str] = field(default_factory=Counter, init=False)

    def __post_init__(self) -> None:
        contextual_prompt("", "", self.template, self.place)  # a wrong option before any row
        for name, given, default in (("template", self.template, TEMPLATE), ("place", self.place, "system")):
            if self.pooled and given != default:
                raise UserError(f"{name} says how a context is written, and pooled writes none; leave {name} out")

    def source(self, source: Source) -> Source:
        """How the rows are read: as any others."""
        return source

    def __call__(self, rows: Numbered) -> Numbered:
        for n, raw in rows:
            self.counts["rows in"] += 1
            try:
                made = [raw] if isinstance(raw, BadRow) else list(self._made(raw, str(raw.get("id", n))))
            except BadRow as bad:
                made = [bad]
            yield from ((n, one) for one in made)

    def _made(self, raw: Raw, name: str) -> Iterator[dict[str, Any]]:
        for kind, row in unfolded(raw):
            where = f"{name}/{kind}" if kind else name
            if row.get("contexts") is not None:
                yield from self._each(row, where)
            elif row.get("context") is not None:
                self.counts.update({"rows with contexts": 1, "contexts stated": 1})
                yield self._asked({k: v for k, v in row.items() if k != "context"}, row["context"], where)
            else:
                self.counts["rows without a context"] += 1
                yield row

    def _each(self, row: Raw, name: str) -> Iterator[dict[str, Any]]:
        if row.get("context") is not None:
            raise BadRow("stated twice", "context and contexts are both given; leave one out")
        stated = stated_contexts(row)
        self.counts.update({"rows with contexts": 1, "contexts stated": len(stated)})
        rest = {k: v for k, v in row.items() if k != "contexts"}
        if self.pooled:
            yield {**rest, **_mixed(stated)}
            return
        if shares := sum(entry.get("p") is not None for entry in stated):
            self.counts["shares p of contexts not read"] += shares
        for n, entry in enumerate(stated, 1):
            said = {k: v for k, v in entry.items() if k not in ("context", "p")}
            if twice := sorted(rest.keys() & said.keys()):
                raise BadRow("stated twice", f"contexts[{n - 1}] and the row both have {twice[0]}; leave one out")
            yield self._asked({**rest, **said}, entry["context"], f"{name}/context {n}")

    def _asked(self, row: dict[str, Any], context: Any, name: str) -> dict[str, Any]:
        if self.pooled:
            raise BadRow("one context", "the row has one context and nothing to pool it with; give contexts")
        if own := next((column for column in _OWN_PROMPTS if row.get(column) is not None), None):
            raise BadRow("own prompts", f"{own} gives responses prompts of their own; write the context into those")
        prompt = contextual_prompt(Row(row).prompt(), _context(context, "context"), self.template, self.place)
        return {**row, "id": name, "prompt": prompt}


def _mixed(stated: Sequence[Raw]) -> dict[str, Any]:
    """The feedback of one row without a context, from that in each."""
    given = [entry.get("p") for entry in stated]
    if any(one is None for one in given) and any(one is not None for one in given):
        raise BadRow("column missing", "some contexts have p and others have none; give it to all or to none")
    p = np.array([weight(1.0 if one is None else one, f"contexts[{n}].p") for n, one in enumerate(given)])
    if not p.sum():
        raise BadRow("empty weights", "p of every context is 0; give at least one above 0")
    p = p / p.sum()
    if all(entry.get("scores") is not None for entry in stated):
        k = len(items(stated[0]["scores"], "contexts[0].scores"))
        table = [numbers(entry["scores"], f"contexts[{n}].scores", k) for n, entry in enumerate(stated)]
        return {"scores": borda(table, p).tolist()}
    q = [first_wins(entry, f"contexts[{n}]") for n, entry in enumerate(stated)]
    # A sum of shares may pass 1 by a rounding error.
    return {"p_first": min(marginal_preference(p, q), 1.0)}
