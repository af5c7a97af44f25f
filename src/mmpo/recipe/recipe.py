"""A recipe: what to train, on what, how. YAML or flags, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from transformers import TrainingArguments
from transformers.integrations import get_available_reporting_integrations, get_reporting_integration_callbacks
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from mmpo.batch import Limits
from mmpo.data import Source
from mmpo.errors import OnBadRow, UserError, bad_row_rule, first_line, nearest
from mmpo.evaluate.health.settings import Health
from mmpo.methods import CATALOGUE, build
from mmpo.models.lora import check_lora
from mmpo.models.quantized import Bits, check_quantize
from mmpo.needs import TEACHERS, check_reference, check_teachers
from mmpo.recipe.keys import IDLE_KEYS, OTHER_NAMES, TRAINING_KEYS, taken
from mmpo.recipe.keys import is_switch as is_training_switch
from mmpo.recipe.partners import Asked, check_processes, check_together, has_accelerator
from mmpo.safe_yaml import read_yaml
from mmpo.types import Method

LENGTHS = ("max_steps", "num_train_epochs")
"""The keys that say how long a run is."""


class Shape(BaseModel):
    """What to do with the data before training; each step is counted in the record.

    Attributes:
        rescale: grades on another scale: log1p for heavy-tailed counts, logit for probabilities, zscore or
            minmax over the data set.
        spread: at most so many responses a datum, every comparison kept, some responses repeated.
        max_responses: at most so many responses a datum, each kept once, comparisons across groups lost.
        max_pairs: at most so many comparisons a prompt.
    """

    model_config = ConfigDict(extra="forbid")

    rescale: Literal["log1p", "zscore", "minmax", "logit"] | None = None
    spread: int | None = Field(default=None, ge=2)
    max_responses: int | None = Field(default=None, ge=2)
    max_pairs: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _capped(self) -> Shape:
        if self.spread and self.max_responses and self.max_responses >= self.spread:
            raise ValueError("max_responses would do nothing beside a spread that is no larger; leave one of them out")
        return self


class Recipe(BaseModel):
    """The keys of a recipe that are not those of TrainingArguments.

    Attributes:
        model: folder or hub id.
        method: ``{name: mmpo, gamma: 2.2}``; ``gamma: auto`` fits it to the data.
        data, eval_data: sources, each a path or ``{path, split, weight, margin, grade, attributes, limit}``.
        task: policy or reward; derived from the method, and checked against it if given.
        reference: where a policy's reference log-probs come from: ``copy`` (a second model), ``adapter`` (LoRA
            switched off) or ``cached`` (computed once, before training). Default: adapter with LoRA, else copy.
        reference_cache: folder for the log-probs of a cached reference, shared between runs.
        teacher, teacher_reference: folder or hub id of the aligned teacher, and of the model it was aligned from, for
            methods that learn from one.
        layout: how prompts and responses are laid out in a batch: ``shared`` (packed, each prompt once), ``separate``
            (packed, each prompt repeated) or ``padded``. Default: the first that the model can read.
        micro_batch_tokens: a step's prompts are worked through in parts of at most so many tokens.
        statistics: what to log of a policy besides: ``entropy``, ``hits``.
        voices: whose voices a method tells apart that can tell some: ``annotators`` (people and judges),
            ``attributes`` (what responses were graded on) or ``subsets`` (parts of the data). Default: the method's.
        voice_weights: how much each voice counts in the reward of a model with an output for each, by name; one that is
            not named counts nothing. Default: all alike.
        head_learning_rate: of what is learned beside the model, such as a table of people; default: learning_rate.
        lora: keys of peft.LoraConfig.
        quantize: the frozen base under LoRA takes 4 or 8 bits a weight (``4bit``, ``8bit``).
        health: how the run is watched beyond what is logged anyway.
        early_stopping_patience: training ends after so many evaluations in which ``metric_for_best_model`` gained no
            more than ``early_stopping_threshold``.
        data_cache: folder of prepared data, shared between runs; default $MMPO_CACHE, else ~/.cache/mmpo.
        data_workers: processes that prepare data; default: one for each core that this run may use.
        on_bad_row: ``error`` stops at the first bad row, ``drop`` leaves bad rows out and counts them.
        max_bad_rows: how many may be dropped, when loading and again when tokenising: a count, or a share below 1,
            rounded up. Default: 0.05.
        trust_remote_code: whether code that comes with a model of this recipe may be run.
        training: keys of transformers.TrainingArguments.
    """

    model_config = ConfigDict(extra="forbid")

    model: str
    method: dict[str, Any]
    data: list[Source] = Field(min_length=1)
    eval_data: list[Source] = []
    task: Literal["policy", "reward"] | None = None
    reference: Literal["copy", "adapter", "cached"] | None = None
    reference_cache: str | None = None
    teacher: str | None = None
    teacher_reference: str | None = None
    layout: Literal["shared", "separate", "padded"] | None = None
    micro_batch_tokens: int | None = Field(default=None, ge=1)
    statistics: list[Literal["entropy", "hits"]] = []
    voices: Literal["annotators", "attributes", "subsets"] | None = None
    voice_weights: dict[str, float] | None = Field(default=None, min_length=1)
    head_learning_rate: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    lora: dict[str, Any] | None = None
    quantize: Bits | None = None
    shape: Shape = Shape()
    health: Health = Health()
    early_stopping_patience: int | None = Field(default=None, ge=1)
    early_stopping_threshold: float = Field(default=0.0, ge=0)
    max_length: int = 1024
    max_prompt_length: int | None = None
    pad_token: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    disable_dropout: bool = True
    trust_remote_code: bool = Field(default=False, strict=True)
    data_cache: str | None = None
    data_workers: int | None = Field(default=None, ge=1)
    on_bad_row: Literal["error", "drop"] = "error"
    max_bad_rows: float | None = None
    training: dict[str, Any]

    @field_validator("method", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("data", "eval_data", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        items = value if isinstance(value, list) else [value]
        sources = [Source.parse(item) for item in items]
        if any(source.feedback == "optional" for source in sources):
            raise UserError("data: feedback: optional is for mmpo score; training needs feedback, so leave it out")
        return sources

    @property
    def bad_rows(self) -> OnBadRow:
        """What a bad row does. Raises UserError for a ceiling where none is let through."""
        return bad_row_rule(self.on_bad_row, self.max_bad_rows)

    @property
    def limits(self) -> Limits:
        return Limits(self.max_length, self.max_prompt_length)

    @property
    def output_dir(self) -> Path:
        return Path(self.training["output_dir"])

    @property
    def parts(self) -> Method:
        """The method before its gamma is fitted to the data: enough to know its parts and needs."""
        given = {key: 1.0 if value == "auto" else value for key, value in self.method.items() if key != "name"}
        return build(str(self.method["name"]), **given)

    def arguments(self) -> TrainingArguments:
        """The TrainingArguments of this recipe."""
        try:
            args = TrainingArguments(**self.training)
            get_reporting_integration_callbacks(args.report_to)
        except (ValueError, TypeError, ImportError) as error:
            raise UserError(f"recipe: {first_line(error)}") from error
        # Or ZeRO 3 would divide the model as it is loaded, before the self-tests and the reference have read it.
        unset_hf_deepspeed_config()
        check_processes(args)
        for tracker in set(args.report_to) - set(get_available_reporting_integrations()) - {"flyte", "kubeflow"}:
            raise UserError(f"recipe: report_to names {tracker!r}, which is not installed; install it, or take it out")
        return args


def read_recipe(path: str | Path | None, overrides: Mapping[str, Any] = {}, accelerator: bool | None = None) -> Recipe:
    """A recipe from YAML and overrides with dotted keys (``method.gamma``). Raises UserError naming key and mend.

    ``accelerator`` says whether the run will have one, where it is another machine's; default: whether there is one.
    """
    where = str(path) if path else "recipe"
    content = _yaml_file(Path(path)) if path else {}
    check_trust(content, overrides, where)
    for key, value in overrides.items():
        if key in LENGTHS:
            # Two names of one thing, of which the flag's is meant.
            content = {name: said for name, said in content.items() if name not in LENGTHS or name in overrides}
        set_key(content, key, value, where)
    return make_recipe(content, where, accelerator)


def check_trust(content: Mapping[str, Any], overrides: Mapping[str, Any], where: str) -> None:
    """Raise UserError where a file lets code in: it may be anybody's, so whoever starts the run has to say that."""
    if content.get("trust_remote_code") not in (None, False) and "trust_remote_code" not in overrides:
        raise UserError(
            f"{where}: code that comes with a model is not run because a file says so; read that code, and if you "
            "trust it start with --trust_remote_code true"
        )


