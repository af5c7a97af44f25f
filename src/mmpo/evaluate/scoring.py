"""A trained model and the way to read it: data -> one reward a response, or the margins between the responses."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from mmpo import scores
from mmpo.batch import Collator, Example, Limits, Vocabulary, encode_all
from mmpo.batch.collate import READ_TOKENS
from mmpo.batch.statements import VOCABULARY
from mmpo.data.shape import only_answers
from mmpo.errors import OnBadRow, UserError, nearest
from mmpo.evaluate.recorded import KINDS, recorded_part
from mmpo.evaluate.scored import Scored, Views
from mmpo.models import FrozenCopy, PolicyReader, RewardReader, load_policy, load_reward_model, load_tokenizer, packed
from mmpo.models.load import check_length, load_config, load_preference_model
from mmpo.models.outputs import STATE, OutputsReader, check_prompts, stored_state
from mmpo.models.packed import Layout
from mmpo.models.quantized import Quantized
from mmpo.run.record import read_record, run_of
from mmpo.types import Datum, Reader, Score, nested

READ_AS: dict[str, type[Score]] = {
    "log_ratio": scores.LogRatio,
    "mean_log_ratio": scores.MeanLogRatio,
    "log_prob": scores.LogProb,
    "mean_log_prob": scores.MeanLogProb,
    "preference": scores.SkewSymmetric,
}
"""The ways to read a model other than by its own score. The first four are for policies, "preference" is for sequence
classifiers whose outputs embed a response."""


@dataclass(frozen=True)
class Scorer:
    """A model with its tokenizer, reader, score, limits and layout. ``Scorer.load`` finds them in a run's folder."""

    model: Any
    tokenizer: Any
    reader: Reader
    score: Score
    limits: Limits
    layout: Layout = "padded"
    vocabulary: Vocabulary | None = None
    """The voices that the model tells apart."""

    @classmethod
    def load(
        cls,
        name: str,
        *,
        reference: str | None = None,
        beta: float | None = None,
        read_as: str | None = None,
        max_length: int | None = None,
        max_prompt_length: int | None = None,
        pad_token: str | None = None,
        dtype: str = "float32",
        trust_remote_code: bool = False,
    ) -> Scorer:
        """The scorer of a model folder or hub id.

        A folder written by ``mmpo train`` remembers its task, reference, score and limits in run.json; arguments given
        here win. Another causal language model needs a ``reference`` for its implicit reward (and takes beta 0.1).

        Args:
            read_as: a name of ``READ_AS``, where the model is not to be read by its own score. "log_ratio" and
                "mean_log_ratio" are a policy's implicit reward, summed over tokens and per token; "log_prob" and
                "mean_log_prob" the same without a reference; "preference" reads the 2 k outputs of a sequence
                classifier as the embedding of a general preference model, which compares and gives no rewards.
            beta: the factor of a policy's score; of "preference" the inverse of its temperature, 10 by default.
            trust_remote_code: whether code that comes with a model may be run.

        Raises:
            UserError: where the model cannot be read so, with the reason.
        """
        run = run_of(name)
        record = read_record(run)
        if record.get("status") == "started" and not (Path(name) / "config.json").exists():
            raise UserError(
                f"{name} holds a run that is not finished; train it to its end, or give one of its checkpoints"
            )
        tokenizer = load_tokenizer(name, pad_token, trust_remote_code)
        task = record.get("task") or _task(name, read_as, trust_remote_code)
        score = _score(name, task, record, read_as, beta)
        recorded = record.get("limits", {})
        limits = Limits(
            recorded.get("max_length", 1024) if max_length is None else max_length,
            recorded.get("max_prompt_length") if max_prompt_length is None else max_prompt_length,
        )
        bare = cls(None, tokenizer, RewardReader(), score, limits, vocabulary=Vocabulary.read(run))
        if task == "reward":
            if reference is not None:
                raise UserError(f"{name} is a reward model: it has no reference and no beta")
            return bare._with_classifier(name, dtype, trust_remote_code, read_as is not None)
        if "ref" not in score.needs and reference is not None:
            raise UserError(f"{name} is scored by {type(score).__name__}, which needs no reference; leave it out")
        # The base that the run started from, in as many bits.
        quantized = Quantized.recorded(name) if reference is None else None
        return bare._with_policy(name, reference or _base(name, record), dtype, trust_remote_code, quantized)

    def _with_classifier(self, name: str, dtype: str, trust_remote_code: bool, embeds: bool) -> Scorer:
        """``embeds``: the labels are read as an embedding, however many there are."""
        if embeds and isinstance(self.score, scores.SkewSymmetric):
            model = load_preference_model(name, self.tokenizer, dtype, trust_remote_code)
            score: Score = replace(self.score, dim=model.config.num_labels)
        else:
            outputs, score = self.score.outputs(self.voices), self.score
            model = load_reward_model(name, self.tokenizer, dtype, trust_remote_code, outputs=outputs)
        model = model.to(_device())
        layout = _layout(model, self.tokenizer)
        reader: Reader = RewardReader()
        if "outputs" in score.needs:
            heads, memory = stored_state(Path(name))
            reader = OutputsReader(heads.to(_device()).requires_grad_(False), memory)
            _check_state(name, score, self.voices, reader)
            check_prompts(model, reader.on_prompt)
        return replace(self, model=model, reader=reader, score=score, layout=layout)

    def _with_policy(
        self, name: str, base: str | None, dtype: str, trust_remote_code: bool, quantized: Quantized | None
    ) -> Scorer:
        load = partial(load_policy, tokenizer=self.tokenizer, dtype=dtype, trust_remote_code=trust_remote_code)
        model = load(name, device=_device()).to(_device())
        layout = _layout(model, self.tokenizer)
        if "ref" not in self.score.needs:
            return replace(self, model=model, reader=PolicyReader(), layout=layout)
        if base is None:
            raise UserError(
                f"{name} is a policy: its implicit reward needs the model it was trained from; give --reference, or "
                "--read-as mean_log_prob to read it without one"
            )
        frozen = FrozenCopy(load(base, quantized=quantized, device=_device()).eval().to(_device()))
        if _layout(frozen.model, self.tokenizer, layout) == "separate":
            layout = "separate"
        return replace(self, model=model, reader=PolicyReader(frozen), layout=layout)

    @property
    def voices(self) -> int:
        """How many voices are told apart, the one without a name included."""
        return 1 if self.vocabulary is None else len(self.vocabulary)

    @torch.no_grad()
    def __call__(
        self, data: Sequence[Datum], on_bad_row: OnBadRow = "error", batch_tokens: int = READ_TOKENS
    ) -> Scored:
        """Score every answer once, in batches of like length, with a progress bar.

        Responses beside the answers (rationales, rollouts, variants) are not read: their reward is NaN.
        """
        bare = [only_answers(datum) for datum in data]
        whole = {id(only): datum for only, datum in zip(bare, data, strict=True)}
        kept, cuts = encode_all(bare, self.tokenizer, self.limits, on_bad_row)
        examples = [Example.of(datum, encoded) for datum, encoded in kept]
        collator = Collator.of(self.tokenizer, shared=self.layout == "shared")
        check_length(self.model, self.tokenizer, collator.longest(examples))
        device = next(self.model.parameters()).device
        self.model.eval()
        parts = []
        for chunk in tqdm(collator.chunks(examples, batch_tokens), desc="scoring", unit="batch"):
            reading = self.reader(self.model, collator.batch([examples[n] for n in chunk]).to(device))
            parts.append((chunk, reading.to("cpu")))
        scored = [whole[id(datum)] for datum, _ in kept]
        views = Views(self.score, parts, scored, self.vocabulary)
        shortened = [bool(encoded.prompt_cut or any(encoded.response_cut)) for _, encoded in kept]
        return Scored(scored, views.rewards(), views.lengths(), cuts.as_dict(), views.margins(), shortened, views)


