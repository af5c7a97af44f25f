"""Numbers gone bad, a disk that takes no more, a tracker that is lost: what ends a run, and what does not."""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback
from transformers.integrations.integration_utils import TensorBoardCallback

from mmpo.cli import main
from mmpo.errors import GoneBad, UserError
from mmpo.recipe import Recipe, make_recipe
from mmpo.run import checkpoints, disk
from mmpo.run.finite import Numbers, in_words
from mmpo.run.loop import GradedTrainer
from mmpo.train import train_recipe
from mmpo.types import Outcome, Reading
from tiny import plain, rows_file, saved


@pytest.fixture(scope="module")
def world(tiny_reward: Any, tiny_policy: Any, tiny_tokenizer: Any, tmp_path_factory: Any) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("world")
    return {
        "reward": saved(tiny_reward(0), plain(tiny_tokenizer), folder / "reward"),
        "policy": saved(tiny_policy(0), plain(tiny_tokenizer), folder / "policy"),
        "data": rows_file(folder),
    }


def recipe(world: dict[str, str], folder: Path, **more: Any) -> Recipe:
    settings: dict[str, Any] = {
        "model": world["reward"],
        "data": world["data"],
        "method": "mmpo_reward",
        "output_dir": str(folder),
        "max_steps": 6,
        "per_device_train_batch_size": 3,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_steps": 2,
        "disable_tqdm": True,
    }
    return make_recipe({**settings, **more})


class At(TrainerCallback):
    """Does something to the model before a step."""

    def __init__(self, step: int, what: Callable[[Any], None]) -> None:
        self.step, self.what = step, what

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if state.global_step + 1 == self.step:
            self.what(model)


def status(folder: Path) -> str:
    return str(json.loads((folder / "run.json").read_text())["status"])


# ---------------------------------------------------------------------------------------------- numbers


def test_numbers_are_traced_to_their_data(make_evidence: Any, make_reading: Any) -> None:
    """Three data of two responses: the second has a log-prob that is none, and so a margin and a loss."""
    evidence, reading = make_evidence(3, 2, ties=False), make_reading(3, 2)
    logps = reading.logps.detach().clone()
    logps[1, 0] = -math.inf
    m = torch.zeros(3, 2, 2).index_fill(0, torch.tensor([1]), math.nan)
    losses = torch.tensor([0.5, math.nan, 0.25])
    outcome = Outcome(losses.mean(), losses, m, m, logps, m)
    said = Reading(mask=reading.mask, logps=logps, ref_logps=reading.ref_logps)
    numbers = Numbers()
    numbers.note(["a", "b", "c"], evidence, outcome, said)
    assert not numbers.total(torch.device("cpu")).isfinite()
    assert numbers.bad() == {"b": ["log-prob -inf", "margin nan", "loss nan"]}
    numbers.forget()
    assert numbers.total(torch.device("cpu")) == 0
    assert numbers.bad() == {}


def test_numbers_that_nobody_reads_do_not_count(make_evidence: Any, make_reading: Any) -> None:
    """A response that is not there, and a pair that nobody compared."""
    evidence, reading = make_evidence(1, 2, ties=False), make_reading(1, 2)
    evidence.weight.zero_()
    said = Reading(mask=torch.tensor([[True, False]]), logps=torch.tensor([[-1.0, math.nan]]))
    m, losses = torch.full((1, 2, 2), math.inf), torch.zeros(1)
    numbers = Numbers()
    numbers.note(["a"], evidence, Outcome(losses.mean(), losses, m, m, said.logps, m), said)
    assert numbers.total(torch.device("cpu")).isfinite()
    assert numbers.bad() == {}
    assert reading.mask.all()


def test_many_names_are_counted() -> None:
    told = in_words("step 3", {}, [f"layer.{n}" for n in range(7)], [], ["a", "b"], "there is no checkpoint")
    assert told.startswith(
        "step 3: the gradient of layer.0, layer.1, layer.2, layer.3, layer.4 and 2 further parameters is not finite; "
        "the log-probs, margins and losses of its data are finite ('a', 'b'). Nothing was saved after it"
    )


def spoil_head(model: Any) -> None:
    with torch.no_grad():
        model.score.weight.fill_(math.nan)


def spoil_gradient(model: Any) -> None:
    parameter = model.model.layers[0].mlp.up_proj.weight
    parameter.register_hook(lambda g: g.index_fill(0, torch.tensor([0]), math.inf))


BAD_REWARD = r"step 4: numbers that are not finite, of datum '.*' \(reward nan, margin nan, loss nan\)"
BAD_GRADIENT = r"step 4: the gradient of model\.layers\.0\.mlp\.up_proj\.weight is not finite; .* \('"


