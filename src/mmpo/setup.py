"""Everything a run needs, brought together and accounted for: model, tokenizer, method, reader, examples, record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from tqdm.auto import tqdm

from mmpo import methods
from mmpo.batch import Collator, Example, Limits, prepare
from mmpo.batch.collate import by_length
from mmpo.data import Loaded, cap_pairs, cap_responses, fit_gamma, load, merge, rescale, shuffle_responses, spread
from mmpo.errors import OnBadRow, UserError
from mmpo.models import AdapterOff, FrozenCopy, PolicyReader, Reference, RewardReader
from mmpo.models.load import load_policy, load_reward_model, load_tokenizer, without_dropout
from mmpo.recipe import Recipe, Shape
from mmpo.types import Datum, Method, Reader

DEFAULT_LIMITS = Limits()


@dataclass
class Setup:
    """A run that is ready to start.

    ``record`` tells what was loaded, dropped, cut and decided; it becomes run.json. ``account`` says the main of it in
    a few lines for the person who waits.
    """

    model: Any
    tokenizer: Any
    method: Method
    reader: Reader
    examples: list[Example]
    eval_examples: list[Example]
    record: dict[str, Any] = field(default_factory=dict)
    account: list[str] = field(default_factory=list)


def from_recipe(recipe: Recipe) -> Setup:
    """Load, shape, tokenise and check all that a recipe names."""
    seed = int(recipe.training.get("seed", 42))
    loaded = load(recipe.data, on_bad_row=recipe.on_bad_row, seed=seed)
    evaluated = load(recipe.eval_data, on_bad_row=recipe.on_bad_row, seed=seed) if recipe.eval_data else None
    data, counts = shaped(loaded.data, recipe.shape, seed)
    method, gamma = built(recipe.method, data)
    setup = bring_together(
        recipe.model,
        method,
        data,
        shaped(evaluated.data, recipe.shape, seed)[0] if evaluated else (),
        lora=recipe.lora,
        reference=recipe.reference,
        limits=recipe.limits,
        pad_token=recipe.pad_token,
        dtype=recipe.dtype,
        disable_dropout=recipe.disable_dropout,
        on_bad_row=recipe.on_bad_row,
        offset=_offset(loaded),
    )
    setup.record |= {
        "recipe": recipe.model_dump(mode="json"),
        "data": {**loaded.ledger.as_dict(), "shaping": counts},
        "eval_data": evaluated.ledger.as_dict() if evaluated else None,
        "gamma": gamma,
    }
    setup.account[:0] = loaded.ledger.summary() + (evaluated.ledger.summary() if evaluated else [])
    if gamma:
        setup.account.append(f"gamma {gamma['gamma']:.4g} ({gamma['kind']}): {gamma['note']}")
    return setup


def bring_together(
    model: Any,
    method: Method | str,
    data: Sequence[Datum],
    eval_data: Sequence[Datum] = (),
    *,
    tokenizer: Any = None,
    lora: Mapping[str, Any] | None = None,
    reference: str | Reference | None = None,
    limits: Limits = DEFAULT_LIMITS,
    pad_token: str | None = None,
    dtype: str = "float32",
    disable_dropout: bool = True,
    on_bad_row: OnBadRow = "error",
    offset: bool = False,
) -> Setup:
    """Objects or names -> a Setup. Raises UserError where the data lack what the method needs."""
    method = methods.build(method) if isinstance(method, str) else method
    name = model if isinstance(model, str) else model.config.name_or_path
    if tokenizer is None:
        tokenizer = load_tokenizer(name, pad_token)
    if isinstance(model, str):
        loader = load_reward_model if method.task == "reward" else load_policy
        model = loader(model, tokenizer, lora, dtype)
    if disable_dropout:
        without_dropout(model)
    examples, cuts = prepare(data, tokenizer, limits, on_bad_row)
    stated = check_needs(method, examples, offset)
    eval_examples, eval_cuts = prepare(eval_data, tokenizer, limits, on_bad_row) if eval_data else ([], None)
    kind: str | None = None
    reader: Reader = RewardReader()
    if method.task == "policy":
        kind = reference if isinstance(reference, str) else _default_reference(method, model, reference)
        if kind == "cached":
            examples = cache_reference(model, examples, tokenizer)
            eval_examples = cache_reference(model, eval_examples, tokenizer)
        reader = PolicyReader(_reference(kind, model, reference))
    record = {
        "task": method.task,
        "base_model": name,
        "method": repr(method),
        "equation": method.equation,
        "reference": kind,
        "comparisons": stated,
        "gamma": None,
        "tokens": cuts,
        "eval_tokens": eval_cuts,
        "limits": {"max_length": limits.max_length, "max_prompt_length": limits.max_prompt_length},
    }
    compared = ", ".join(f"{count} {kind}" for kind, count in stated.items())
    account = [f"{len(examples)} prompts: {compared}", cuts["summary"]]
    return Setup(model, tokenizer, method, reader, examples, eval_examples, record, account)


def shaped(data: Sequence[Datum], shape: Shape, seed: int) -> tuple[list[Datum], dict[str, Any]]:
    """Merge the comparisons of each prompt, then apply the shape; what each step did is counted."""
    out, counts = merge(data)
    done: dict[str, Any] = {"merge": counts}
    if shape.rescale is not None:
        out, done["rescale"] = rescale(out, shape.rescale), shape.rescale
    if shape.spread is not None:
        out, done["spread"] = spread(out, shape.spread, seed)
    if shape.max_responses is not None:
        out, done["max_responses"] = cap_responses(out, shape.max_responses, seed)
    if shape.max_pairs is not None:
        out, done["max_pairs"] = cap_pairs(out, shape.max_pairs, seed)
    return shuffle_responses(out, seed), done


def built(recipe_method: Mapping[str, Any], data: Sequence[Datum]) -> tuple[Method, dict[str, Any] | None]:
    """The method of a recipe; ``gamma: auto`` is fitted to the data, and how is returned beside it."""
    name, parameters = recipe_method["name"], {k: v for k, v in recipe_method.items() if k != "name"}
    gamma = None
    if parameters.get("gamma") == "auto":
        fitted = fit_gamma(data)
        parameters["gamma"] = fitted.gamma
        gamma = fitted.as_dict()
    return methods.build(name, **parameters), gamma


def check_needs(method: Method, examples: Sequence[Example], offset: bool = False) -> dict[str, int]:
    """Refuse a method whose evidence the examples lack; returns the comparisons, and how many are votes or labels."""
    stated = [example.evidence for example in examples]
    counts = {
        "comparisons": _pairs(said.compared for said in stated),
        "with votes": _pairs(~said.vote_share.isnan() & said.compared for said in stated),
        "bare labels": _pairs(said.labels for said in stated),
    }
    if not counts["comparisons"]:
        raise UserError(
            "nobody compared any two responses of a prompt; give scores, votes, ranks or preferred responses"
        )
    if {"grades", "offset"} & method.needs and counts["bare labels"] == counts["comparisons"]:
        raise UserError(
            f"the method needs graded feedback ({method.target.equation}), but all {counts['comparisons']} "
            "comparisons are bare labels, so every target would be the same; use dpo, cdpo or bradley_terry, or give scores or votes"
        )
    if "votes" in method.needs and not counts["with votes"]:
        raise UserError(
            "the method needs votes or probabilities, and the data have none; give votes, p_first or p_chosen"
        )
    if offset and "offset" not in method.needs:
        raise UserError(
            "the column margin was declared an additive offset, which this method does not use; take "
            "margin_bradley_terry or odpo, or declare margin: gap"
        )
    return counts


def _pairs(entries: Iterable[torch.Tensor]) -> int:
    return sum(int(entry.sum()) for entry in entries) // 2


@torch.no_grad()
def cache_reference(model: Any, examples: Sequence[Example], tokenizer: Any) -> list[Example]:
    """Examples with the reference's log-probs, computed once from the model as it stands, adapter off."""
    reference: Reference = AdapterOff() if hasattr(model, "disable_adapter") else FrozenCopy(model)
    collator = Collator.of(tokenizer)
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    out: list[Example] = list(examples)
    for chunk in tqdm(by_length(examples), desc="reference log-probs", unit="batch"):
        logps = reference(model, collator.batch([examples[n] for n in chunk]).to(device)).cpu()
        for row, n in zip(logps, chunk, strict=True):
            out[n] = replace(examples[n], ref_logps=row[: len(examples[n].encoded.responses)])
    model.train(was_training)
    return out


def _default_reference(method: Method, model: Any, given: Reference | None) -> str | None:
    if "ref" not in method.needs:
        return None
    if given is not None:
        return "given"
    return "adapter" if hasattr(model, "disable_adapter") else "copy"


def _reference(kind: str | None, model: Any, given: str | Reference | None) -> Reference | None:
    if kind == "copy":
        return FrozenCopy.of(model)
    if kind == "adapter":
        return AdapterOff()
    return None if isinstance(given, str) else given


def _offset(loaded: Loaded) -> bool:
    return "offset" in loaded.ledger.provides
