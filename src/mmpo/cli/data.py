"""Commands that look at data or make data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from mmpo.cli.options import (
    MOST_SEED,
    BadRow,
    BadRows,
    Data,
    Length,
    PromptLength,
    Report,
    Rows,
    Trust,
    new_file,
    number,
)
from mmpo.errors import UserError


def inspect(
    data: Data,
    out: Report,
    rows: Rows,
    tokenizer: Annotated[
        str | None, typer.Option(help="Model folder or hub id whose tokenizer counts truncation.")
    ] = None,
    trust_remote_code: Trust = False,
    max_length: Length = None,
    max_prompt_length: PromptLength = None,
    eval_data: Annotated[list[str] | None, typer.Option(help="Evaluation data, to look for shared prompts.")] = None,
    gamma: Annotated[
        str, typer.Option(help="A number, or auto: fit it where the data allow, else propose one.")
    ] = "auto",
    on_bad_row: BadRow = "drop",
) -> None:
    """Report on the data before any model is touched."""
    from mmpo.data import inspect as run
    from mmpo.models import load_tokenizer

    if trust_remote_code and tokenizer is None:
        raise UserError("--trust-remote-code is for the code of a tokenizer; give --tokenizer, or leave it out")
    report = run(
        rows.sources(data),
        out,
        tokenizer=load_tokenizer(tokenizer, trust_remote_code=trust_remote_code) if tokenizer else None,
        max_length=max_length,
        max_prompt_length=max_prompt_length,
        eval_sources=rows.sources(eval_data or [], split=None) or None,
        gamma="auto" if gamma == "auto" else number("gamma", gamma),
        on_bad_row=on_bad_row,
    )
    for line in report["summary"]:
        print(line)
    print(f"report: {out / 'report.html'}")


def build(
    kind: Annotated[
        str,
        typer.Argument(
            help="What to make: goals, weighted, instructions, variants, phrases, strength, contexts, outcomes or "
            "transfer (of two data: those with grades, and those to label)."
        ),
    ],
    data: Data,
    out: Annotated[Path, typer.Option(help="A .jsonl file for the new data.")],
    rows: Rows,
    bad: BadRows,
    goals: Annotated[
        str | None, typer.Option(help="goals: numbers to ask for, as 1,5,10; else each prompt's own grades.")
    ] = None,
    place: Annotated[
        str | None, typer.Option(help="goals, contexts, weighted: put them in the system or the user message.")
    ] = None,
    k: Annotated[int | None, typer.Option("--k", help="instructions: how many a prompt gets (3).")] = None,
    degrees: Annotated[int | None, typer.Option(help="variants: how many each answer gets (2).")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=MOST_SEED, help="instructions, weighted: seed of what is drawn.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="weighted: a file with {attribute: weight} a row, or how many to draw for each prompt (4)."),
    ] = None,
    flip: Annotated[float | None, typer.Option(help="strength: share of the labels to turn round (0.2).")] = None,
    soften: Annotated[float | None, typer.Option(help="strength: share of the next ones to smooth (0).")] = None,
    eps: Annotated[
        float | None,
        typer.Option(help="strength: by how much (0.1). outcomes: pairs must differ by more than this (0.1)."),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(help="contexts, weighted: how they are written, with {context} or {weights} in them."),
    ] = None,
    pooled: Annotated[
        bool, typer.Option("--pooled", help="contexts: one row a prompt without them, of all they say together.")
    ] = False,
    components: Annotated[
        str | None, typer.Option(help="outcomes: their shares in the grade (outcome=0.5,rubric=0.5).")
    ] = None,
    scales: Annotated[
        str | None, typer.Option(help="outcomes: lowest and highest value where not 0:1, as rubric=1:10.")
    ] = None,
    mode: Annotated[
        str | None, typer.Option(help="outcomes: pairs that differ in the weighted grade, or by pareto in each.")
    ] = None,
    rubric: Annotated[
        str | None, typer.Option(help="outcomes: read a judge's rubric by its overall number, or by its criteria.")
    ] = None,
    student: Annotated[
        str | None, typer.Option(help="outcomes: model that tells the component outcome from the skills of a row.")
    ] = None,
    aggregate: Annotated[
        str | None, typer.Option(help="outcomes: what it tells of several skills: mean, product or geometric.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="transfer: encoder whose embeddings tell how far answers lie apart.")
    ] = None,
    smooth: Annotated[
        float | None, typer.Option(help="transfer: how much matching spreads over near fits, such as 0.001 (0).")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="outcomes, transfer: of the model: float32, bfloat16 or float16.")
    ] = None,
    max_length: Length = None,
) -> None:
    """Make the data that some methods need: mmpo build goals ratings.jsonl --out goals.jsonl."""
    from mmpo.data import to_row
    from mmpo.data.build import build_rows
    from mmpo.data.ledger import in_words
    from mmpo.files import write_lines

    numbers = [number("goals", one, "give numbers, as 1,5,10") for one in goals.split(",")] if goals else None
    options: dict[str, Any] = {"goals": numbers, "place": place, "k": k, "degrees": degrees, "seed": seed}
    options |= {"flip": flip, "soften": soften, "eps": eps, "template": template, "pooled": pooled or None}
    options |= {"components": _shares(components), "scales": _ranges(scales)}
    options |= {"mode": mode, "rubric": rubric, "aggregate": aggregate, "model": model, "smooth": smooth}
    if kind == "strength" and eps is not None and not soften:
        raise UserError("--eps says by how much labels are smoothed, and none are; give --soften, or leave it out")
    if aggregate is not None and student is None:
        raise UserError("--aggregate is for what a student tells; give --student, or leave it out")
    for name, value in (("dtype", dtype), ("max-length", max_length)):
        if value is not None and student is None and model is None:
            raise UserError(f"--{name} is for the model that is read; give --student or --model, or leave it out")
    new_file(out, data)
    if student is not None:
        from mmpo.evaluate.student import StudentModel

        options["student"] = StudentModel.load(student, dtype=dtype or "float32", max_length=max_length)
    sources = rows.sources(data)
    if kind == "transfer":
        sources, options["source"] = _source_and_target(data, rows, bad)
        options["model"] = None if model is None else _embeddings(model, dtype or "float32", max_length)
    if kind == "weighted":
        from mmpo.data.weighted import weightings

        if rows.grade is not None:
            raise UserError("--grade is set, and build weighted makes the grades of attributes; leave it out")
        sources = replace(rows, attributes=rows.attributes or "all").sources(data, feedback="optional")
        options["weights"] = int(weights) if weights and weights.isdigit() else weightings(weights) if weights else None
    elif weights is not None:
        raise UserError("--weights is for build weighted; leave it out")
    stated = {name: value for name, value in options.items() if value is not None}
    loaded, made, counts = build_rows(kind, sources, on_bad_row=bad.rule, **stated)
    write_lines(out, map(to_row, made))
    for line in [*loaded.ledger.summary(), *in_words(kind, counts)]:
        print(line)
    print(f"built {len(made)} prompts of {len(loaded.data)}: {out}")


def _source_and_target(data: list[str], rows: Rows, bad: BadRows) -> tuple[list[Any], list[Any]]:
    """The data to label, and the graded data that their labels come from, which are read and accounted for."""
    from mmpo.data import load

    if len(data) < 2:
        raise UserError("build transfer needs two data: those with grades, then those to label")
    source = load(rows.sources(data[:1]), on_bad_row=bad.rule)
    for line in source.ledger.summary():
        print(f"source: {line}")
    return rows.sources(data[1:], feedback="optional"), source.data


def _embeddings(name: str, dtype: str, max_length: int | None) -> Callable[[Sequence[Any]], Any]:
    """A model as the encoder of data of one answer each; it prints what its limits cut."""
    from mmpo.evaluate.embedder import Embedder

    embedder = Embedder.load(name, dtype=dtype, max_length=max_length)

    def embed(data: Sequence[Any]) -> Any:
        read = embedder(data)
        print(f"embeddings: {read.cuts}")
        return read.h

    return embed


def _shares(text: str | None) -> dict[str, float] | None:
    """--components, name=share,..."""
    mend = "give a share for each, as outcome=0.5,rubric=0.5"
    found = {n: number("components", v, mend) for n, v in _named("components", text, mend)} if text else {}
    return found or None


def _ranges(text: str | None) -> dict[str, tuple[float, float]] | None:
    """--scales, name=low:high,..."""
    mend = "give the lowest and the highest value of each, as rubric=1:10"
    found = {}
    for name, value in _named("scales", text, mend) if text else ():
        low, colon, high = value.partition(":")
        if not colon:
            raise UserError(f"--scales is {text!r}; {mend}")
        found[name] = number("scales", low, mend), number("scales", high, mend)
    return found or None


def _named(option: str, text: str, mend: str) -> Iterator[tuple[str, str]]:
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not name or not equals:
            raise UserError(f"--{option} is {text!r}; {mend}")
        yield name, value