def make_recipe(content: Mapping[str, Any], where: str = "recipe", accelerator: bool | None = None) -> Recipe:
    """A recipe from a flat mapping, in which the keys of TrainingArguments stand beside our own."""
    own = set(Recipe.model_fields) - {"training"}
    ours = {key: value for key, value in content.items() if key in own}
    training: dict[str, Any] = {}
    wrong: list[str] = []
    for key, value in content.items():
        if key in own:
            continue
        try:
            said = _of_training(key, value)
            if said.keys() & training.keys():
                raise UserError("warmup_ratio and warmup_steps say the same thing; give one")
            training |= said
        except UserError as error:
            wrong.append(str(error))
    if wrong:
        raise UserError(f"{where}: {'. Also: '.join(wrong)}")
    for key in ("model", "method", "data"):
        if key not in ours:
            raise UserError(f"{where}: {key!r} is missing; a recipe needs model, method, data and output_dir")
    if "output_dir" not in training:
        raise UserError(f"{where}: 'output_dir' is missing; name the folder for the trained model")
    try:
        recipe = Recipe(**ours, training=_defaults(training))
    except ValidationError as error:
        raise UserError(f"{where}: {_first(error)}") from error
    _check_method(recipe, where)
    _check_training(recipe, training, where, accelerator)
    return recipe


