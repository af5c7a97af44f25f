"""Commands that say what changed and what is rewarded."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from mmpo.cli.judged import Pace
from mmpo.cli.options import MOST_SEED, BadRow, BadRows, Data, Loading, Report, Rows
from mmpo.errors import UserError

Stances = Annotated[
    Path | None, typer.Option(help="A YAML or JSON file of words for each stance: {support: [...], oppose: [...]}.")
]


@dataclass(frozen=True)
class Asking:
    """A language model that judges."""

    judge_url: Annotated[
        str | None, typer.Option(help="OpenAI-compatible server of a judge: http://localhost:8000/v1.")
    ] = None
    judge_model: Annotated[str | None, typer.Option(help="The judge's name on that server.")] = None
    judge_key_env: Annotated[
        str | None, typer.Option(help="NAME of the environment variable that holds the judge's key.")
    ] = None

    def endpoint(self, pace: Pace) -> Any:
        """The judge's endpoint; None where no judge is asked."""
        if self.judge_url is None:
            idle = [*_given(self), *_given(pace)]
            if idle:
                raise UserError(f"{idle[0]} says how a judge is asked; give --judge-url, or leave it out")
            return None
        if self.judge_model is None:
            raise UserError("--judge-url needs --judge-model, the judge's name on that server")
        return pace.endpoint(self.judge_url, self.judge_model, self.judge_key_env)


def compare(
    models: Annotated[list[str], typer.Argument(help="The model before, checkpoints between, the model after.")],
    prompts: Annotated[str, typer.Argument(help="A .txt of prompts, rows with a prompt, or preference data.")],
    out: Annotated[Path, typer.Option(help="Folder for report.html, report.json and samples.jsonl.")],
    loading: Loading,
    asking: Asking,
    pace: Pace,
    scorer: Annotated[str | None, typer.Option(help="A reward model, or a policy by its implicit reward.")] = None,
    stances: Stances = None,
    n: Annotated[int, typer.Option("--n", help="Answers of each model to each prompt.")] = 1,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer in tokens.")] = 512,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="1 cuts nothing off.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Seed of the answers and of the intervals.")] = 0,
    split: Annotated[str | None, typer.Option(help="Use only the prompts of this split.")] = None,
    limit: Annotated[int | None, typer.Option(help="Use only the first so many prompts.")] = None,
    on_bad_row: BadRow = "error",
) -> None:
    """Show what changed between models: the same prompts, both answers, scores, style and stances."""
    from dataclasses import replace

    from mmpo.evaluate.changes.asked import read_prompts
    from mmpo.evaluate.changes.compare import changes
    from mmpo.evaluate.changes.compare_page import in_words, write_changes
    from mmpo.evaluate.changes.samples import score_answers, write_answers
    from mmpo.models.sample import Sampling

    if len(models) < 2:
        raise UserError("compare needs two models or more, and then the prompts: mmpo compare BEFORE AFTER PROMPTS")
    if n < 1:
        raise UserError(f"--n is {n}; give at least 1")
    if n > 1 and not temperature:
        raise UserError(f"--n {n} with --temperature 0 would give the same answer {n} times; leave one of them out")
    _only_with(loading, "--scorer" if scorer is None else None)
    sampling = Sampling(max_new_tokens, temperature, top_p, seed)
    judge = _stance_judge(stances, asking.endpoint(pace), out)
    asked, notes = read_prompts(prompts, split=split, limit=limit, on_bad_row=on_bad_row)
    reader = None if scorer is None else loading.scorer(scorer)
    how_loaded = {name: getattr(loading, name) for name in ("pad_token", "dtype", "trust_remote_code")}
    answers = write_answers(models, asked, sampling, n, **how_loaded)
    if reader is not None:
        scores, said = score_answers(answers, reader)
        answers, notes = replace(answers, scores=scores), notes + said
    found = changes(answers, judge, notes, seed=seed)
    how = {
        **vars(sampling),
        "answers a prompt": n,
        "prompts": prompts,
        "scorer": scorer,
        "stances": None if judge is None else str(stances or asking.judge_model),
    }
    write_changes(found, out, {"models": ", ".join(models), **how})
    for line in [*found.notes, in_words(found)]:
        print(line)
    print(f"report: {out / 'report.html'}")


