"""What several commands are told in the same words: the options, and what is made of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import typer

from mmpo.errors import OnBadRow, UserError, bad_row_rule
from mmpo.plain import plain_output

Data = Annotated[
    list[str], typer.Argument(help="Files (.jsonl, .jsonl.gz, .json, .csv, .parquet), folders or hub ids.")
]
Model = Annotated[str, typer.Argument(help="Folder of a trained model, or a hub id.")]
Report = Annotated[Path, typer.Option(help="Folder for report.html and report.json.")]
BadRow = Annotated[
    Literal["error", "drop"],
    typer.Option(help="What to do with a bad row: error (stop and name it) or drop (count it)."),
]
Length = Annotated[int | None, typer.Option(help="Longest sequence in tokens; what is cut is counted.")]
Trust = Annotated[bool, typer.Option("--trust-remote-code", help="Run code that comes with a model; read it first.")]
PromptLength = Annotated[int | None, typer.Option(help="Longest prompt in tokens; the beginning is cut.")]

MOST_SEED = 2**32 - 1
"""The largest seed that every generator takes."""


@dataclass(frozen=True)
class Rows:
    """How data files are read."""

    split: Annotated[str | None, typer.Option(help="Use only the rows of this split.")] = None
    margin: Annotated[
        str | None, typer.Option(help="What a column 'margin' means: gap (graded), offset (additive) or ignore.")
    ] = None
    grade: Annotated[str | None, typer.Option(help="Which of several grades to use, such as helpfulness.")] = None
    attributes: Annotated[
        str | None, typer.Option(help="What else the responses were graded on and is read: all, or names, as a,b.")
    ] = None

    def sources(self, paths: Sequence[str], **further: Any) -> list[Any]:
        from mmpo.data import Source
        from mmpo.data.source import ALL

        named = self.attributes if self.attributes in (None, ALL) else self.attributes.split(",")
        return [Source(path, **{**vars(self), "attributes": named, **further}) for path in paths]


@dataclass(frozen=True)
class BadRows:
    """What a bad row does, and how many there may be."""

    on_bad_row: BadRow = "error"
    max_bad_rows: Annotated[
        float | None, typer.Option(help="With drop: how many may be dropped, a count or a share below 1 (0.05).")
    ] = None

    @property
    def rule(self) -> OnBadRow:
        return bad_row_rule(self.on_bad_row, self.max_bad_rows)


@dataclass(frozen=True)
class Loading:
    """How a model is loaded and read."""

    reference: Annotated[
        str | None, typer.Option(help="The model a policy was trained from, for its implicit reward.")
    ] = None
    beta: Annotated[
        float | None, typer.Option(help="beta of a policy's implicit reward; a run's folder remembers its own.")
    ] = None
    read_as: Annotated[
        str | None,
        typer.Option(
            help="Not by its own score: a policy by log_ratio, mean_log_ratio, log_prob or mean_log_prob; a sequence "
            "classifier that embeds responses by preference."
        ),
    ] = None
    max_length: Length = None
    max_prompt_length: PromptLength = None
    pad_token: Annotated[
        str | None, typer.Option(help="The padding token, where the model's tokenizer names none.")
    ] = None
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32"
    trust_remote_code: Trust = False

    def scorer(self, model: str) -> Any:
        from mmpo.evaluate.scoring import Scorer

        if self.beta is not None and not 0 < self.beta < float("inf"):
            raise UserError(f"--beta is {self.beta:g}; give a number above 0")
        return Scorer.load(model, **vars(self))


def command(function: Callable[..., None]) -> Callable[..., None]:
    """The function as a command: a parameter whose type is a group of options becomes those options."""
    hints = get_type_hints(function, include_extras=True)
    parameters, groups = [], {}
    for parameter in inspect.signature(function).parameters.values():
        kind = hints[parameter.name]
        if not (isinstance(kind, type) and is_dataclass(kind)):
            parameters.append(parameter.replace(annotation=kind))
            continue
        groups[parameter.name] = kind
        types = get_type_hints(kind, include_extras=True)
        parameters += [
            inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=types[f.name])
            for f in fields(kind)
        ]

    @wraps(function)
    def run(**given: Any) -> None:
        made = {name: kind(**{f.name: given.pop(f.name) for f in fields(kind)}) for name, kind in groups.items()}
        with plain_output():
            function(**given, **made)

    ordered = sorted(parameters, key=lambda one: one.default is not inspect.Parameter.empty)
    keyword = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in ordered]
    run.__signature__ = inspect.Signature(keyword)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in keyword}
    del run.__wrapped__
    return run


def number(name: str, text: str, mend: str = "give a number or auto") -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f"--{name} is {text!r}; {mend}") from None


def new_file(out: Path, data: Sequence[str]) -> None:
    """Refuse to write where that would take something away."""
    if out.is_dir() or out.resolve() in {Path(path).resolve() for path in data}:
        raise UserError(f"--out {out} is {'a folder' if out.is_dir() else 'the data itself'}; name a new .jsonl file")
    if out.suffix in (".json", ".csv", ".parquet", ".gz"):
        raise UserError(f"--out {out} would hold JSON lines, and its name says otherwise; end it in .jsonl")
