"""Everything a run needs, brought together and accounted for: model, tokenizer, method, reader, examples, record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback, TrainingArguments, set_seed

from mmpo import methods
from mmpo.batch import Collator, Limits, StoredExamples, Vocabulary, collate, prepare
from mmpo.batch.preparing import Told
from mmpo.batch.stored import Held
from mmpo.data import by_source, fit_gamma
from mmpo.errors import OnBadRow, UserError
from mmpo.models import Reference, cache_reference, packed
from mmpo.models.committee import Committee, second_opinion
from mmpo.models.load import (
    check_length,
    load_tokenizer,
    mixed_precision,
    precision,
    with_pad_token,
)
from mmpo.models.outputs import with_labels
from mmpo.models.packed import Layout
from mmpo.models.quantized import Bits, Quantized, check_can, check_quantize
from mmpo.models.store import ReferenceStore
from mmpo.needs import TEACHERS, Wanted, check_needs, voices_of
from mmpo.recipe import Recipe
from mmpo.run.equip import reader_of, reference_kind
from mmpo.run.gather import Gathered, cores, gather
from mmpo.run.loop import GradedTrainer
from mmpo.run.weights import loaded, made_trainable
from mmpo.scores.voices import weighed
from mmpo.types import Datum, Method, Reader

DEFAULT_LIMITS = Limits()


@dataclass
class Setup:
    """A run that is ready to start.

    ``record`` tells what was loaded, dropped, cut and decided; it becomes run.json. ``account`` says the main of it in
    a few lines for the person who waits. ``autocast`` is the precision in which the run will read its model.
    """

    model: Any
    tokenizer: Any
    method: Method
    reader: Reader
    collator: Collator
    examples: StoredExamples
    eval_examples: StoredExamples
    record: dict[str, Any] = field(default_factory=dict)
    account: list[str] = field(default_factory=list)
    autocast: AbstractContextManager[Any] = field(default_factory=nullcontext)
    vocabulary: Vocabulary | None = None
    head_learning_rate: float | None = None
    watched: Sequence[Datum] = ()
    """The data that a look at the policy is taken on: held out, where there are any."""

    @property
    def voices(self) -> int:
        """How many voices are told apart, the one without a name included."""
        return 1 if self.vocabulary is None else len(self.vocabulary)

    @property
    def limits(self) -> Limits:
        return Limits(**self.record["limits"])

    def trainer(self, args: TrainingArguments, callbacks: Sequence[TrainerCallback] = ()) -> GradedTrainer:
        """The Trainer of this run."""
        return GradedTrainer(
            self.model,
            args,
            method=self.method,
            reader=self.reader,
            tokenizer=self.tokenizer,
            data_collator=self.collator,
            train_dataset=self.examples,
            eval_dataset=self.eval_examples or None,
            voices=self.voices,
            head_learning_rate=self.head_learning_rate,
            callbacks=list(callbacks),
        )

    def with_account(self, given: Gathered, held_out: Gathered) -> Setup:
        """The same, with what became of the data before they came here."""
        self.record |= {
            "data": given.record,
            "eval_data": held_out.record if held_out.data else None,
            "texts": [given.fingerprint, held_out.fingerprint],
        }
        self.watched = held_out.data or given.data
        self.account[:0] = given.account + [f"eval_data: {line}" for line in held_out.account]
        return self


def from_recipe(recipe: Recipe) -> Setup:
    """Load, shape, tokenise and check all that a recipe names."""
    seed = int(recipe.training.get("seed", 42))
    set_seed(seed)
    ready = partial(
        gather,
        shape=recipe.shape,
        seed=seed,
        on_bad_row=recipe.bad_rows,
        method=recipe.parts,
        cache=recipe.data_cache,
        workers=recipe.data_workers,
        voices=recipe.voices,
    )
    if recipe.quantize is not None:
        # Before the data are read, which may take long.
        check_can(recipe.arguments().device.type)
    sources = by_source if voices_of(recipe.parts, recipe.voices) == "subsets" else list
    given = ready(sources(recipe.data))
    held_out = ready(sources(recipe.eval_data), like=given)
    method, gamma = built(recipe.method, given.data)
    setup = bring_together(
        recipe.model,
        method,
        given.data,
        held_out.data,
        lora=recipe.lora,
        quantize=recipe.quantize,
        reference=recipe.reference,
        reference_cache=recipe.reference_cache,
        teachers={role: getattr(recipe, role) for role in TEACHERS},
        layout=recipe.layout,
        micro_batch_tokens=recipe.micro_batch_tokens,
        statistics=tuple(recipe.statistics),
        voices=recipe.voices,
        voice_weights=recipe.voice_weights,
        head_learning_rate=recipe.head_learning_rate,
        limits=recipe.limits,
        pad_token=recipe.pad_token,
        dtype=recipe.dtype,
        disable_dropout=recipe.disable_dropout,
        trust_remote_code=recipe.trust_remote_code,
        on_bad_row=recipe.bad_rows,
        data_workers=recipe.data_workers or cores(),
        offset=given.offset,
        args=recipe.arguments(),
    ).with_account(given, held_out)
    setup.record |= {
        "recipe": recipe.model_dump(mode="json"),
        "method_name": recipe.method["name"],
        "gamma": gamma,
    }
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
    quantize: Bits | None = None,
    reference: str | Reference | None = None,
    reference_cache: Path | str | None = None,
    teachers: Mapping[str, Any] = MappingProxyType({}),
    layout: Layout | None = None,
    micro_batch_tokens: int | None = None,
    statistics: Sequence[str] = (),
    voices: str | None = None,
    voice_weights: Mapping[str, float] | None = None,
    head_learning_rate: float | None = None,
    limits: Limits = DEFAULT_LIMITS,
    pad_token: str | None = None,
    dtype: str | None = None,
    disable_dropout: bool = True,
    trust_remote_code: bool = False,
    on_bad_row: OnBadRow = "error",
    data_workers: int | None = None,
    offset: bool = False,
    args: TrainingArguments | None = None,
) -> Setup:
    """Objects or names -> a Setup. Raises UserError where model, method and data do not fit together.

    Args:
        model: folder, hub id, or a loaded model.
        method: a Method or its name.
        tokenizer: default: the one in the model's folder.
        lora: keys of peft.LoraConfig.
        quantize: "4bit" or "8bit", of a model loaded by name: the frozen base under LoRA is quantised.
        reference: "copy", "adapter" or "cached", or anything that gives reference log-probs; default: the adapter
            switched off where there is one, else a copy of the model.
        reference_cache: folder of the log-probs of "cached" references; default $MMPO_CACHE, else ~/.cache/mmpo.
        teachers: "teacher" and "teacher_reference", each a folder, hub id or model, for methods that learn from one.
        layout: "shared" (packed rows, each prompt once), "separate" (packed, each prompt repeated) or "padded";
            default: the first of them that the model can read.
        micro_batch_tokens: a step's prompts are read and differentiated in parts of at most so many tokens, or one
            prompt; the gradient is that of the whole. Default: 2,048 on a CPU, 8,192 elsewhere.
        statistics: what to read besides log-probs: "entropy", "hits" (argmax hits).
        voices: whose voices are told apart: "annotators", "attributes" or "subsets"; default: what the method says.
        voice_weights: how much each voice counts in the reward of a model with an output for each; default: all alike.
        head_learning_rate: of what is learned beside the model; default: that of the model.
        limits: how long prompts and responses may be.
        pad_token: names the padding token; a new one is added to the vocabulary.
        dtype: of a model loaded by name; default float32.
        disable_dropout: so that policy and reference agree in training as in evaluation. A lora_dropout stays.
        trust_remote_code: whether code that comes with a model loaded by name may be run.
        data_workers: processes that tokenise data that lie on disk; default: the cores that this process may use.
        offset: the data state an additive margin, which the method must use.
        args: the device and the precision of the run; default: as the model stands.
    """
    named = method if isinstance(method, str) else None
    method = methods.build(method) if isinstance(method, str) else method
    if statistics and method.task == "reward":
        raise UserError(f"statistics {', '.join(statistics)} are of a policy; a reward model has none")
    name = model if isinstance(model, str) else model.config.name_or_path
    if tokenizer is None:
        tokenizer = load_tokenizer(name, pad_token, trust_remote_code)
    else:
        tokenizer = with_pad_token(tokenizer, pad_token)
    check_quantize(quantize, lora)
    quantized = None if quantize is None else Quantized.of(quantize, dtype or "float32", args)
    heard = voices_of(method, voices)
    vocabulary = None if heard is None else Vocabulary.of(heard, data)
    told_apart = 1 if vocabulary is None else len(vocabulary)
    if voice_weights is not None:
        method = weighed(method, {} if vocabulary is None else vocabulary.numbers, voice_weights)
    model = loaded(model, tokenizer, method, told_apart, dtype, trust_remote_code, quantized, args)
    outputs: list[str] = []
    if "outputs" in method.needs:
        names = [] if vocabulary is None else list(vocabulary.numbers)
        outputs = with_labels(model, method.score.labels(model.config.num_labels, names))
    model = made_trainable(model, method, lora, disable_dropout, args)
    autocast = mixed_precision(args)
    kind = reference_kind(method, model, reference)
    if reference_cache is not None and kind != "cached":
        raise UserError("reference_cache is the folder of a cached reference; add reference: cached, or leave it out")
    ready = partial(
        prepare,
        tokenizer=tokenizer,
        limits=limits,
        on_bad_row=on_bad_row,
        voices=vocabulary,
        wanted=Wanted.by(method, heard),
        workers=data_workers or cores(),
    )
    examples, told = ready(data)
    stated = check_needs(method, told.stated, offset, heard)
    eval_examples, eval_told = ready(eval_data) if eval_data else (StoredExamples(Held([])), None)
    collator, batching = _batching(model, tokenizer, layout, micro_batch_tokens)
    check_length(model, tokenizer, max(collator.longest(examples), collator.longest(eval_examples)))
    if method.task == "policy" and collator.frame is not None and not model.config.is_decoder:
        raise UserError(f"{name} is an encoder and cannot write; a policy needs a decoder, or take method mmpo_reward")
    account = ["trust_remote_code: code that comes with the models is run"] if trust_remote_code else []
    if voice_weights is not None:
        given = ", ".join(f"{name} {weight:g}" for name, weight in voice_weights.items())
        account.append(f"weights in the reward: {given}{', all others 0' * (len(voice_weights) < told_apart - 1)}")
    if heard == "annotators" and told_apart == 1:
        account.append("nobody is named, so all labels count as one person's; name who gave them (annotator)")
    account += _became(examples, told, f": {', '.join(f'{n} {of}' for of, n in stated.items())}")
    account += _became(eval_examples, eval_told, which="eval_data: ") if eval_told else []
    if batching["layout_reason"] is not None:
        account.append(f"{batching['layout']} batches: {batching['layout_reason']}")
    cache = None
    if kind == "cached":
        (examples, eval_examples), cache = _with_reference(
            model, (examples, eval_examples), collator, reference_cache, autocast
        )
        account.append(
            f"reference log-probs: {cache['computed']} responses computed, the others known in {cache['path']}"
        )
    if "peer" in method.needs:
        # Another seed than the one that drew the first head, or the two would be one model.
        model = Committee(model, second_opinion(model, 1 + (0 if args is None else args.seed)))
    reader = reader_of(
        method,
        model,
        tokenizer,
        told.stated,
        voices=told_apart,
        kind=kind,
        reference=reference,
        teachers=teachers,
        statistics=statistics,
        layout=batching["layout"],
        trust_remote_code=trust_remote_code,
    )
    if head_learning_rate is not None and not getattr(reader, "heads", ()):
        raise UserError("head_learning_rate is of what is learned beside the model, and here is nothing; leave it out")
    record = {
        "task": method.task,
        "base_model": name,
        "trust_remote_code": trust_remote_code,
        "method": repr(method),
        "method_name": named,
        "equation": method.equation,
        "reference": kind,
        "reference_cache": cache,
        **batching,
        "lora": dict(lora) if lora is not None else None,
        "quantize": quantized and quantized.record(),
        "teachers": {role: str(teacher) for role, teacher in teachers.items() if isinstance(teacher, str)},
        "comparisons": stated,
        "voices": heard,
        "outputs": outputs,
        "gamma": None,
        "tokens": told.cuts.as_dict(),
        "eval_tokens": eval_told.cuts.as_dict() if eval_told else None,
        "limits": {"max_length": limits.max_length, "max_prompt_length": limits.max_prompt_length},
    }
    return Setup(
        model,
        tokenizer,
        method,
        reader,
        collator,
        examples,
        eval_examples,
        record,
        account,
        autocast,
        vocabulary,
        head_learning_rate,
    )


def _became(examples: StoredExamples, told: Told, further: str = "", which: str = "") -> list[str]:
    """What became of data on their way to examples, for the person who waits."""
    return [which + line for line in (f"{len(examples)} prompts{further}; {told.cuts.summary()}", *told.left_out())]


def _with_reference(
    model: Any,
    examples: Sequence[StoredExamples],
    collator: Collator,
    folder: Path | str | None,
    autocast: AbstractContextManager[Any],
) -> tuple[list[StoredExamples], dict[str, Any]]:
    """Each of several data sets with its reference log-probs, and for the record where they are kept."""
    with autocast:
        store = ReferenceStore.at(folder, model, precision(model, autocast))
        found = [cache_reference(model, one, collator, store) for one in examples]
    return [one for one, _ in found], {"path": str(store.path), "computed": sum(read for _, read in found)}


def _batching(
    model: Any, tokenizer: Any, layout: Layout | None, micro_batch_tokens: int | None
) -> tuple[Collator, dict[str, Any]]:
    """The collator, and for the record how it lays out a step. All processes follow the first."""
    found = broadcast_object_list([*packed.enable(model, tokenizer, layout or "shared")])
    if found[0] == "padded":
        packed.disable(model)
    if layout is not None and found[0] != layout:
        raise UserError(f"layout is {layout!r}, but the model cannot: {found[1]}; take layout: {found[0]}")
    tokens = micro_batch_tokens or collate.micro_batch_tokens(next(model.parameters()).device.type)
    return Collator.of(tokenizer, found[0] == "shared", tokens), {
        "layout": found[0],
        "layout_reason": None if layout else found[1],
        "micro_batch_tokens": tokens,
    }


def built(recipe_method: Mapping[str, Any], data: Sequence[Datum]) -> tuple[Method, dict[str, Any] | None]:
    """The method of a recipe; ``gamma: auto`` is fitted to the data, and how is returned beside it."""
    name, parameters = recipe_method["name"], {k: v for k, v in recipe_method.items() if k != "name"}
    gamma = None
    if parameters.get("gamma") == "auto":
        fitted = fit_gamma(data)
        parameters["gamma"] = fitted.gamma
        gamma = fitted.as_dict()
    return methods.build(name, **parameters), gamma
