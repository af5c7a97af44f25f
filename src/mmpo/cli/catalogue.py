"""Commands that show what there is."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer

from mmpo.cli.options import MOST_SEED
from mmpo.errors import UserError


def methods(
    name: Annotated[str | None, typer.Argument(help="One method; without it, all.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """The catalogue: equation, paper, needs."""
    from mmpo.errors import nearest
    from mmpo.methods import CATALOGUE

    if name is not None and name not in CATALOGUE:
        raise UserError(f"unknown method {name!r}. {nearest(name, CATALOGUE)}")
    entries = [CATALOGUE[name]] if name else list(CATALOGUE.values())
    if as_json:
        print(json.dumps([entry.as_dict() for entry in entries], indent=2))
    elif name:
        print(entries[0].text())
    else:
        for family, members in groupby(entries, lambda entry: entry.family):
            print(f"\n{family}")
            for entry in members:
                print(f"  {entry.name:23s} {entry.build().task:7s} {entry.about.splitlines()[0]}")
        print("\nmmpo methods NAME tells more. Which one to take: docs/methods/choose.md")


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the report and the models.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Seed of the world, the models and the samples.")] = 0,
) -> None:
    """Walk the whole road in minutes, on generated data whose truth is known."""
    from mmpo.demo.run import run

    run(out, seed=seed)
