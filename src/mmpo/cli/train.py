"""Commands that take a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from mmpo.errors import UserError


def train(
    context: typer.Context,
    recipe: Annotated[Path | None, typer.Argument(help="A YAML recipe; each key is also a flag.")] = None,
) -> None:
    """Train a policy or a reward model: mmpo train RECIPE.yaml [--key value ...].

    A recipe needs the keys model, method, data and output_dir. It may have
    eval_data, max_length, reference, lora, shape, pad_token, on_bad_row and
    every argument of transformers.TrainingArguments, such as learning_rate.
    Each key is also a flag, a key inside a key with a dot, and a flag wins:

    mmpo train --model MODEL --data ratings.jsonl --output-dir runs/mine
    --method.name mmpo --method.gamma 1.1

    The record of a run is a recipe, too: mmpo train runs/mine/run.json
    --output-dir runs/again repeats it, if data and model are the same.
    """
    from mmpo.run.repeat import recipe_of
    from mmpo.train import train_recipe

    path, flags = recipe_and_flags(recipe, context.args)
    done, record = recipe_of(path, flags)
    trainer = train_recipe(done, repeats=record)
    if trainer.is_world_process_zero():
        print(f"trained: {done.output_dir} (model card: README.md, record: run.json)")


def doctor(
    context: typer.Context,
    recipe: Annotated[Path | None, typer.Argument(help="A YAML recipe; each key is also a flag.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Memory and time instead, from a config alone.")] = False,
    plan_gpus: Annotated[str | None, typer.Option(help="With --plan: numbers of GPUs, such as 1,2,8,64.")] = None,
    plan_device: Annotated[
        str | None, typer.Option(help="With --plan: a100-40, a100-80, h100, h200, l40s, 4090 or mi300x.")
    ] = None,
    plan_row: Annotated[
        str | None, typer.Option(help="With --plan: lengths in tokens, 300+4x250 for prompts with four responses.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="With --plan: as JSON.")] = False,
) -> None:
    """Run the self-tests of a recipe without training, or plan its memory and time."""
    from mmpo.recipe import read_recipe

    path, flags = recipe_and_flags(recipe, context.args)
    # Named devices are accelerators, whatever this machine has.
    done = read_recipe(path, flags, accelerator=True if plan and plan_device else None)
    if plan:
        from mmpo.plan.show import planned

        print(planned(done, plan_gpus, plan_device, plan_row, as_json))
        return
    options = {"--plan-gpus": plan_gpus, "--plan-device": plan_device, "--plan-row": plan_row, "--json": as_json}
    for option in (name for name, value in options.items() if value):
        raise UserError(f"{option} would do nothing without --plan; add it")
    from mmpo.run.setup import from_recipe
    from mmpo.train import self_test

    setup = from_recipe(done)
    print(f"{setup.method}\n{setup.method.equation}")
    self_test(setup)


def recipe_and_flags(recipe: Path | None, extra: Sequence[str]) -> tuple[Path | None, dict[str, Any]]:
    """``--key value`` and ``--key=value`` pairs, or ``--key`` alone where it says yes; values are read as YAML."""
    from mmpo.recipe import is_switch, parse_value

    words = list(extra)
    if recipe is not None and str(recipe).startswith("--"):
        words.insert(0, str(recipe))
        recipe = None
    flags: dict[str, Any] = {}
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            raise UserError(f"unexpected argument {word!r}; write keys as --key value")
        key, equals, value = word[2:].partition("=")
        name = key.replace("-", "_")
        if not equals:
            if words and not words[0].startswith("--"):
                value = words.pop(0)
            elif is_switch(name):
                value = "true"
            else:
                raise UserError(f"--{key} has no value; write --{key} VALUE")
        if name in flags:
            raise UserError(f"--{key} is given twice; write several values as a list: --{key} '[A, B]'")
        flags[name] = parse_value(value)
    return recipe, flags