def _device() -> torch.device:
    return torch.accelerator.current_accelerator() or torch.device("cpu")


def _layout(model: Any, tokenizer: Any, most: Layout = "shared") -> Layout:
    """The best layout up to ``most`` that the model can read; a warning says why it must be padded."""
    layout, why = packed.enable(model, tokenizer, most)
    if layout == "padded" and most != "padded":
        warnings.warn(f"batches are padded, which takes longer: {why}", stacklevel=3)
    return layout


def _base(name: str, record: dict[str, Any]) -> str | None:
    """The model that a run started from; where its folder is not found from here, as it lies from the run's folder."""
    base: str | None = record.get("base_model")
    near = run_of(name) / (record.get("base_folder") or "")
    return str(near) if record.get("base_folder") and not Path(base or "").is_dir() and near.is_dir() else base


def _score(name: str, task: str, record: dict[str, Any], read_as: str | None, beta: float | None) -> Score:
    """The score by which a model is read: ``read_as``, else the run's own, each with the beta that was asked for."""
    stored = dict(record.get("score", {"name": "LogRatio", "beta": 0.1}))
    if read_as is not None:
        if read_as not in READ_AS:
            raise UserError(f"read_as: unknown name {read_as!r}. {nearest(read_as, READ_AS)}")
        kind = READ_AS[read_as]
        if task == "reward" and kind is not scores.SkewSymmetric:
            raise UserError(f"{name} is a reward model and has no {read_as}, which is read from a policy; leave it out")
        if task == "policy" and kind is scores.SkewSymmetric:
            raise UserError(f"{name} is a policy: preference reads a sequence classifier; use another --read-as")
        if stored["name"] != kind.__name__:
            stored = {"name": kind.__name__}
    elif task == "reward":
        if beta is not None:
            raise UserError(f"{name} is a reward model: it has no reference and no beta")
        # How a single reward was trained is nothing that reading it depends on.
        own = recorded_part(stored) if stored["name"] in KINDS else scores.Given()
        return own if "outputs" in own.needs else scores.Given()
    if beta is not None and any(f.name == "beta" for f in fields(KINDS.get(stored["name"], scores.Given))):
        stored["beta"] = beta
    part: Score = recorded_part(stored)
    return part


