"""From a recipe, or from objects, to a trained, measured and recorded model."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from accelerate import PartialState
from transformers import TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_utils import SaveStrategy

from mmpo import methods
from mmpo.doctor import examine
from mmpo.errors import GoneBad, UserError
from mmpo.evaluate.health.begin import watch_over
from mmpo.evaluate.health.callback import HealthCallback
from mmpo.evaluate.health.probe import Gold
from mmpo.evaluate.health.settings import Health
from mmpo.evaluate.health.stopping import check_metric, patience
from mmpo.evaluate.recorded import part_record
from mmpo.models.committee import Committee, save_committee
from mmpo.models.save import save
from mmpo.models.store import weights_digest
from mmpo.recipe import Recipe, Shape
from mmpo.recipe.partners import check_python
from mmpo.run.checkpoints import settle_on
from mmpo.run.disk import check_room, writing
from mmpo.run.gather import cores, gather
from mmpo.run.interrupts import asked_to_leave
from mmpo.run.loop import GradedTrainer
from mmpo.run.processes import accounted_for, of_any_number
from mmpo.run.provenance import peak_memory, saved_weights, surroundings
from mmpo.run.record import STOPPED, check_folder, open_record, usage, write_card, write_memory, write_record
from mmpo.run.repeat import check_same, contents
from mmpo.run.setup import Setup, bring_together, from_recipe
from mmpo.types import Method

IDENTITY = ("base_model", "method", "voices", "reference", "teachers", "lora", "quantize", "limits", "texts")
"""The entries of a run's record that make it this run, beside its arguments."""

NOTHING: Mapping[str, Any] = MappingProxyType({})


@accounted_for()
def train(
    model: Any,
    method: Method | str,
    data: Any,
    args: TrainingArguments,
    *,
    eval_data: Any = (),
    shape: Shape | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    health: Health | None = None,
    gold: Gold | None = None,
    data_cache: Path | str | None = None,
    data_workers: int | None = None,
    **options: Any,
) -> GradedTrainer:
    """Train a policy or a reward model on graded feedback, and leave it in ``args.output_dir``.

    Args:
        model: folder, hub id, or a loaded model (then give ``tokenizer``, unless its folder has one).
        method: a Method such as ``methods.policy.mmpo(gamma=2.2)``, or its name.
        data, eval_data: anything ``mmpo.data.load`` takes, or a list of Datum.
        args: transformers.TrainingArguments; batch sizes count prompts.
        callbacks: of transformers; early stopping is ``mmpo.evaluate.health.stopping.patience(args, 3)``.
        health: how the run is watched beyond what is logged anyway.
        gold: scores answers to prompts, where the policy's looks are to be held against something the training does not
            see; ``health.gold`` names a reward model instead.
        data_cache, data_workers: the folder of prepared data, and how many processes prepare; see
            ``mmpo.run.gather.gather``.
        options: further arguments of ``mmpo.run.setup.bring_together`` (tokenizer, lora, reference, limits ...).

    Raises:
        UserError: the data, the method and the model do not fit together; the message says how to mend it.
    """
    check_python(args, eval_data, callbacks)
    set_seed(args.seed)
    ready = partial(
        gather,
        shape=shape or Shape(),
        seed=args.seed,
        on_bad_row=options.get("on_bad_row", "error"),
        method=methods.build(method) if isinstance(method, str) else method,
        cache=data_cache,
        workers=data_workers,
        voices=options.get("voices"),
    )
    given = ready(data)
    held_out = ready(eval_data, like=given)
    options |= {"offset": given.offset, "args": args, "data_workers": data_workers or cores()}
    setup = bring_together(model, method, given.data, held_out.data, **options).with_account(given, held_out)
    identity = {
        **{key: setup.record[key] for key in IDENTITY},
        "arguments": of_any_number(json.loads(args.to_json_string()), setup.method.coupled),
    }
    return fit(setup, args, identity, callbacks, watch_over(setup, health or Health(), gold))


