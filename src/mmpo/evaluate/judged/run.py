"""A judged benchmark from questions to report: every answer and every judgement is asked for once and kept."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmpo import __version__
from mmpo.asking.account import Account
from mmpo.asking.store import Store
from mmpo.errors import UserError
from mmpo.evaluate.judged.answers import record, write
from mmpo.evaluate.judged.benchmark import Benchmark, Counting, Material
from mmpo.evaluate.judged.inputs import Asking, Files, Given, Source, digests, gather
from mmpo.evaluate.judged.questions import Answer
from mmpo.evaluate.judged.report import write_report
from mmpo.evaluate.judged.trials import Judgement, judge, outcomes
from mmpo.evaluate.summary import FEW_PROMPTS
from mmpo.files import write_lines, write_whole
from mmpo.plain import to_cell


def judged(
    benchmark: Benchmark, source: Source, files: Files, asking: Asking, out: Path, counting: Counting | None = None
) -> dict[str, Any]:
    """Run a benchmark and write report.html, report.json and judgements.jsonl to ``out``, and answers.jsonl where the
    answers are written now.

    Returns what report.json holds. What the judge said stands in ``out/asked``; the same call again asks nothing that
    is answered there. Raises UserError where a file is missing or wrong, or the endpoint cannot be asked.
    """
    given = gather(benchmark, source, files, asking, out, counting)
    material, written = given.material, None
    if source.file is None and source.writer is not None:
        most = source.tokens or benchmark.answer_tokens
        answers, written = write(material.questions, source.writer, benchmark.temperature, most, benchmark.turns)
        material = replace(material, answers=answers)
        kept = [record(source.model, q, answers[q.id]) for q in material.questions if q.id in answers]
        write_lines(out / "answers.jsonl", kept)
    trials = benchmark.trials(material, asking.judge_tokens)
    if not trials:
        raise UserError("no question has all the answers that are judged; check --answers and --baseline")
    judgements, account = judge(trials, asking.judge, Store(out / "asked" / "judge.jsonl"), asking.attempts)
    write_lines(out / "judgements.jsonl", (one.record() for one in judgements))
    found = outcomes(judgements, benchmark.combine)
    for name, rows in benchmark.tables(found, material, source.model).items():
        write_whole(out / name, _table(rows))
    result = {
        "benchmark": benchmark.name,
        "title": benchmark.title,
        "model": source.model,
        "numbers": benchmark.numbers(judgements, found, material, given.counting),
        "counted": _counted(benchmark, material, judgements, len(found)),
        "unused": dict(given.unused),
        "settings": _settings(benchmark, source, files, asking, given, judgements),
        "calls": {"judge": account.record(), "answers": written.record() if written else None},
    }
    result["notes"] = [*given.notes, *_notes(result, account, written)]
    write_report(result, judgements, out)
    return result


def _settings(
    benchmark: Benchmark,
    source: Source,
    files: Files,
    asking: Asking,
    given: Given,
    judgements: Sequence[Judgement],
) -> dict[str, Any]:
    """All that the numbers rest on."""
    return {
        "mmpo": __version__,
        "files": vars(files),
        "sha256": digests({**vars(files), "answers": source.file}),
        "answers": {"file": source.file, **source.settings},
        "judge": asking.judge.record(),
        "attempts": asking.attempts,
        "judge_tokens": asking.judge_tokens or benchmark.judge_tokens,
        "prompts": {name: given.material.prompts[name].digest for name in sorted({j.trial.prompt for j in judgements})},
        "own_prompts": files.prompts is None,
        **given.counting.draws,
    }


def _counted(
    benchmark: Benchmark, material: Material, judgements: Sequence[Judgement], outcomes: int
) -> dict[str, int]:
    """What was asked and what is missing from the numbers."""
    shown = [q.id for q in material.questions if benchmark.answered(q, material)]
    answers = [material.answers[name] for name in shown]
    items = {(one.trial.question, one.trial.turn) for one in judgements}
    return {
        "questions": len(material.questions),
        "without_answers": len(material.questions) - len(shown),
        "judgements": len(judgements),
        "asked_again": sum(one.attempts > 1 for one in judgements),
        "without_verdict": sum(one.verdict is None and one.reply is not None for one in judgements),
        "without_reply": sum(one.reply is None for one in judgements),
        "turns_judged": len(items),
        "turns_left_out": len(items) - outcomes,
        "answers_cut": sum(answer.cut for answer in answers),
        "answers_empty": sum(not all(turn.strip() for turn in answer.turns) for answer in answers),
        "longer_questions": sum(len(q.turns) > benchmark.turns for q in material.questions),
        "longer_answers": _longer(benchmark, material, material.answers),
        "longer_baseline": _longer(benchmark, material, material.baseline),
        "rounded": sum(one.verdict.rounded for one in judgements if one.verdict),
    }


def _longer(benchmark: Benchmark, material: Material, answers: Mapping[str, Answer]) -> int:
    """Answers with more turns than are judged."""
    return sum(len(answers[q.id].turns) > len(benchmark.judged(q)) for q in material.questions if q.id in answers)


_SAID = {
    "rounded": "{} of {judgements} judgements came without log-probs of their letters and count as 1 or 0, where the "
    "benchmark takes a probability; ask a judge that gives log-probs",
    "without_answers": "{} of {questions} questions lack an answer of the model or the baseline and were not judged",
    "asked_again": "{} of {judgements} judgements held no verdict at first and were asked again, warmer",
    "without_verdict": "{} of {judgements} judgements hold no verdict after all attempts",
    "without_reply": "{} of {judgements} judgements were not given by the server; the same command asks for them again",
    "turns_left_out": "{} of {turns_judged} judged turns lack a verdict, in one order at least, and are in no number",
    "answers_cut": "{} answers were cut at their limit of tokens and judged as they stand",
    "answers_empty": "{} answers are empty on some turn and judged as they stand",
    "longer_questions": "{} questions have more turns than are judged; the further ones were not used",
    "longer_answers": "{} answers of the model have more turns than are judged; the further ones were not used",
    "longer_baseline": "{} answers of the baseline have more turns than are judged; the further ones were not used",
}


def _notes(result: Mapping[str, Any], account: Account, written: Account | None) -> list[str]:
    """What the reader must know, one sentence each."""
    counted, few = result["counted"], result["numbers"]["score"]["n_questions"]
    notes = [f"the intervals rest on {few} questions; they are too narrow to rely on"] if few < FEW_PROMPTS else []
    notes += [text.format(counted[name], **counted) for name, text in _SAID.items() if counted[name]]
    notes += [f"not used, of {what}: {times:,}" for what, times in result["unused"].items()]
    notes += result["numbers"].get("notes", [])
    notes += [f"judge: {line}" for line in account.summary()]
    return notes + [f"answers: {line}" for line in (written.summary() if written else [])]


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: to_cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue()
