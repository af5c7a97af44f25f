"""The demo: generated data with known truth, inspected, trained on, measured and reported, in minutes on a CPU."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, TrainingArguments
from transformers.utils import logging

from mmpo.batch import Limits
from mmpo.data import fit_gamma, inspect, load, merge
from mmpo.demo.measure import Agreement, Point, Probe, Watch
from mmpo.demo.page import contrasts, table, write_page
from mmpo.demo.reference import LONGEST, make_reference, make_tokenizer, sample
from mmpo.demo.task import BEST, utility
from mmpo.demo.world import SIZES, Sizes, World, make_world, write_demonstrations, write_ratings
from mmpo.errors import UserError
from mmpo.methods import policy, reward
from mmpo.train import train
from mmpo.types import Method

FOLDERS = ("data", "reference", "policy", "reward", "others")
LOG = "demo.log"


@dataclass(frozen=True)
class Effort:
    """How much is trained.

    Every model is trained well past the point where its accuracy stops rising, because that is where matching a margin
    and pushing it apart part ways. Policies are trained once for each of ``betas``, the last of which is kept as the
    policy, and measured after the ``watched`` epochs.
    """

    reference_steps: int = 2000
    epochs: int = 6
    watched: tuple[int, ...] = (1, 3, 6)
    betas: tuple[float, ...] = (0.1, 0.3)
    learning_rate: float = 7e-4
    answers: int = 4
    """Answers drawn to each held-out prompt when a policy is measured."""


EFFORT = Effort()


@dataclass(frozen=True)
class Trial:
    """A method to train, and the folder that the model goes to."""

    name: str
    method: Method
    folder: Path


@dataclass(frozen=True)
class Result:
    """A trained model: the path of a policy, agreement with truth and votes, and the log of its training."""

    trial: Trial
    points: Sequence[Point]
    agreement: Agreement
    history: Sequence[dict[str, Any]]

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.trial.name,
            "method": repr(self.trial.method),
            "equation": self.trial.method.equation,
            "folder": str(self.trial.folder),
            "points": [asdict(point) for point in self.points],
            **self.agreement.as_dict(),
        }


def run(out: Path, seed: int = 0, sizes: Sizes = SIZES, effort: Effort = EFFORT) -> dict[str, Any]:
    """Walk the whole road and leave in ``out`` report.html, report.json and all that they speak of.

    ``policy/`` and ``reward/`` hold the MMPO models, ``others/`` those they are compared with, ``data/`` the world and
    the data report. A former demo in ``out`` is replaced. Raises UserError where the folder holds anything else.
    """
    progress = Progress(_cleared(out) / LOG)
    with _one_thread():
        world = make_world(seed, sizes)
        progress.say(f"a world of {sizes.taught:,} instructions to learn from; a small model learns to follow them")
        with progress.quiet():
            probe = _reference(world, out, effort)
            start = probe(probe.reference)
            write_ratings(world, out / "data", _drawn(world, probe))
        progress.say(f"reference model: true utility {start.utility} of {BEST:g}")
        gamma = _gammas(out / "data")
        told, truth = gamma["fitted"]["gamma"], gamma["truth"]["gamma"]
        rated = sizes.trained + sizes.held_out
        progress.say(f"{rated:,} prompts rated and inspected: gamma {told:.2f} fitted to votes, {truth:.2f} in truth")
        results = _results(out, told, probe, effort, seed, progress)
        with progress.quiet():
            samples = _samples(out, probe, results)
    models = [result.as_dict() for result in results]
    report = {
        "seed": seed,
        "seconds": round(progress.seconds, 1),
        "sizes": asdict(sizes),
        "effort": asdict(effort),
        "gamma": gamma,
        "reference": asdict(start),
        "models": models,
        "contrasts": contrasts(models),
        "samples": samples,
    }
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    write_page(report, results, out / "report.html")
    progress.say("report written")
    print(f"\n{table(report)}\n\nreport: {out / 'report.html'}")
    return report


# -------------------------------------------------------------------------------------------------------- the stages


def _gammas(data: Path) -> dict[str, Any]:
    """gamma three ways: fitted to votes beside grades (this one is used), to the raters alone, and to the truth."""
    files = {name: str(data / f"{name}.jsonl") for name in ("train", "votes", "train_truth", "eval")}
    report = inspect([files["train"], files["votes"]], data, eval_sources=files["eval"])
    fits = {name: fit_gamma(merge(load(files[name]).data)[0]) for name in ("train", "train_truth")}
    return {"fitted": report["gamma"], "raters": fits["train"].as_dict(), "truth": fits["train_truth"].as_dict()}


def _reference(world: World, out: Path, effort: Effort) -> Probe:
    """Train the model that every other starts from, and put a probe around it."""
    write_demonstrations(world, out / "data")
    tokenizer = make_tokenizer()
    examples = [(row["prompt"], row["completion"]) for row in _rows(out / "data" / "sft.jsonl")]
    model = make_reference(tokenizer, examples, out / "reference", effort.reference_steps, world.seed)
    return Probe(model.eval(), tokenizer, [task.prompt for task in world.held_out], effort.answers)


def _drawn(world: World, probe: Probe) -> dict[str, list[str]]:
    """Answers of the reference to the prompts that people are to rate."""
    prompts = world.rated_prompts
    rounds = [
        sample(probe.reference, probe.tokenizer, prompts, seed=world.seed + n).texts
        for n in range(world.sizes.responses // 2)
    ]
    return {prompt: list(texts) for prompt, *texts in zip(prompts, *rounds, strict=True)}


def _trials(out: Path, gamma: float, effort: Effort) -> tuple[list[Trial], list[Trial]]:
    """Policies and reward models. Each hard method stands beside its margin-matching twin."""
    *others, kept = effort.betas
    homes = {beta: out / "others" / f"mmpo-{beta:g}" for beta in others} | {kept: out / "policy"}
    policies = [
        trial
        for beta, home in homes.items()
        for trial in (
            Trial(f"DPO, beta {beta:g}", policy.dpo(beta), out / "others" / f"dpo-{beta:g}"),
            Trial(f"MMPO, beta {beta:g}", policy.mmpo(gamma, beta), home),
        )
    ]
    rewards = [
        Trial("hard reward model", reward.bradley_terry(), out / "others" / "bradley_terry"),
        Trial("MMPO reward model", reward.mmpo_reward(gamma), out / "reward"),
    ]
    return policies, rewards


def _results(out: Path, gamma: float, probe: Probe, effort: Effort, seed: int, progress: Progress) -> list[Result]:
    """Train and measure everything, the policies watched on their way."""
    policies, rewards = _trials(out, gamma, effort)
    results = []
    for trial in policies:
        watch = Watch(probe, effort.watched)
        with progress.quiet():
            results.append(_trained(trial, out, effort, seed, watch=(watch,), reference="cached"))
        progress.say(f"{trial.name}: true utility {watch.points[-1].utility}, KL {watch.points[-1].kl}")
    for trial in rewards:
        with progress.quiet():
            results.append(_trained(trial, out, effort, seed))
        progress.say(f"{trial.name}: trained and measured")
    return results


def _trained(trial: Trial, out: Path, effort: Effort, seed: int, watch: Sequence[Watch] = (), **options: Any) -> Result:
    """Train from the reference on the graded rows, save, load again and measure."""
    arguments = TrainingArguments(
        output_dir=str(trial.folder),
        per_device_train_batch_size=16,
        num_train_epochs=effort.epochs,
        learning_rate=effort.learning_rate,
        warmup_steps=0.025,
        logging_steps=10,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        seed=seed,
    )
    data, start = str(out / "data" / "train.jsonl"), str(out / "reference")
    trainer = train(start, trial.method, data, arguments, limits=Limits(LONGEST), callbacks=watch, **options)
    points = [point for each in watch for point in each.points]
    return Result(trial, points, Agreement.of(trial.folder, out / "data"), trainer.state.log_history)


def _samples(out: Path, probe: Probe, results: Sequence[Result], number: int = 4) -> list[dict[str, Any]]:
    """Answers to a few held-out prompts by the reference and the last two policies, with what they are truly worth."""
    prompts = probe.prompts[:number]
    folders = {"reference": out / "reference"} | {r.trial.name: r.trial.folder for r in results if r.points}
    shown = []
    for name in ("reference", *list(folders)[-2:]):
        model = AutoModelForCausalLM.from_pretrained(folders[name])
        drawn = sample(model, probe.tokenizer, prompts, seed=0)
        for prompt, text in zip(prompts, drawn.texts, strict=True):
            shown.append({"prompt": prompt, "by": name, "answer": text, "utility": utility(prompt, text)})
    return sorted(shown, key=lambda row: prompts.index(row["prompt"]))


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# ------------------------------------------------------------------------------------------------------ around them


class Progress:
    """Says what is done and how long it took so far; the chatter of the libraries goes to a log."""

    def __init__(self, log: Path) -> None:
        self.log, self.start = log, time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.start

    def say(self, text: str) -> None:
        print(f"[{self.seconds:5.1f} s] {text}", flush=True)

    @contextmanager
    def quiet(self) -> Iterator[None]:
        before = logging.get_verbosity()
        logging.set_verbosity_error()
        try:
            with self.log.open("a", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
                yield
        finally:
            logging.set_verbosity(before)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Matrices this small are multiplied faster by one core than by two that wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _cleared(out: Path) -> Path:
    """The output folder without a former demo."""
    if out.exists() and any(out.iterdir()) and not (out / LOG).is_file():
        raise UserError(f"--out: {out} holds something that is no former demo; name a new or empty folder")
    for name in FOLDERS:
        shutil.rmtree(out / name, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    (out / LOG).write_text("")
    return out