@accounted_for()
def train_recipe(
    recipe: Recipe,
    callbacks: Sequence[TrainerCallback] = (),
    gold: Gold | None = None,
    repeats: Mapping[str, Any] = NOTHING,
) -> GradedTrainer:
    """Train what a recipe says. Run again, it goes on from the last checkpoint.

    Args:
        gold: as in ``train``.
        repeats: the record of a run that is to be repeated; data and weights must be those that it had.
    """
    # How a step is laid out changes nothing but time and memory, so that a run may go on in smaller parts. A method
    # that compares the data of a micro-batch is the exception.
    alike = {"layout", "reference_cache", "data_cache", "data_workers"}
    alike |= set() if recipe.parts.coupled else {"micro_batch_tokens"}
    identity = recipe.model_dump(mode="json", exclude=alike)
    identity["training"] = of_any_number(identity["training"], recipe.parts.coupled)
    check_folder(recipe.output_dir, identity)
    args = recipe.arguments()
    setup = from_recipe(recipe)
    setup.record["contents"] = contents(recipe)
    watch = watch_over(setup, recipe.health, gold)
    if recipe.early_stopping_patience is not None:
        callbacks = [*callbacks, patience(args, recipe.early_stopping_patience, recipe.early_stopping_threshold)]
    stated = recipe.training.get("greater_is_better") is not None
    return fit(setup, args, {**identity, "texts": setup.record["texts"]}, callbacks, watch, stated, repeats)


def fit(
    setup: Setup,
    args: TrainingArguments,
    identity: dict[str, Any],
    callbacks: Sequence[TrainerCallback] = (),
    watch: HealthCallback | None = None,
    direction_stated: bool = True,
    repeats: Mapping[str, Any] = NOTHING,
) -> GradedTrainer:
    """Self-tests, training (from the last whole checkpoint if there is one), measuring, saving.

    Raises:
        UserError: the self-tests fail, or the disk takes no more.
        GoneBad: a number is NaN or infinite; the last good checkpoint stays as it is.
        Stopped: it was asked to leave, and has saved where it was.
    """
    folder = Path(str(args.output_dir))
    first = args.process_index == 0
    for line in setup.account if first else ():
        print(line)
    known = _known(setup, folder, self_test(setup))
    told = check_room(folder, setup.model, args.save_strategy != SaveStrategy.NO) if first else []
    found = settle_on(folder, first, args.world_size > 1, args.load_best_model_at_end)
    record: dict[str, Any] = {}
    if first:
        known["weights"] = {"start": weights_digest(setup.model)}
        told += check_same(repeats, known) if repeats else []
        start = {"from": found.checkpoint, "damaged": found.damaged, **surroundings(args)}
        with writing(folder, setup.model):
            record = open_record(folder, identity, known, start)
            if setup.vocabulary is not None and "outputs" in setup.method.needs:
                setup.vocabulary.write(folder)
        for line in told + found.told:
            print(line)
    watch = watch or HealthCallback()
    # Early stopping reads what the watch adds to an evaluation.
    trainer = setup.trainer(args, [watch, *callbacks])
    watch.attach(trainer)
    if setup.eval_examples and args.metric_for_best_model is not None:
        check_metric(args, trainer.measures(setup.eval_examples[0]) | watch.names, direction_stated)
    try:
        with asked_to_leave(trainer):
            result = trainer.train(resume_from_checkpoint=found.checkpoint)
        with writing(folder, setup.model):
            trainer.save_metrics("train", result.metrics)
            measured = trainer.evaluate() if setup.eval_examples else {}
            if measured:
                trainer.save_metrics("eval", measured)
            trainer.save_state()
            _save(trainer, setup, folder)
            if first:
                if trainer.method_state.memory:
                    write_memory(folder, trainer.method_state.memory, setup.vocabulary)
                watch.write(folder)
                _leave_record(trainer, folder, record, {**result.metrics, **measured}, watch)
    except GoneBad as error:
        if first:
            write_record(folder, {**record, "status": f"{STOPPED}{error}"})
        raise
    if first:
        for line in watch.lines():
            print(line)
        if kept := _kept(trainer):
            print(f"kept: {kept}")
    trainer.accelerator.wait_for_everyone()
    return trainer


