"""The data report: what is there, what is wrong, and what to do next, before any model is touched."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mmpo.data import texts
from mmpo.data.compared import Compared, Floats, Opinions, quantiles
from mmpo.data.gamma import GammaFit, fit_gamma, given_gamma, sigmoid
from mmpo.data.ledger import LISTED
from mmpo.data.load import Sources, load
from mmpo.data.merge import merge
from mmpo.data.pairs import answers, beside, graded, names, provides
from mmpo.data.shape import dedupe
from mmpo.data.verdict import next_steps, problems, summary
from mmpo.errors import OnBadRow, UserError
from mmpo.types import Datum

Report = dict[str, Any]


def inspect(
    sources: Sources,
    out: Path | str,
    *,
    tokenizer: Any = None,
    max_length: int | None = None,
    max_prompt_length: int | None = None,
    eval_sources: Sources | None = None,
    gamma: float | Literal["auto"] | None = "auto",
    on_bad_row: OnBadRow = "drop",
) -> Report:
    """Write ``report.json`` and ``report.html`` about the data into ``out``.

    Args:
        sources: what ``load`` takes.
        out: folder of the report.
        tokenizer: counts what the limits would cut.
        max_length, max_prompt_length: limits in tokens, as in training; they need a tokenizer.
        eval_sources: evaluation data, to look for shared prompts.
        gamma: of the targets that are drawn; "auto" (or None) fits or proposes one.
        on_bad_row: as in ``load``.

    Returns:
        The report as plain JSON; ``summary`` holds its main lines.

    Raises:
        UserError: the data cannot be read, or limits are given without a tokenizer, or gamma without grades.
    """
    if tokenizer is None and (max_length is not None or max_prompt_length is not None):
        raise UserError("max_length is counted in tokens; name the tokenizer that counts them")
    loaded = load(sources, on_bad_row=on_bad_row)
    data, counts = merge(loaded.data)
    compared = Compared.of(data)
    if isinstance(gamma, int | float):
        _check_gamma(gamma, compared, set(loaded.ledger.provides))
    fit, trouble = _gamma(data, gamma, set(loaded.ledger.provides))
    report: Report = {
        "ledger": loaded.ledger.as_dict(),
        "size": _size(loaded.data, data),
        "beside": beside(data),
        "merge": counts,
        "repeats": _repeats(loaded.data),
        "ties": _ties(compared),
        "grades": _grades(data),
        "gaps": _spread(np.abs(compared.gap)),
        "vote_shares": _spread(np.maximum(compared.share, 1 - compared.share)),
        "gamma": fit.as_dict() if fit else {"note": trouble},
        "targets": _targets(compared, fit),
        "length": length_preference(compared),
        "position": position(loaded.data),
        "agreement": agreement(data),
        "overlap": _overlap(loaded.data, eval_sources, on_bad_row),
        "truncation": _truncation(data, tokenizer, max_length, max_prompt_length),
    }
    report["problems"] = problems(report)
    report["next"] = next_steps(report)
    report["summary"] = summary(report)
    _write(report, Path(out))
    return report


def _write(report: Report, out: Path) -> None:
    from mmpo.data.page import page  # drawing is loaded only where something is drawn

    out.mkdir(parents=True, exist_ok=True)
    (out / "report.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    page(report).write(out / "report.html")


def _check_gamma(gamma: float, compared: Compared, kinds: set[str]) -> None:
    """Raise UserError where every target would be the same whatever gamma is."""
    graded = (np.nan_to_num(compared.gap) != 0) | ((compared.share > 0) & (compared.share < 1))
    if not graded.any() or ("offset" in kinds and "grades" not in kinds):
        raise UserError(
            f"gamma is {gamma:g}, but the data say only which response is better, and not by how much; leave gamma out"
        )


def _gamma(
    data: Sequence[Datum], gamma: float | Literal["auto"] | None, kinds: set[str]
) -> tuple[GammaFit | None, str]:
    """The fit, or why there is none."""
    if "offset" in kinds and "grades" not in kinds:
        return None, "The margins are additive offsets, which say nothing of how likely a vote is: there is no gamma."
    try:
        return (fit_gamma(data) if gamma in (None, "auto") else given_gamma(data, float(gamma))), ""
    except UserError as error:
        return None, str(error)


# ---------------------------------------------------------------------------------------------- what is there


def _size(rows: Sequence[Datum], data: Sequence[Datum]) -> Report:
    per_prompt = Counter(len(answers(d)) for d in data)
    return {
        "prompts": len({texts.key(d.prompt) for d in rows}),
        "responses": sum(n * times for n, times in per_prompt.items()),
        **provides(data),
        "responses_per_prompt": {str(k): n for k, n in sorted(per_prompt.items())},
    }


def _repeats(rows: Sequence[Datum]) -> Report:
    """Rows that repeat another row, and rows in which a response occurs twice."""
    twice = [d.source for d in rows if len(set(names(d))) < len(d.responses)]
    return {
        "duplicate_rows": dedupe(rows)[1],
        "identical_responses": {"count": len(twice), "rows": twice[:LISTED]},
    }


def _ties(c: Compared) -> Report:
    def of(values: Floats) -> Report:
        known = values[~np.isnan(values)]
        return {"n": len(known), "ties": int((known == 0).sum()), "share": _mean(known == 0)}

    return {"gaps": of(c.gap), "votes": of(c.share - 0.5)}


def _grades(data: Sequence[Datum]) -> Report | None:
    return _spread(np.array([d.grades[i] for d in data if d.grades is not None for i in graded(d)], dtype=float))


def _targets(c: Compared, fit: GammaFit | None) -> Report | None:
    """The targets of the better side, sigmoid(gamma |gap|)."""
    if fit is None:
        return None
    margin = c.margin[~np.isnan(c.margin)]
    return {
        "gamma": fit.gamma,
        "saturated_share": fit.saturated_share,
        **(_spread(sigmoid(fit.gamma * np.abs(margin))) or {}),
    }


def _spread(values: Floats, bins: int = 40) -> Report | None:
    """Percentiles and a histogram; None without values."""
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    counts, edges = np.histogram(values, bins)
    return {
        "n": len(values),
        "percentiles": quantiles(values),
        "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
    }


# ---------------------------------------------------------------------------------------------- what may mislead


def length_preference(c: Compared) -> Report:
    """How often the longer response (in characters) is preferred, and the rank correlation of length with quality.

    Which response is called i is arbitrary, so every comparison enters the Spearman correlation from both sides.
    """
    decided = c.where((c.longer != 0) & (np.nan_to_num(c.lead) != 0))
    both = c.where(~np.isnan(c.margin))
    return {
        "n": len(decided),
        "longer_preferred": _mean(decided.lead * decided.longer > 0),
        "spearman": _odd_spearman(both.longer, both.margin),
    }


def _odd_spearman(x: Floats, y: Floats) -> float | None:
    """Spearman's correlation of (x, y) together with (-x, -y)."""
    a, b = (np.sign(v) * _ranks(np.abs(v)) for v in (x, y))
    norm = np.sqrt((a**2).sum() * (b**2).sum())
    return float((a * b).sum() / norm) if norm else None