def _check_state(name: str, score: Score, voices: int, reader: OutputsReader) -> None:
    """Raise UserError where what a score reads beside the outputs does not lie beside the model, or is of others."""
    parts = list(nested(score))
    shapes = {key: tuple(shape) for part in parts for key, shape in part.tables(voices).items()}
    shapes |= {key: tuple(value.shape) for part in parts for key, value in part.memory(voices).items()}
    heads = {key for part in parts for key in part.on_prompt(voices)}
    held = {key: tuple(value.shape) for key, value in reader.tables.items()}
    if missing := sorted((shapes.keys() | heads) - (held.keys() | reader.on_prompt.keys())):
        raise UserError(
            f"model: {name} lacks what was learned beside it ({', '.join(missing)}), which its run left in {STATE}; "
            "copy that file there"
        )
    if other := sorted(key for key, shape in shapes.items() if held[key] != shape):
        raise UserError(
            f"model: {name} has {VOCABULARY} with {voices - 1} names, and {STATE} ({', '.join(other)}) is not of "
            "these; copy both files from one run"
        )


def _task(name: str, read_as: str | None, trust_remote_code: bool) -> str:
    """What a model folder of others holds, by the class that wrote it."""
    config = load_config(name, trust_remote_code)
    architecture = (config.architectures or [""])[0]
    if "SequenceClassification" in architecture:
        _check_outputs(name, config.num_labels, read_as)
        return "reward"
    if any(kind in architecture for kind in ("CausalLM", "LMHead", "ConditionalGeneration")):
        return "policy"
    raise UserError(
        f"model: {name} holds {architecture or 'no named architecture'}, neither a reward model nor a policy; a head "
        "that was never trained has no scores"
    )


def _check_outputs(name: str, outputs: int, read_as: str | None) -> None:
    """Several outputs are no reward: which of them, or which difference of them, the model does not say."""
    if outputs > 1 and read_as is None:
        mend = "" if outputs % 2 else "; if they embed a response for comparisons, say --read-as preference"
        raise UserError(
            f"model: {name} has {outputs} labels, and a reward model needs one label: classes, or several attributes, "
            f"have no order that is known here{mend}; in Python, give a function of your own as the scorer"
        )