def _of_training(key: str, value: Any) -> dict[str, Any]:
    """What a key that is not ours says of TrainingArguments. Raises UserError naming the mend."""
    if key in {*TRAINING_KEYS, *IDLE_KEYS, *OTHER_NAMES, "warmup_ratio"}:
        return taken(key, value)
    if any(key in entry.parameters for entry in CATALOGUE.values()):
        raise UserError(f"{key!r} is a parameter of the method; write it as method.{key}")
    own = set(Recipe.model_fields) - {"training"}
    raise UserError(f"unknown key {key!r}. {nearest(key, own | {*TRAINING_KEYS} - {*IDLE_KEYS}, listed=own)}")


def is_switch(key: str) -> bool:
    """Whether a key says yes or no, so that as a flag it may stand alone."""
    ours = Recipe.model_fields.get(key)
    return ours.annotation is bool if ours else is_training_switch(key)


def parse_value(text: str) -> Any:
    """The value of a command-line flag, read as YAML."""
    try:
        return read_yaml(text)
    except yaml.YAMLError:
        return text


def _defaults(training: dict[str, Any]) -> dict[str, Any]:
    often = {"logging_steps": 10} if training.get("logging_strategy", "steps") == "steps" else {}
    return {"report_to": "none", **often, "use_cpu": not torch.accelerator.is_available(), **training}


def _check_training(recipe: Recipe, given: Mapping[str, Any], where: str, accelerator: bool | None) -> None:
    """Raise UserError for keys of TrainingArguments that would do nothing in this recipe."""
    patience, metric = recipe.early_stopping_patience, str(given.get("metric_for_best_model", ""))
    if patience is not None and recipe.training.get("eval_strategy", "no") == "no":
        raise UserError(
            f"{where}: early_stopping_patience counts evaluations; add eval_data and eval_strategy: steps or epoch"
        )
    if metric.removeprefix("eval_").startswith("health/answers/") and recipe.health.every is None:
        raise UserError(
            f"{where}: metric_for_best_model is {metric!r}, which looks at what the policy writes, and health.every is "
            "missing; add health: {every: 0.1}, a look each tenth of the run"
        )
    try:
        if accelerator is None:
            accelerator = has_accelerator(bool(recipe.training["use_cpu"]))
        check_together(Asked(given, bool(recipe.eval_data), patience is not None, accelerator))
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _check_method(recipe: Recipe, where: str) -> None:
    if "name" not in recipe.method:
        raise UserError(f"{where}: method has no name; write method: {{name: mmpo, gamma: 2.2}}")
    name = recipe.method["name"]
    try:
        method = recipe.parts
        recipe.bad_rows  # noqa: B018 (a ceiling that would do nothing is refused here)
        check_reference(recipe.reference, method, adapter=recipe.lora is not None)
        check_lora(recipe.lora or {})
        check_quantize(recipe.quantize, recipe.lora)
        check_teachers(method, {role: getattr(recipe, role) for role in TEACHERS})
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    if recipe.reference_cache is not None and recipe.reference != "cached":
        raise UserError(f"{where}: reference_cache needs reference: cached; add it, or leave reference_cache out")
    if recipe.health.every is not None and method.task == "reward":
        raise UserError(f"{where}: health.every has a policy write, and {name!r} trains a reward model; leave it out")
    if recipe.early_stopping_threshold and recipe.early_stopping_patience is None:
        raise UserError(f"{where}: early_stopping_threshold would do nothing without early_stopping_patience; add it")
    if recipe.statistics and method.task == "reward":
        raise UserError(f"{where}: statistics are of a policy, and {name!r} trains a reward model; leave them out")
    if "errors" in method.needs:
        raise UserError(
            f"{where}: method {name!r} reads the errors of a denoising model, and a recipe trains models of text; call "
            "it from Python"
        )
    if recipe.task not in (None, method.task):
        raise UserError(f"{where}: method {name!r} trains a {method.task} model, but task is {recipe.task!r}")


def _yaml_file(path: Path) -> dict[str, Any]:
    try:
        content = read_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give the path of a YAML recipe") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({first_line(error)}); save it as UTF-8") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: a recipe is a mapping of keys to values")
    return content


def set_key(content: dict[str, Any], dotted: str, value: Any, where: str) -> None:
    """Set a key of a recipe, or with dots a key inside a key."""
    *path, last = dotted.split(".")
    for key in path:
        inner = content.setdefault(key, {})
        if key == "method" and isinstance(inner, str):
            inner = content[key] = {"name": inner}
        if not isinstance(inner, dict):
            raise UserError(f"{where}: {key!r} is {inner!r} and no mapping, so {dotted!r} cannot be set")
        content = inner
    content[last] = value


def _first(error: ValidationError) -> str:
    details = error.errors()[0]
    key = ".".join(str(part) for part in details["loc"])
    if details["type"] == "extra_forbidden":
        inner: dict[str, type[BaseModel]] = {"shape": Shape, "health": Health}
        scope = inner.get(str(details["loc"][0]), Recipe).model_fields
        return f"unknown key {key!r}. {nearest(str(details['loc'][-1]), scope)}"
    return f"{key}: {details['msg']}"