def _ranks(size: Floats) -> Floats:
    """Ranks above the middle in the union of x and -x; ties share their mean rank, and zeros have rank 0."""
    values, place, counts = np.unique(size, return_inverse=True, return_counts=True)
    zeros = counts[0] if len(values) and values[0] == 0 else 0
    upper = np.cumsum(counts) - zeros
    return np.asarray((zeros + upper - (counts - 1) / 2 - 0.5)[place])


def position(rows: Sequence[Datum]) -> Report:
    """How often the response that stands first in the file wins, ties left out."""
    lead = Compared.of(rows).lead
    return {"n": int((lead != 0).sum()), "first_preferred": _mean(lead[lead != 0] > 0)}


def agreement(data: Sequence[Datum]) -> Report | None:
    """How far single annotators agree on single comparisons; None where no comparison has two named annotators.

    "direction": of all pairs of opinions on one comparison, neither a tie, the share that agree.
    "alpha": Krippendorff's alpha (2011) of the sides -1, 0, 1 with the interval metric, a tie lying between. Which
    response is called i is arbitrary, so the expected disagreement is that of the sides and their mirror image.
    """
    o = Opinions.of(data).first_of_each()
    if not len(o):
        return None
    n = np.bincount(o.unit)
    total, square = np.bincount(o.unit, o.side), np.bincount(o.unit, o.side**2)
    shared = n >= 2
    if not shared.any():
        return None
    first, second = (np.bincount(o.unit, o.side == s) for s in (1.0, -1.0))
    agree = ((first * (first - 1) + second * (second - 1)) / 2).sum()
    pairs = agree + (first * second).sum()
    opinions, squares = n[shared].sum(), square[shared].sum()
    observed = (2 * (n * square - total**2)[shared] / (n[shared] - 1)).sum() / opinions
    expected = 4 * squares / (2 * opinions - 1)
    return {
        "annotators": len(o.names),
        "comparisons": int(shared.sum()),
        "opinions": int(opinions),
        "direction": float(agree / pairs) if pairs else None,
        "pairs_of_opinions": int(pairs),
        "alpha": float(1 - observed / expected) if expected else None,
        "ties": _mean(o.side == 0),
    }


def _overlap(rows: Sequence[Datum], eval_sources: Sources | None, on_bad_row: OnBadRow) -> Report | None:
    """Evaluation prompts that are also training prompts, up to case and white space."""
    if eval_sources is None:
        return None
    evaluated = load(eval_sources, on_bad_row=on_bad_row)
    known = {texts.normal(d.prompt) for d in rows}
    prompts = {texts.normal(d.prompt): d.source for d in evaluated.data}
    shared = [source for prompt, source in prompts.items() if prompt in known]
    return {
        "ledger": evaluated.ledger.as_dict(),
        "prompts": len(prompts),
        "shared": len(shared),
        "rows": shared[:LISTED],
    }


def _truncation(data: Sequence[Datum], tokenizer: Any, length: int | None, prompt_length: int | None) -> Report | None:
    """What the limits would cut, each prompt and each distinct response counted once."""
    if tokenizer is None:
        return None
    from mmpo.batch import Limits, encode_all

    limits = Limits(max_prompt_length=prompt_length) if length is None else Limits(length, prompt_length)
    kept, cuts = encode_all(data, tokenizer, limits, "drop")
    prompt = np.array([len(e.prompt) + e.prompt_cut for _, e in kept], dtype=float)
    response = np.array(
        [len(r) + cut for _, e in kept for r, cut in zip(e.responses, e.response_cut, strict=True)], dtype=float
    )
    at = (0.5, 0.9, 0.95, 0.99, 1.0)
    return {
        **cuts.as_dict(),
        "prompt_tokens": quantiles(prompt, at),
        "response_tokens": quantiles(response, at),
    }


def _mean(flags: Any) -> float | None:
    return float(np.mean(flags)) if len(flags) else None