def dissect(
    data: Data,
    out: Report,
    loading: Loading,
    rows: Rows,
    bad: BadRows,
    asking: Asking,
    pace: Pace,
    model: Annotated[str | None, typer.Option(help="A model whose taste is laid beside people's.")] = None,
    stances: Stances = None,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Seed of folds, draws and intervals.")] = 0,
) -> None:
    """Say what people reward in preference data, and what a model does: length, lists, courtesy and the like."""
    from mmpo.asking.store import Store
    from mmpo.data import load, merge
    from mmpo.data.ledger import in_words as counted
    from mmpo.evaluate.changes.audit import dissect as run
    from mmpo.evaluate.changes.audit import said_of, stance_gaps
    from mmpo.evaluate.changes.dissect import Dissector
    from mmpo.evaluate.changes.dissect_page import in_words, write_dissection
    from mmpo.evaluate.changes.judges import AskedProperties
    from mmpo.evaluate.changes.properties import PROPERTIES, Annotator
    from mmpo.evaluate.changes.regression import Posterior
    from mmpo.evaluate.changes.stances import silence

    _only_with(loading, "--model" if model is None else None)
    judge, endpoint = _stance_judge(stances, None, out), asking.endpoint(pace)
    loaded = load(rows.sources(data), on_bad_row=bad.rule)
    kept, merged = merge(loaded.data)
    notes = [*loaded.ledger.summary(), *counted("merging", merged)]
    said: Any = None
    if model is not None:
        scored = loading.scorer(model)(kept, bad.rule)
        kept, said = scored.data, scored.said
        notes.append(scored.cuts["summary"])
    annotator, rater = Annotator.by_rules(), None
    if endpoint is not None:
        unruled = tuple(one.name for one in PROPERTIES if one.rule is None)
        rater = AskedProperties(endpoint, Store(out / "asked" / "properties.jsonl"), unruled)
        annotator = Annotator(tuple(one.name for one in PROPERTIES), rater)
    audit = run(kept, annotator, Dissector(Posterior(seed=seed), seed=seed), said)
    if rater is not None and rater.unrated:
        notes.append(f"pairs without ratings, level in what the judge rates: {len(rater.unrated)} ({rater.unrated[0]})")
    gaps = None if judge is None else stance_gaps(kept, audit.comparisons, judge)
    notes += [] if judge is None else silence(judge, said_of(kept, audit.comparisons))
    write_dissection(
        audit,
        kept,
        out,
        source=", ".join(data),
        model=model,
        gaps=gaps,
        stances=judge.stances if judge else (),
        notes=notes,
    )
    for line in [*notes, in_words(audit)]:
        print(line)
    print(f"report: {out / 'report.html'}")


def _stance_judge(words: Path | None, endpoint: Any, out: Path) -> Any:
    """A judge from a file of words or behind an endpoint; None without either."""
    if words is not None and endpoint is not None:
        raise UserError("--stances and --judge-url both say who tells the stances; give one")
    if words is not None:
        from mmpo.evaluate.changes.stances import read_keywords

        return read_keywords(words)
    if endpoint is None:
        return None
    from mmpo.asking.store import Store
    from mmpo.evaluate.changes.judges import AskedStances

    return AskedStances(endpoint, Store(out / "asked" / "stances.jsonl"))


def _only_with(loading: Loading, missing: str | None) -> None:
    """Refuse options that would do nothing: how a model is read, where no model is."""
    both = {"--pad-token", "--dtype", "--trust-remote-code"} if missing == "--scorer" else set()
    idle = [flag for flag in _given(loading) if flag not in both]
    if missing and idle:
        raise UserError(f"{idle[0]} says how a model is read; give {missing}, or leave it out")


def _given(group: Any) -> list[str]:
    """The flags of a group of options that were given another value than their own."""
    return ["--" + f.name.replace("_", "-") for f in fields(group) if getattr(group, f.name) != f.default]
