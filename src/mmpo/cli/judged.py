"""Benchmarks that a model judges."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from mmpo.cli.options import MOST_SEED, Report, Trust
from mmpo.errors import UserError

Bench = Literal["mt-bench", "alpaca-eval", "arena-hard"]


@dataclass(frozen=True)
class Material:
    """What is judged and by which words."""

    baseline: Annotated[
        str | None, typer.Option(help="Answers of the model to compare with (alpaca-eval, arena-hard, pairwise).")
    ] = None
    references: Annotated[
        str | None, typer.Option(help="Reference answers for math, reasoning and coding (mt-bench).")
    ] = None
    prompts: Annotated[
        str | None,
        typer.Option(
            help="Judge prompts in FastChat's layout. mt-bench needs them; the others have words of their own."
        ),
    ] = None
    mode: Annotated[
        str | None, typer.Option(help="mt-bench: single or pairwise. alpaca-eval: drawn or both (orders).")
    ] = None

    def benchmark(self, name: str) -> Any:
        from mmpo.evaluate.judged import alpaca, arena, mtbench

        known: dict[str, dict[str, Any]] = {
            "mt-bench": {"single": mtbench.SINGLE, "pairwise": mtbench.PAIRWISE},
            "alpaca-eval": {"drawn": alpaca.DRAWN, "both": alpaca.BOTH},
            "arena-hard": {"both": arena.ARENA},
        }
        modes = known[name]
        mode = self.mode or next(iter(modes))
        if mode not in modes:
            raise UserError(f"--mode {mode}: {name} knows {' and '.join(modes)}; give one of them")
        return modes[mode]


@dataclass(frozen=True)
class Answers:
    """Where the answers come from, if not from a model folder."""

    answers: Annotated[
        str | None,
        typer.Option(help="A file of answers (FastChat, Arena-Hard or AlpacaEval layout) instead of a model."),
    ] = None
    model_url: Annotated[
        str | None, typer.Option(help="A server that MODEL answers on, such as http://localhost:8000/v1.")
    ] = None
    model_key_env: Annotated[
        str | None, typer.Option(help="NAME of the environment variable that holds that server's key.")
    ] = None
    model_options: Annotated[
        str, typer.Option(help="Further fields of each request to that server as JSON; null leaves one out.")
    ] = "{}"
    answer_tokens: Annotated[int | None, typer.Option(help="Most tokens of an answer; default: as published.")] = None
    seed: Annotated[
        int, typer.Option(min=0, max=MOST_SEED, help="Of the answers of a model folder, and of the bootstrap.")
    ] = 0
    dtype: Annotated[str, typer.Option(help="Of a model folder: float32, bfloat16 or float16.")] = "float32"
    pad_token: Annotated[
        str | None, typer.Option(help="The padding token, where the model's tokenizer names none.")
    ] = None
    trust_remote_code: Trust = False

    def source(self, model: str, out: Path, pace: Pace) -> Any:
        from mmpo.asking import Store
        from mmpo.evaluate.judged import Folder, Server, Source

        if self.answers is not None and self.model_url is not None:
            raise UserError("--answers and --model-url: both say where the answers come from; give one")
        self._check_idle()
        if self.answer_tokens is not None and self.answer_tokens < 1:
            raise UserError(f"--answer-tokens is {self.answer_tokens}; give at least 1")
        if self.answers is not None:
            return Source(model, file=self.answers)
        store = Store(out / "asked" / "model.jsonl")
        if self.model_url is not None:
            options = _object("model-options", self.model_options)
            endpoint = pace.endpoint(self.model_url, model, self.model_key_env, "model", options=options)
            writer: Any = Server(endpoint, store)
            settings = endpoint.record()
        else:
            writer = Folder(model, store, self.seed, self.dtype, self.pad_token, self.trust_remote_code)
            settings = {"seed": self.seed, "dtype": self.dtype}
        return Source(model, writer=writer, tokens=self.answer_tokens, settings=settings)

    def _check_idle(self) -> None:
        """Refuse options that would do nothing."""
        server, folder = ("model_key_env", "model_options"), ("dtype", "pad_token", "trust_remote_code")
        idle: tuple[str, ...]
        if self.answers is not None:
            idle, why = (*server, *folder, "answer_tokens"), "the answers are read from --answers"
        elif self.model_url is not None:
            idle, why = folder, "the answers come from --model-url"
        else:
            idle, why = server, "there is no --model-url"
        given = [f.name for f in fields(self) if f.name in idle and getattr(self, f.name) != f.default]
        if given:
            raise UserError(f"--{given[0].replace('_', '-')} would do nothing, since {why}; leave it out")


@dataclass(frozen=True)
class Pace:
    """How hard servers may be asked."""

    concurrency: Annotated[int, typer.Option(help="Questions under way at once, on each server.")] = 8
    requests_per_minute: Annotated[float | None, typer.Option(help="Limit to keep to, on each server.")] = None
    tokens_per_minute: Annotated[float | None, typer.Option(help="Limit to keep to, on each server.")] = None
    timeout: Annotated[float, typer.Option(help="Seconds that a server may take for one answer.")] = 300.0
    patience: Annotated[float, typer.Option(help="Seconds to wait for a server that is away or busy.")] = 300.0

    def endpoint(self, url: str, model: str, key_env: str | None, side: str = "judge", **more: Any) -> Any:
        """The endpoint of the judge, or of the model under test; messages name its options as they are typed."""
        from mmpo.asking.endpoint import Endpoint

        flags = {name: "--" + name.replace("_", "-") for name in vars(self)}
        flags |= {"base_url": f"--{side}-url", "model": f"--{side}-model", "api_key_env": f"--{side}-key-env"}
        flags |= {"options": f"--{side}-options"} | ({"model": "MODEL"} if side == "model" else {})
        return Endpoint(url, model, key_env, **vars(self), **more, flags=flags)


@dataclass(frozen=True)
class Judging:
    """How the judge is asked."""

    judge_key_env: Annotated[
        str | None, typer.Option(help="NAME of the environment variable that holds the judge's key.")
    ] = None
    judge_options: Annotated[
        str,
        typer.Option(help="Further fields of each request as JSON, such as '{\"max_tokens\": null}'; null leaves out."),
    ] = "{}"
    judge_tokens: Annotated[int | None, typer.Option(help="Most tokens of a judgement; default: as published.")] = None
    attempts: Annotated[int, typer.Option(help="How often a judgement without a verdict is asked for in all.")] = 3

    def asking(self, url: str, model: str, pace: Pace) -> Any:
        from mmpo.evaluate.judged import Asking

        options = _object("judge-options", self.judge_options)
        return Asking(pace.endpoint(url, model, self.judge_key_env, options=options), self.attempts, self.judge_tokens)


def _object(name: str, text: str) -> dict[str, Any]:
    """The JSON object of an option."""
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"--{name} is no JSON ({error.msg}); give an object such as '{{\"top_p\": 1}}'") from None
    if not isinstance(found, dict):
        raise UserError(f"--{name} is no object; give one such as '{{\"top_p\": 1}}'")
    return found


@dataclass(frozen=True)
class Lengths:
    """What length control rests on (alpaca-eval)."""

    others: Annotated[
        str | None,
        typer.Option(
            help="Judgements of other models on these questions (lengths.csv), for how hard each question is."
        ),
    ] = None
    length_prior: Annotated[
        str, typer.Option(help="What the effect of length is held near: published, or others (as in --others).")
    ] = "published"

    def counting(self, benchmark: Any, seed: int) -> Any:
        from mmpo.evaluate.judged.benchmark import Counting
        from mmpo.evaluate.judged.lengths import PUBLISHED

        if self.length_prior not in ("published", "others"):
            raise UserError(f"--length-prior is {self.length_prior!r}; give published or others")
        if self.length_prior == "others" and self.others is None:
            raise UserError("--length-prior others: there are none; give --others")
        if self.length_prior != "published" and not benchmark.length_controlled:
            raise UserError(f"--length-prior would do nothing: {benchmark.name} has no length control; leave it out")
        return Counting(seed=seed, prior=PUBLISHED if self.length_prior == "published" else None)


def judge(
    bench: Annotated[Bench, typer.Argument(help="Which benchmark.")],
    model: Annotated[str, typer.Argument(help="Model folder or hub id; with --model-url its name on that server.")],
    questions: Annotated[str, typer.Option(help="The benchmark's questions, as its authors publish them.")],
    judge_url: Annotated[str, typer.Option(help="OpenAI-compatible server of the judge: http://localhost:8000/v1.")],
    judge_model: Annotated[str, typer.Option(help="The judge's name on that server.")],
    out: Report,
    material: Material,
    answers: Answers,
    judging: Judging,
    pace: Pace,
    lengths: Lengths,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Ask nothing: say how many calls and tokens.")] = False,
) -> None:
    """Have a model judge answers: MT-bench, AlpacaEval or Arena-Hard v0.1, with intervals.

    Answers and judgements are kept in --out; the same command again asks only for what is missing.
    """
    from mmpo.evaluate.judged import Files, judged, plan
    from mmpo.evaluate.judged.plan import in_words
    from mmpo.evaluate.judged.report import tiles

    benchmark = material.benchmark(bench)
    asking = judging.asking(judge_url, judge_model, pace)
    counting = lengths.counting(benchmark, answers.seed)
    files = Files(questions, material.baseline, material.references, material.prompts, lengths.others)
    source = answers.source(model, out, pace)
    if dry_run:
        print("\n".join(in_words(plan(benchmark, source, files, asking, out), asking)))
        return
    result = judged(benchmark, source, files, asking, out, counting)
    for label, value, _ in tiles(result["numbers"]):
        print(f"{label}: {value}")
    for note in result["notes"]:
        print(note)
    print(f"report: {out / 'report.html'}")
