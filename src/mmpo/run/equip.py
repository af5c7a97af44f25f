"""How a method's model is read: its reference, its teachers, its heads, and the reader that brings them together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from mmpo.batch import Stated
from mmpo.errors import UserError
from mmpo.models import AdapterOff, FrozenCopy, PolicyReader, Reference, RewardReader, load_policy, packed
from mmpo.models.closer import OF_TOKENS, CloseReader
from mmpo.models.committee import CommitteeReader
from mmpo.models.heads import DegreeHead, TokenWeights
from mmpo.models.load import has_dropout, load_tokenizer
from mmpo.models.outputs import OutputsReader, check_prompts, fresh_heads
from mmpo.models.padded import innermost
from mmpo.models.reward import FEATURES
from mmpo.needs import LACKING, TEACHERS, check_reference, check_teachers
from mmpo.types import CLOSE, Method, Reader

OF_DATA = frozenset(LACKING) | {"grades", "votes", "offset"}
"""Needs that data meet, and no model."""

OF_POLICY = frozenset({"logps", "ref", "lengths", "teacher", "teacher_reference"}) | CLOSE
OF_REWARD_MODEL = frozenset({"rewards", "lengths"}) | FEATURES
OF_COMMITTEE = frozenset({"rewards", "lengths", "peer"})
OF_OUTPUTS = frozenset({"outputs", "lengths"})
"""Needs that each reader meets."""


def reference_kind(method: Method, model: Any, given: str | Reference | None) -> str | None:
    """Where the reference's log-probs come from; None for a method that needs none."""
    adapter = hasattr(model, "disable_adapter")
    kind = given if given is None or isinstance(given, str) else "given"
    check_reference("copy" if kind == "given" else kind, method, adapter)
    if kind == "given" and method.looks_closely and not hasattr(given, "at_hand"):
        raise UserError("the method looks at single tokens of the reference; give reference: copy or adapter")
    if kind is None and "ref" in method.needs:
        return "adapter" if adapter else "copy"
    return kind


def reader_of(
    method: Method,
    model: Any,
    tokenizer: Any,
    stated: Stated,
    *,
    voices: int = 1,
    kind: str | None,
    reference: str | Reference | None,
    teachers: Mapping[str, Any],
    statistics: Sequence[str] = (),
    layout: packed.Layout,
    trust_remote_code: bool = False,
) -> Reader:
    """The reader that gives the method all it needs of the model. Raises UserError where the model cannot."""
    check_teachers(method, teachers)
    _check_model(method, layout)
    if method.task == "reward":
        return _reward_reader(method, model, voices)
    live = _reference(kind, model, reference)
    if not method.looks_closely:
        return PolicyReader(live, tuple(statistics))
    if kind == "adapter" and method.probes and type(innermost(model).get_output_embeddings()) is not nn.Linear:
        raise UserError("the adapter changes the head of the policy, which the method compares; take reference: copy")
    if isinstance(live, FrozenCopy) and kind == "given":
        _readable(live.model, tokenizer, layout, "reference")
    return CloseReader(
        live,  # type: ignore[arg-type]
        method.probes,
        _teachers(method, model, tokenizer, teachers, layout, trust_remote_code),
        _heads(method, model, stated.degree),
        tuple(statistics),
        activations="activation_weights" in method.needs,
    )


def _check_model(method: Method, layout: packed.Layout) -> None:
    """Raise UserError where no reader gives all that the method needs of one model."""
    of = OF_POLICY if method.task == "policy" else OF_COMMITTEE if "peer" in method.needs else OF_REWARD_MODEL
    of = OF_OUTPUTS if "outputs" in method.needs else of
    unmet = method.needs - OF_DATA - of
    if unmet or (method.probes and method.task == "reward"):
        raise UserError(
            f"its parts do not go together: a {'policy' if method.task == 'policy' else 'reward model'} gives no "
            f"{', '.join(sorted(unmet)) or 'next-token distribution'} where the method also needs "
            f"{', '.join(sorted(method.needs & of))}"
        )
    if (method.probes or method.needs & (CLOSE - {"tokens"} | FEATURES)) and layout == "padded":
        raise UserError(
            "the method looks at hidden states or at the distribution of every token, which needs packed batches, and "
            "this model is read on padded ones; take another model, or leave layout out if you set it"
        )


def _reward_reader(method: Method, model: Any, voices: int) -> Reader:
    if "outputs" in method.needs:
        return _outputs_reader(method, model, voices)
    if "peer" in method.needs:
        return CommitteeReader(RewardReader())
    asked = frozenset(FEATURES & method.needs) - {"anchors"}
    if "view" in asked and not has_dropout(model):
        raise UserError(
            "the method compares two draws of dropout, and the model has none; set disable_dropout: false, and take a "
            "model whose config has dropout"
        )
    return RewardReader(asked, FrozenCopy.of(model).model if "anchors" in method.needs else None)


def _outputs_reader(method: Method, model: Any, voices: int) -> OutputsReader:
    on_prompt = method.on_prompt(voices)
    check_prompts(model, on_prompt)
    hidden = innermost(model).config.get_text_config().hidden_size
    return OutputsReader(fresh_heads(method.tables(voices), on_prompt, hidden).to(next(model.parameters()).device))


def _reference(kind: str | None, model: Any, given: str | Reference | None) -> Reference | None:
    if kind == "copy":
        return FrozenCopy.of(model)
    if kind == "adapter":
        return AdapterOff()
    return None if isinstance(given, str) else given


def _teachers(
    method: Method, model: Any, tokenizer: Any, given: Mapping[str, Any], layout: packed.Layout, trust_remote_code: bool
) -> dict[str, Any]:
    """The frozen teachers, by role. They must write with the policy's tokenizer."""
    first = next(model.parameters())
    out = {}
    for role in sorted(method.needs & set(TEACHERS)):
        teacher = given[role]
        if isinstance(teacher, str):
            theirs = load_tokenizer(teacher, tokenizer.pad_token, trust_remote_code)
            if theirs.get_vocab() != tokenizer.get_vocab():
                raise UserError(f"the {role} has another vocabulary than the policy; they must share one tokenizer")
            teacher = load_policy(teacher, tokenizer, str(first.dtype).removeprefix("torch."), trust_remote_code)
        _readable(teacher, tokenizer, layout, role)
        out[role] = teacher.to(first.device).requires_grad_(False).eval()
    return out


def _readable(model: Any, tokenizer: Any, layout: packed.Layout, what: str) -> None:
    """Have a model beside the policy read the rows of the policy. Raises UserError where it cannot."""
    if layout != "padded" and not packed.is_enabled(model):
        found, reason = packed.enable(model, tokenizer, layout)
        if found != layout:
            raise UserError(f"the {what} cannot be read on {layout} rows: {reason}; take layout: {found}")


def _heads(method: Method, model: Any, degree: float) -> nn.ModuleDict:
    """Fresh heads for what the method learns beside the policy; ``degree`` is the largest of the variants."""
    config = innermost(model).config.get_text_config()
    heads = nn.ModuleDict()
    if "token_weights" in method.needs:
        layers = config.num_hidden_layers + 1
        heads.update({name: TokenWeights(layers, config.hidden_size) for name in OF_TOKENS})
    if "degree" in method.needs:
        if degree < 0:
            raise UserError("the method needs variants of known degree, and none has one; give each its degree")
        heads["degree"] = DegreeHead(config.hidden_size, round(degree) + 1)
    return heads.to(next(model.parameters()).device)
