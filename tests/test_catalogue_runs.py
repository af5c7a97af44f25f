"""Every method of the catalogue from a recipe: it trains, goes on where it was stopped, or is refused with a reason."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import TrainingArguments

from mmpo.batch import Limits
from mmpo.data.shape import only_answers
from mmpo.data.write import to_row
from mmpo.errors import UserError
from mmpo.evaluate.scoring import Scorer
from mmpo.methods import CATALOGUE, build
from mmpo.needs import TEACHERS
from mmpo.recipe import read_recipe
from mmpo.train import train, train_recipe
from mmpo.types import Datum, Method
from products import PRODUCTS
from tiny import RICH, VOICED, plain, rows_file, saved

WORLDS = [name for name, entry in CATALOGUE.items() if "errors" in entry.build().needs]
"""Methods for models that do not read text."""

TEXT = [name for name in CATALOGUE if name not in WORLDS]


@pytest.fixture(scope="module")
def base(tmp_path_factory: Any, tiny_policy: Any, tiny_reward: Any, tiny_tokenizer: Any) -> dict[str, str]:
    """Folders of a policy, a teacher and a reward model, and a file of rich rows."""
    folder, tokenizer = tmp_path_factory.mktemp("base"), plain(tiny_tokenizer)
    reward = tiny_reward(0)
    reward.config.attention_dropout = 0.1
    return {
        "policy": saved(tiny_policy(0), tokenizer, folder / "policy"),
        "teacher": saved(tiny_policy(1), tokenizer, folder / "teacher"),
        "reward": saved(reward, tokenizer, folder / "reward"),
        "rows": rows_file(folder, [to_row(datum) for datum in RICH]),
        "voiced": rows_file(folder, [to_row(datum) for datum in VOICED], "voiced.jsonl"),
    }


TEACHERS_AT = {"teacher": "teacher", "teacher_reference": "policy"}


def recipe(name: str, base: dict[str, str], folder: Path, **more: Any) -> Path:
    method = build(name)
    content = {
        # Several outputs are a new head, on the backbone of a policy.
        "model": base["policy" if "outputs" in method.needs else method.task],
        "data": {"path": base["voiced"], "attributes": "all"}
        if {"attributes", "subsets"} & method.needs
        else base["rows"],
        "method": name,
        "output_dir": str(folder / "run"),
        "max_length": 96,
        "max_steps": 2,
        "per_device_train_batch_size": 3,
        "micro_batch_tokens": 150,
        "learning_rate": 1e-2,
        "save_strategy": "steps",
        "save_steps": None if more.get("save_strategy") == "no" else 1,
        "logging_steps": 1,
        "seed": 5,
        "use_cpu": True,
        "disable_tqdm": True,
        **{role: base[where] for role, where in TEACHERS_AT.items() if role in method.needs},
        **({"disable_dropout": False} if "view" in method.needs else {}),
        **more,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize("name", TEXT)
def test_it_trains_and_goes_on(name: str, base: dict[str, str], tmp_path: Path) -> None:
    """Two steps change the weights; killed after the first one, the run ends with the same weights and memory, and the
    model can be scored."""
    path, run = recipe(name, base, tmp_path), tmp_path / "run"
    train_recipe(read_recipe(path))
    weights = load_file(run / "model.safetensors")
    before = load_file(Path(yaml.safe_load(path.read_text())["model"]) / "model.safetensors")
    assert any(not torch.equal(weights[key], before[key]) for key in before.keys() & weights.keys())
    assert all(value.isfinite().all() for value in weights.values())
    memory = (run / "memory.json").read_text() if (run / "memory.json").exists() else None
    assert (memory is not None) == bool(build(name).memory())
    losses = [
        entry["loss"]
        for entry in json.loads((run / "trainer_state.json").read_text())["log_history"]
        if "loss" in entry
    ]
    assert len(losses) == 2
    stopped = json.loads((run / "run.json").read_text())
    for left in run.iterdir():
        if left.name not in ("checkpoint-1", "run.json"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    (run / "run.json").write_text(json.dumps({**stopped, "status": "started"}))
    trainer = train_recipe(read_recipe(path))
    assert trainer.state.global_step == 2
    again = load_file(run / "model.safetensors")
    assert all(torch.equal(again[key], weights[key]) for key in weights)
    assert memory is None or (run / "memory.json").read_text() == memory
    scored = Scorer.load(str(run))([Datum("a", "What?\n", ("This.", "That."), (1.0, 0.0))])
    assert len(scored.rewards[0]) == 2


@pytest.mark.parametrize("name", [name for name in TEXT if "peer" not in build(name).needs])
def test_it_trains_an_adapter(name: str, base: dict[str, str], tmp_path: Path) -> None:
    path = recipe(name, base, tmp_path, lora={"r": 2}, max_steps=1, save_strategy="no")
    train_recipe(read_recipe(path))
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").exists()


@pytest.mark.parametrize("name", WORLDS)
def test_a_method_for_other_worlds_is_refused(name: str, base: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="errors of a denoising model"):
        read_recipe(recipe(name, base, tmp_path))


@pytest.mark.parametrize("method", PRODUCTS.values(), ids=PRODUCTS.keys())
def test_a_product_that_no_paper_has_written_trains(
    method: Method, tiny_policy: Any, tiny_reward: Any, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    """Ten steps on all the data bring the loss of the data down."""
    make = tiny_policy if method.task == "policy" else tiny_reward
    torch.manual_seed(0)
    args = TrainingArguments(
        str(tmp_path),
        max_steps=10,
        per_device_train_batch_size=len(RICH),
        learning_rate=3e-3,
        lr_scheduler_type="constant",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = train(
        make(0),
        method,
        RICH,
        args,
        tokenizer=plain(tiny_tokenizer),
        limits=Limits(96),
        teachers={role: tiny_policy(1) for role in TEACHERS if role in method.needs},
    )
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[-1] < losses[0]


POOR = {
    "marks": "marked spans",
    "prompts": "prompts of their own",
    "contrasts": "contrasts",
    "rationale": "rationales",
    "rollout": "rollouts",
    "variant": "variants",
}


@pytest.mark.parametrize("name", [name for name in TEXT if build(name).needs & POOR.keys()])
def test_poor_data_are_refused(name: str, base: dict[str, str], tmp_path: Path) -> None:
    """Rows with grades and nothing else."""
    (tmp_path / "rows").mkdir()
    with pytest.raises(UserError, match="|".join(POOR[need] for need in build(name).needs & POOR.keys())):
        train_recipe(read_recipe(recipe(name, base, tmp_path, data=rows_file(tmp_path / "rows"))))
    assert not (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize(
    "name", [name for name in TEXT if build(name).needs & {"tokens", "token_weights"} and "ref" in build(name).needs]
)
def test_tokens_are_not_in_a_cached_reference(name: str, base: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="take copy"):
        read_recipe(recipe(name, base, tmp_path, reference="cached"))


@pytest.mark.parametrize("name", [name for name in TEXT if "teacher" in build(name).needs])
def test_a_missing_teacher_is_named(name: str, base: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs a teacher; name its folder"):
        read_recipe(recipe(name, base, tmp_path, teacher=None))


def test_a_teacher_for_nothing_is_refused(base: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no use for a teacher"):
        read_recipe(recipe("dpo", base, tmp_path, teacher=base["teacher"]))


def test_what_a_method_does_not_read_is_counted(base: dict[str, str], tmp_path: Path, capsys: Any) -> None:
    path = recipe(
        "dpo", base, tmp_path, max_steps=1, save_strategy="no", eval_data=base["rows"], shape={"max_pairs": 1}
    )
    train_recipe(read_recipe(path))
    said, record = capsys.readouterr().out, json.loads((tmp_path / "run" / "run.json").read_text())
    assert "responses with the role rollout 8" in said and "eval_data: not read by the method" in said
    gone = record["data"]["shaping"]["not read by the method"]
    assert gone["responses with the role rationale"] == 4 and gone["contrasts"] == 4 and gone["marked responses"] > 0
    # What is beside the answers and not read keeps no datum from being capped.
    assert record["comparisons"]["comparisons"] == len(RICH)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"name": "dpo", "regularizers": [[0.1, {"InfoNCE": {"temperature": 0.1}}]]}, "a policy gives no view"),
        ({"name": "bradley_terry", "regularizers": [[0.1, "MeanImitation"]]}, "a reward model gives no logps"),
        ({"name": "bradley_terry", "regularizers": [[0.1, "ReferenceKL"]]}, "a reward model gives no"),
        ({"name": "crm", "regularizers": [[0.1, "FeatureAnchor"]]}, "gives no anchors, features"),
    ],
)
def test_parts_that_do_not_go_together_are_refused(
    parts: Any, message: str, base: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        train_recipe(read_recipe(recipe(parts["name"], base, tmp_path, method=parts)))


def test_a_teacher_of_another_tokenizer_is_refused(
    base: dict[str, str], tmp_path: Path, tiny_policy: Any, tiny_tokenizer: Any
) -> None:
    other = plain(tiny_tokenizer)
    other.add_tokens(["zebra"])
    teacher = saved(tiny_policy(1), other, tmp_path / "other")
    with pytest.raises(UserError, match="another vocabulary"):
        train_recipe(read_recipe(recipe("dckd", base, tmp_path, teacher=teacher)))


def test_a_step_ahead_wants_the_whole_step(base: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gradient_accumulation_steps: 1"):
        train_recipe(read_recipe(recipe("meta_rm", base, tmp_path, gradient_accumulation_steps=2)))


def test_what_stands_beside_answers_has_no_score(base: dict[str, str]) -> None:
    """And the answers have the scores that they have without it."""
    scorer = Scorer.load(base["reward"])
    rich, bare = scorer(RICH[:2]), scorer([only_answers(datum) for datum in RICH[:2]])
    for datum, row, alone in zip(RICH, rich.rewards, bare.rewards, strict=False):
        assert len(row) == len(datum.responses) and row[: len(alone)] == alone
        assert all(math.isnan(value) for value in row[len(alone) :])


@pytest.mark.parametrize("kind", ("a language model", "a reward model"))
def test_two_reward_models_are_two(kind: str, base: dict[str, str], tmp_path: Path) -> None:
    """Also where both heads are fresh: drawn from one seed they would agree for ever."""
    model = base["policy" if kind == "a language model" else "reward"]
    train_recipe(read_recipe(recipe("crm", base, tmp_path, model=model, max_steps=1, save_strategy="no")))
    first, second = (load_file(tmp_path / "run" / place / "model.safetensors") for place in (".", "peer"))
    assert not torch.equal(first["score.weight"], second["score.weight"])


def test_what_a_target_leaves_out_is_logged(base: dict[str, str], tmp_path: Path) -> None:
    method = {"name": "crm", "noise_rate": 0.4, "window": 8}
    train_recipe(read_recipe(recipe("crm", base, tmp_path, method=method, max_steps=6, save_strategy="no")))
    log = json.loads((tmp_path / "run" / "trainer_state.json").read_text())["log_history"]
    kept = [entry["targets/kept"] for entry in log if "targets/kept" in entry]
    assert kept and all(0 < share < 1 for share in kept) and "targets/kept" not in log[0]


def test_one_teacher_twice_is_refused(base: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to learn"):
        read_recipe(recipe("adpa", base, tmp_path, teacher_reference=base["teacher"]))
