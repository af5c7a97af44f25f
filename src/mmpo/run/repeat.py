"""A run again, from its record: the same recipe on the same data and the same weights, or a word on what differs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmpo.data.read import content
from mmpo.errors import UserError
from mmpo.recipe import Recipe, check_trust, make_recipe, read_recipe, set_key
from mmpo.run.provenance import versions
from mmpo.run.record import read_record


def recipe_of(path: Path | None, flags: Mapping[str, Any]) -> tuple[Recipe, dict[str, Any]]:
    """The recipe in a YAML file or in the run.json of a run, with flags over it; and that record, empty for YAML.

    Raises UserError where the record holds no recipe: a run that was begun from Python.
    """
    if path is None or path.name != "run.json":
        return read_recipe(path, flags), {}
    record = read_record(path.parent)
    if not record.get("recipe"):
        raise UserError(f"{path}: no recipe stands in it, so this run cannot be repeated from its record")
    if "output_dir" not in flags:
        raise UserError(f"{path}: add --output-dir, the folder for the repeated run")
    recipe: dict[str, Any] = record["recipe"]
    standard = {name: field.get_default(call_default_factory=True) for name, field in Recipe.model_fields.items()}
    kept = {key: value for key, value in recipe.items() if key != "training" and not _same(value, standard[key])}
    told = kept | recipe["training"]
    check_trust(told, flags, str(path))
    for key, value in flags.items():
        set_key(told, key, value, str(path))
    return make_recipe(told, str(path)), record


def _same(value: Any, standard: Any) -> bool:
    return bool(value == (standard.model_dump(mode="json") if hasattr(standard, "model_dump") else standard))


def contents(recipe: Recipe) -> dict[str, str | None]:
    """A hash of what each source holds, by its path."""
    return {source.path: content(source) for source in (*recipe.data, *recipe.eval_data)}


def check_same(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Compare what a repeated run is made of with the record of the first one. Returns what may change its numbers.

    Args:
        before: that record.
        now: the entries ``recipe``, ``contents``, ``texts`` and ``weights`` of the run that is to repeat it. What its
            recipe names otherwise is no repetition and is not compared.

    Raises:
        UserError: a file of data, what was made of the data, or the model is not what it was.
    """
    for path, found in now["contents"].items():
        if before.get("contents", {}).get(path, found) != found:
            raise UserError(f"{path}: it does not hold what the recorded run was trained on; restore it from a copy")
    for key, texts, was in zip(("data", "eval_data"), now["texts"], before.get("texts") or now["texts"], strict=True):
        if now["recipe"][key] == before["recipe"][key] and texts != was:
            raise UserError(f"{key}: there are {texts}, and the recorded run had {was}; restore the data from a copy")
    start = before.get("weights", {}).get("start")
    if now["recipe"]["model"] == before["recipe"]["model"] and start not in (None, now["weights"]["start"]):
        raise UserError(f"model: {now['recipe']['model']} has other weights than the recorded run began with")
    old, new = before.get("versions", {}), versions()
    changed = [f"{name} {old[name]} -> {new.get(name)}" for name in old if old[name] != new.get(name)]
    return (
        [f"other versions than those of the recorded run: {', '.join(changed)}; numbers may differ"] if changed else []
    )
