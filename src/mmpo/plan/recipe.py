"""What a recipe says of memory and time: its job, its lengths, its batch."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmpo.batch import prepare
from mmpo.batch.collate import micro_batch_tokens
from mmpo.batch.example import sizes_of
from mmpo.errors import UserError
from mmpo.models.load import load_tokenizer
from mmpo.needs import TEACHERS
from mmpo.plan.blueprint import Blueprint, read_config
from mmpo.plan.hardware import Device
from mmpo.plan.memory import Job
from mmpo.plan.planner import Planner
from mmpo.plan.rows import Lengths, Row
from mmpo.recipe import Recipe
from mmpo.recipe.keys import TRAINING_KEYS, default
from mmpo.run.equip import reference_kind
from mmpo.run.gather import cores, gather

DRAWN = 20_000
"""Prompts of larger data that a plan looks at, beside the longest ones."""


def plan_for(recipe: Recipe, device: Device, row: Row | None = None) -> Planner:
    """What is planned for a recipe on a device; ``row`` where the lengths are stated, and no data are read.

    Raises UserError where the model's config cannot be read.
    """
    job = job_of(recipe, device)
    lengths = Lengths((row,), "stated") if row is not None else lengths_of(recipe)
    return Planner(
        job,
        lengths,
        device,
        int(_training(recipe, "per_device_train_batch_size")),
        int(_training(recipe, "gradient_accumulation_steps")),
    )


def job_of(recipe: Recipe, device: Device) -> Job:
    """All that memory and time hang on, the data and devices apart."""
    method, config = recipe.parts, read_config(recipe.model, recipe.trust_remote_code)
    trust = recipe.trust_remote_code
    quantize = getattr(recipe, "quantize", None)
    model = Blueprint(recipe.model, config, method.task, recipe.dtype, recipe.lora, quantize, trust)
    teachers = [getattr(recipe, role) for role in TEACHERS if role in method.needs]
    beside = [Blueprint(name, read_config(name, trust), "policy", recipe.dtype) for name in teachers]
    if "anchors" in method.needs:
        beside.append(model)
    checkpointing = _training(recipe, "gradient_checkpointing") or _training(recipe, "activation_checkpointing")
    how = _training(recipe, "gradient_checkpointing_kwargs") or _training(recipe, "activation_checkpointing_kwargs")
    return Job(
        model,
        reference_kind(method, model.outline, recipe.reference),
        "bfloat16" if _training(recipe, "bf16") else "float16" if _training(recipe, "fp16") else None,
        str(_training(recipe, "optim")),
        (how or {}) if checkpointing else None,
        recipe.layout or model.anatomy.layout,
        recipe.micro_batch_tokens or micro_batch_tokens(device.kind),
        tuple(beside),
        2 if "peer" in method.needs else 1,
        method.ahead is not None,
    )


def _training(recipe: Recipe, key: str) -> Any:
    """A key of TrainingArguments, by the recipe or by default. Making them all would ask for the hardware named."""
    value = recipe.training[key] if key in recipe.training else default(key) if key in TRAINING_KEYS else None
    return getattr(value, "value", value)


def lengths_of(recipe: Recipe) -> Lengths:
    """The lengths of the prepared data; where they cannot be read, those that the limits allow, and why."""
    try:
        rows, prompts = _prepared(recipe)
    except UserError as error:
        responses = recipe.shape.spread or recipe.shape.max_responses or 2
        prompt = recipe.max_prompt_length or recipe.max_length // 2
        row = (prompt, (recipe.max_length - prompt,) * responses)
        source = f"the most that the limits allow, since the data cannot be read here: {error}"
        return Lengths((row,), f"{responses} responses; {source}")
    return Lengths(tuple(rows), f"those of the data, {prompts:,} prompts", prompts)


def _prepared(recipe: Recipe) -> tuple[Sequence[Row], int]:
    if Path(recipe.model).is_file():
        raise UserError("a config has no tokenizer")
    tokenizer = load_tokenizer(recipe.model, recipe.pad_token, recipe.trust_remote_code)
    given = gather(
        recipe.data,
        recipe.shape,
        int(_training(recipe, "seed")),
        recipe.bad_rows,
        method=recipe.parts,
        cache=recipe.data_cache,
        workers=recipe.data_workers,
        voices=recipe.voices,
    )
    examples, _ = prepare(given.data, tokenizer, recipe.limits, recipe.bad_rows, workers=recipe.data_workers or cores())
    sizes = sizes_of(examples)
    table = list(zip(*(column.tolist() for column in sizes), strict=True))
    if len(table) > DRAWN:
        longest = sorted(table, key=lambda one: one[0] + one[1], reverse=True)[: DRAWN // 100]
        table = random.Random(0).sample(table, DRAWN) + longest
    return [_row(*one) for one in table], len(examples)


def _row(prompt: int, responses: int, longest: int, k: int) -> Row:
    """The longest response is known, and the sum of all; the others are taken to be alike."""
    rest = responses - longest
    return prompt, (longest, *(rest // (k - 1) + (n < rest % (k - 1)) for n in range(k - 1)))