def _save(trainer: GradedTrainer, setup: Setup, folder: Path) -> None:
    """The trained model into the folder of its run, which no half of it is seen in."""
    draft = folder / "unfinished"
    trained = trainer.whole()
    if trainer.args.should_save:
        (save_committee if isinstance(trained, Committee) else save)(trained, setup.tokenizer, draft)
        if "outputs" in setup.method.needs:
            trainer.method_state.save(draft)
        for path in draft.iterdir():
            if (folder / path.name).is_dir():
                shutil.rmtree(folder / path.name)
            path.replace(folder / path.name)
        draft.rmdir()


def self_test(setup: Setup) -> list[str]:
    """Run the doctor's checks and say the result. A failure that would train something else than asked is an error."""
    findings = examine(setup)
    for finding in findings if PartialState().is_main_process else ():
        print(finding)
    broken = [finding for finding in findings if finding.fatal and not finding.passed]
    if broken:
        raise UserError(f"the self-test failed, nothing was trained. {broken[0]}")
    return [str(finding) for finding in findings]


def _known(setup: Setup, folder: Path, tested: list[str]) -> dict[str, Any]:
    """What is known of a run before its first step."""
    base = setup.record["base_model"]
    return {
        "name": folder.name,
        **setup.record,
        "called": _called(setup),
        "base_folder": os.path.relpath(base, folder) if base and Path(base).is_dir() else None,
        "score": part_record(setup.method.score.plain),
        "target": part_record(setup.method.target),
        "prompts": len(setup.examples),
        "self_test": tested,
        "citation": methods.cite(setup.method, setup.record["method_name"]),
        "usage": usage(setup.tokenizer, setup.method.task, setup.record["outputs"]),
    }


def _called(setup: Setup) -> str:
    """The method as people call it: its name with the parameters that were given, or the names of its parts."""
    recipe = setup.record.get("recipe") or {"method": {"name": setup.record["method_name"]}}
    given = {key: value for key, value in recipe["method"].items() if key != "name"}
    parts = " x ".join(type(part).__name__ for part in setup.method.parts)
    return ", ".join([recipe["method"]["name"] or parts, *(f"{key} {value}" for key, value in given.items())])


def _leave_record(
    trainer: GradedTrainer, folder: Path, record: dict[str, Any], metrics: dict[str, float], watch: HealthCallback
) -> None:
    record = {
        **record,
        "status": "finished",
        "weights": {**record["weights"], "result": saved_weights(folder)},
        "seed": trainer.args.seed,
        "arguments": trainer.args.to_sanitized_dict(),
        "steps": trainer.state.global_step,
        "epochs": round(trainer.state.epoch or 0.0, 4),
        "kept": _kept(trainer),
        "metrics": metrics,
        "health": [str(vital) for vital in watch.vitals],
        "trackers_lost": trainer.trackers_lost,
        "peak_memory": peak_memory(),
    }
    # Last, what says that nothing is missing.
    write_card(folder, record)
    write_record(folder, record)


def _kept(trainer: GradedTrainer) -> str | None:
    """Which model was kept, where it is that of the best evaluation."""
    args, state = trainer.args, trainer.state
    if not args.load_best_model_at_end or state.best_global_step is None:
        return None
    metric = f"eval_{str(args.metric_for_best_model).removeprefix('eval_')}"
    return f"the model of step {state.best_global_step} of {state.global_step}, {metric} {state.best_metric:.4g}"