@pytest.mark.parametrize(
    ("spoil", "said", "max_grad_norm"),
    [(spoil_head, BAD_REWARD, 1.0), (spoil_gradient, BAD_GRADIENT, 0.5), (spoil_gradient, BAD_GRADIENT, 0.0)],
    ids=("a reward", "a gradient, clipped", "a gradient, not clipped"),
)
def test_a_number_gone_bad_ends_the_run_before_it_is_learned(
    spoil: Any, said: str, max_grad_norm: float, world: dict[str, str], tmp_path: Path
) -> None:
    """Nothing is saved after it, the record says so, and the same command would go on from the last checkpoint."""
    with pytest.raises(GoneBad, match=said) as caught:
        train_recipe(recipe(world, tmp_path / "run", max_grad_norm=max_grad_norm), [At(4, spoil)])
    assert f"the last good checkpoint is {tmp_path}/run/checkpoint-2. Usual mends:" in str(caught.value)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["checkpoint-2", "run.json"]
    assert status(tmp_path / "run") == f"stopped: {caught.value}"
    assert checkpoints.fault(tmp_path / "run" / "checkpoint-2") is None
    if spoil is spoil_head:
        train_recipe(recipe(world, tmp_path / "run", max_grad_norm=max_grad_norm))
        assert status(tmp_path / "run") == "finished"


def test_weights_gone_bad_are_not_saved(world: dict[str, str], tmp_path: Path) -> None:
    """Spoiled between the step and its checkpoint, as an optimiser that overflows would."""

    class Spoil(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            if state.global_step == 4:
                spoil_head(model)

    with pytest.raises(GoneBad, match=r"after step 4: the weights of score\.weight are not finite\. Nothing was saved"):
        train_recipe(recipe(world, tmp_path / "run", save_total_limit=1), [Spoil()])
    assert sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*")) == ["checkpoint-2"]


def test_weights_gone_bad_in_the_last_step_are_no_result(world: dict[str, str], tmp_path: Path) -> None:
    """Where no checkpoint was due after it."""

    class Spoil(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            if state.global_step == 2:
                spoil_head(model)

    with pytest.raises(GoneBad, match=r"after step 2: the weights of score\.weight are not finite"):
        train_recipe(recipe(world, tmp_path / "run", max_steps=2, save_strategy="no", save_steps=None), [Spoil()])
    assert not (tmp_path / "run" / "model.safetensors").exists()
    assert status(tmp_path / "run").startswith("stopped: after step 2")


@pytest.mark.parametrize("when", ["while training", "at the end"])
def test_an_evaluation_gone_bad_ends_the_run(
    when: str, world: dict[str, str], tmp_path: Path, monkeypatch: Any
) -> None:
    evaluate = GradedTrainer.evaluate

    def spoiled(self: GradedTrainer, *given: Any, **further: Any) -> Any:
        spoil_head(self.model)
        return evaluate(self, *given, **further)

    monkeypatch.setattr(GradedTrainer, "evaluate", spoiled)
    often = {"eval_strategy": "steps", "eval_steps": 4} if when == "while training" else {}
    step = 4 if often else 6
    with pytest.raises(GoneBad, match=rf"the evaluation at step {step}: .*reward nan.*the last good checkpoint is"):
        train_recipe(recipe(world, tmp_path / "run", eval_data=world["data"], **often))
    assert not (tmp_path / "run" / "model.safetensors").exists()
    assert status(tmp_path / "run").startswith("stopped: the evaluation")


def test_the_command_line_says_it_in_one_line(
    world: dict[str, str], tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    outcome = GradedTrainer.outcome
    monkeypatch.setattr(
        GradedTrainer,
        "outcome",
        lambda self, model, *rest: (spoil_head(model) if model.training else None) or outcome(self, model, *rest),
    )
    words = ["train", "--model", world["reward"], "--data", world["data"], "--method", "mmpo_reward"]
    with pytest.raises(SystemExit) as caught:
        main([*words, "--output_dir", str(tmp_path / "run"), "--max_steps", "1", "--disable_tqdm", "true"])
    assert caught.value.code == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("mmpo: step 1: numbers that are not finite, of datum '")
    assert "there is no checkpoint" in last


# ---------------------------------------------------------------------------------------------- disks


def in_a_process(work: Callable[[], None]) -> tuple[int, str]:
    """Exit code and stderr of what is done in a process of its own."""
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        os.dup2(write, 2)
        os.close(read)
        sys.stdout, sys.stderr = open(os.devnull, "w"), open(2, "w", closefd=False)  # noqa: SIM115
        code = 1
        try:
            work()
            code = 0
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else 1
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(write)
    with os.fdopen(read, errors="replace") as told:
        text = told.read()
    _, code = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(code), text


@pytest.mark.parametrize("most", [50_000, 150_000], ids=("weights", "optimizer"))
def test_a_file_that_cannot_be_written_whole(most: int, world: dict[str, str], tmp_path: Path) -> None:
    """Weights take 80 kB and the optimiser's state twice that: neither fits under its limit. The line names the disk's
    own reason, and with room again the same command goes on."""
    words = ["train", "--model", world["reward"], "--data", world["data"], "--method", "mmpo_reward"]
    words += ["--output_dir", str(tmp_path / "run"), "--max_steps", "4", "--save_steps", "2", "--disable_tqdm", "true"]

    saves = GradedTrainer._save_checkpoint

    def filled(self: GradedTrainer, *given: Any) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        saves(self, *given)

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        GradedTrainer._save_checkpoint = filled  # type: ignore[method-assign]  # in this process alone
        main(words)

    code, told = in_a_process(limited)
    assert code == 2, told
    last = told.strip().splitlines()[-1]
    assert last.startswith(f"mmpo: {tmp_path}/run/checkpoint-2: cannot be written (File too large); ")
    assert "the same command goes on from it" in last
    code, told = in_a_process(lambda: main(words))
    assert code == 0, told
    starts = json.loads((tmp_path / "run" / "run.json").read_text())["starts"]
    assert list(starts[1]["damaged"]) == ["damaged-checkpoint-2"]


def test_a_folder_that_cannot_be_written_is_seen_before_training(
    world: dict[str, str], tmp_path: Path, monkeypatch: Any
) -> None:
    def refused(self: Path, content: bytes) -> int:
        raise OSError(30, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "write_bytes", refused)
    with pytest.raises(UserError, match=r"run cannot be written \(Read-only file system\); free some space there, or"):
        train_recipe(recipe(world, tmp_path / "run"))


def test_room_is_counted_before_training(tiny_reward: Any, tmp_path: Path, monkeypatch: Any) -> None:
    model = tiny_reward(0)
    weights = 4 * sum(p.numel() for p in model.parameters())
    assert disk.needed(model) == (weights, 3 * weights)
    for room, saves, ok in ((3 * weights, True, False), (3 * weights, False, True), (4 * weights, True, True)):
        monkeypatch.setattr(disk, "free", lambda _, room=room: room)
        if not ok:
            with pytest.raises(UserError, match=r"kB free, and the run needs .*kB \(the trained model, and a c"):
                disk.check_room(tmp_path, model, saves)
        else:
            told = disk.check_room(tmp_path, model, saves)
            assert bool(told) == saves
    monkeypatch.setattr(disk, "free", lambda _: 7 * weights)
    assert disk.check_room(tmp_path, model, True) == []


# ---------------------------------------------------------------------------------------------- trackers


@pytest.mark.parametrize("event", ["on_train_begin", "on_log"])
def test_a_run_outlives_its_tracker(
    event: str, world: dict[str, str], tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    """It fails once, is left out, and the run says so and ends with the weights that it has without."""

    def fail(self: Any, *_: Any, **__: Any) -> None:
        raise ConnectionError("nobody answers")

    train_recipe(recipe(world, tmp_path / "alone"))
    monkeypatch.setattr(TensorBoardCallback, event, fail)
    monkeypatch.setattr("mmpo.recipe.recipe.get_available_reporting_integrations", lambda: ["tensorboard"])
    monkeypatch.setattr(TensorBoardCallback, "__init__", lambda self: None)
    if event == "on_log":
        monkeypatch.setattr(TensorBoardCallback, "on_train_begin", lambda *_, **__: None)
    monkeypatch.setattr(TensorBoardCallback, "on_train_end", lambda *_, **__: None)
    trainer = train_recipe(recipe(world, tmp_path / "run", report_to="tensorboard"))
    step = 0 if event == "on_train_begin" else 1
    why = f"step {step}: ConnectionError: nobody answers"
    assert capsys.readouterr().err.count(f"tracking by tensorboard stopped ({why}); the run goes on without it") == 1
    assert trainer.trackers_lost == {"tensorboard": why}
    assert json.loads((tmp_path / "run" / "run.json").read_text())["trackers_lost"] == {"tensorboard": why}
    alone, lost = (load_file(tmp_path / name / "model.safetensors") for name in ("alone", "run"))
    assert all(torch.equal(alone[name], lost[name]) for name in alone)


def test_a_callback_of_ones_own_fails_as_ever(world: dict[str, str], tmp_path: Path) -> None:
    def fail(model: Any) -> None:
        raise ConnectionError("nobody answers")

    with pytest.raises(ConnectionError):
        train_recipe(recipe(world, tmp_path / "run"), [At(2, fail)])
