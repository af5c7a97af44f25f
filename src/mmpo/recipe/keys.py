"""The keys of transformers.TrainingArguments in a recipe: which would do nothing, and what the others may be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from enum import Enum
from functools import cache
from typing import Annotated, Any, get_args, get_type_hints

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError
from transformers import TrainingArguments
from transformers.trainer_pt_utils import AcceleratorConfig

from mmpo.errors import UserError, nearest

TRAINING_KEYS = {f.name: f for f in fields(TrainingArguments) if f.init}

_UPLOAD = "a run publishes nothing; when it is done: hf upload NAME OUTPUT_DIR --exclude '*checkpoint-*'"
_SUMS = "an evaluation keeps sums, and no outputs"
_ORDER = "the order of the prompts is random"
_MEASURES = "mmpo evaluate measures a model"
_HALF = "bf16: true reads in half precision, in training and in evaluation"
_FIXED = "how prompts are dealt to processes is fixed, so that results do not depend on it"
_LIGER = "log-probs are read in pieces already, and other kernels in the policy would set it apart from its reference"

IDLE_KEYS = {
    "label_smoothing_factor": "method cdpo smooths labels",
    "resume_from_checkpoint": "a run goes on from the last checkpoint in output_dir by itself",
    "train_sampling_strategy": _ORDER,
    "length_column_name": _ORDER,
    "dataloader_in_order": "batches come in the order in which they were drawn, so that a run can be repeated",
    "do_train": "mmpo train always trains",
    "do_eval": "eval_data and eval_strategy say when to evaluate",
    "do_predict": "mmpo score gives the scores of responses",
    "prediction_loss_only": _MEASURES,
    "include_for_metrics": _MEASURES,
    "batch_eval_metrics": _MEASURES,
    "eval_do_concat_batches": _SUMS,
    "eval_use_gather_object": _SUMS,
    "eval_accumulation_steps": _SUMS,
    "label_names": "mmpo knows its evidence",
    "remove_unused_columns": "the record of a run says which columns were used",
    "average_tokens_across_devices": "the loss is the mean over the prompts of all processes",
    "bf16_full_eval": _HALF,
    "fp16_full_eval": _HALF,
    "use_liger_kernel": _LIGER,
    "liger_kernel_config": _LIGER,
    "optim_target_modules": "lora: {target_modules: ...} trains some layers alone",
    "use_cache": "training reads whole sequences, and keeps nothing for a next token",
    "auto_find_batch_size": "micro_batch_tokens bounds the memory, whatever the batch size",
    "include_num_input_tokens_seen": "run.json counts the tokens",
    "logging_nan_inf_filter": "a run whose loss is not finite is stopped",
    "log_on_each_node": "the first process speaks for all",
    "save_on_each_node": "the first process saves for all; let all machines see output_dir",
    "save_only_model": "a run could not go on from such checkpoints; save_total_limit bounds the space they take",
    "enable_jit_checkpoint": "a run that is told to end (SIGTERM) saves a checkpoint in any case",
    "ignore_data_skip": "a run that goes on sees no prompt twice",
    "restore_callback_states_from_checkpoint": "a run goes on with the state of its callbacks in any case",
    "accelerator_config": _FIXED,
    "parallelism_config": _FIXED,
    "local_rank": "accelerate launch and torchrun number the processes",
    "push_to_hub": _UPLOAD,
    "hub_model_id": _UPLOAD,
    "hub_strategy": _UPLOAD,
    "hub_private_repo": _UPLOAD,
    "hub_always_push": _UPLOAD,
    "hub_revision": _UPLOAD,
    "hub_token": "what a run is told is recorded; set HF_TOKEN in the environment",
}
"""Keys of TrainingArguments that would change nothing here or undo a promise, so that they may not be set; and what to
do instead."""

DONE: dict[str, Any] = {
    "do_train": True,
    "remove_unused_columns": False,
    "restore_callback_states_from_checkpoint": True,
    "accelerator_config": AcceleratorConfig(),
}
"""What happens in any case, where the default of such a key says otherwise."""

FROM_PYTHON = {"average_tokens_across_devices", "do_eval", "local_rank", "train_sampling_strategy"}
"""Keys that arguments from Python may hold: three that TrainingArguments sets by itself, so that nobody knows who did,
and ``sequential`` sampling, for measurements that need one order."""

_LORA = "write lora: {r: 16, ...} with the keys of peft.LoraConfig"
_LAYOUT = "batches are packed; layout says how"
_DATA = "write data, a path, a hub id or a list of them"

OTHER_NAMES = {
    "model_name_or_path": "write model",
    "ref_model_name_or_path": "the reference is the model that training starts from; reference says how it is read",
    "dataset_name": _DATA,
    "train_dataset": _DATA,
    "eval_dataset": "write eval_data",
    "dataset_num_proc": "write data_workers",
    "loss_type": "write method; mmpo methods lists them",
    "label_smoothing": "write method: {name: cdpo, eps: 0.1}",
    "reference_free": "methods such as simpo have no reference",
    "precompute_ref_log_probs": "write reference: cached",
    "torch_dtype": "write dtype for the weights, or bf16: true to compute in bfloat16",
    "attn_implementation": _LAYOUT,
    "padding_free": _LAYOUT,
    "packing": _LAYOUT,
    "max_completion_length": "write max_length and max_prompt_length",
    "use_peft": _LORA,
    **dict.fromkeys(("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "use_rslora", "use_dora"), _LORA),
    "group_by_length": "prompts of like size are put together in any case",
    "overwrite_output_dir": "a run goes on where it was stopped, and for a new one name another output_dir",
    "logging_dir": "set TENSORBOARD_LOGGING_DIR in the environment",
    "save_safetensors": "all weights are saved as safetensors",
    "no_cuda": "write use_cpu",
    "lr": "write learning_rate",
    "batch_size": "write per_device_train_batch_size",
}
"""What other libraries and earlier releases call it, and what to do here."""


def _whole_or_share(value: float) -> float:
    if value >= 1 and value != int(value):
        raise ValueError(f"{value:g} is neither a whole number nor a share below 1")
    return value


def _no_zero(value: int) -> int:
    if value < 1 and value != -1:
        raise ValueError("give at least 1, or leave it out")
    return value


_COUNT = Field(ge=1)
_RATE = Field(ge=0, allow_inf_nan=False)
_MORE = Field(gt=0, allow_inf_nan=False)
_SEED = Field(ge=0, lt=2**32)
_BETA = Field(ge=0, lt=1)

RANGES: dict[str, tuple[Any, ...]] = {
    "per_device_train_batch_size": (_COUNT,),
    "per_device_eval_batch_size": (_COUNT,),
    "gradient_accumulation_steps": (_COUNT,),
    "num_train_epochs": (_MORE,),
    "max_steps": (AfterValidator(_no_zero),),
    "learning_rate": (_MORE,),
    "warmup_steps": (_RATE, AfterValidator(_whole_or_share)),
    "weight_decay": (_RATE,),
    "adam_beta1": (_BETA,),
    "adam_beta2": (_BETA,),
    "adam_epsilon": (_RATE,),
    "max_grad_norm": (_RATE,),
    "neftune_noise_alpha": (_MORE,),
    "logging_steps": (_MORE, AfterValidator(_whole_or_share)),
    "eval_steps": (_MORE, AfterValidator(_whole_or_share)),
    "save_steps": (_MORE, AfterValidator(_whole_or_share)),
    "eval_delay": (_RATE,),
    "save_total_limit": (_COUNT,),
    "torch_empty_cache_steps": (_COUNT,),
    "dataloader_num_workers": (Field(ge=0),),
    "dataloader_prefetch_factor": (_COUNT,),
    "ddp_bucket_cap_mb": (_COUNT,),
    "ddp_timeout": (_COUNT,),
    "seed": (_SEED,),
    "data_seed": (_SEED,),
}
"""What numbers may be, as pydantic's constraints."""


def taken(key: str, value: Any) -> dict[str, Any]:
    """What a key of a recipe says of TrainingArguments; nothing, where it asks for what happens anyway.

    Raises UserError for a key that may not be set, one that other libraries have, and a value that cannot be.
    """
    if key == "warmup_ratio" and value is not None:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
            raise UserError(f"warmup_ratio is {value!r}; give a share of the run, below 1, or warmup_steps")
        key = "warmup_steps"
    if key in IDLE_KEYS:
        if _asks(key, value):
            raise UserError(_refusal(key))
        return {}
    if key in OTHER_NAMES:
        raise UserError(f"{key!r} is no key of a recipe; {OTHER_NAMES[key]}")
    # Nothing at all, as in --num_train_epochs null, takes a key out.
    return {} if value is None else {key: checked(key, value)}


def check_arguments(args: TrainingArguments) -> None:
    """Raise UserError for arguments from Python that nothing would heed, all of them named."""
    own = sorted({f.name for f in fields(args)} - {f.name for f in fields(TrainingArguments)})
    if own:
        raise UserError(
            f"the arguments are a {type(args).__name__}, of which nothing here reads {', '.join(own[:3])}"
            f"{' and others' * (len(own) > 3)}; give transformers.TrainingArguments"
        )
    keys = sorted({*IDLE_KEYS} & {*TRAINING_KEYS} - FROM_PYTHON)
    wrong = [_refusal(key) for key in keys if _asks(key, getattr(args, key))]
    if wrong:
        raise UserError(". Also: ".join(wrong))


def changed(args: TrainingArguments) -> Mapping[str, Any]:
    """The keys whose values are not their defaults, but for two names of one key and what may not be set.

    Nor the size of an evaluation's batch: arguments are made once for runs with and without one.
    """
    two_names = {"activation_checkpointing", "activation_checkpointing_kwargs"}
    keys = TRAINING_KEYS.keys() - IDLE_KEYS.keys() - two_names - {"per_device_eval_batch_size"}
    said = {key: getattr(args, key) for key in sorted(keys)}
    said = {key: value.value if isinstance(value, Enum) else value for key, value in said.items()}
    return {key: value for key, value in said.items() if value != default(key)}


def _asks(key: str, value: Any) -> bool:
    """Whether a key that may not be set asks for anything but what happens anyway."""
    known = [default(key)] if key in TRAINING_KEYS else []
    return value is not None and value not in (*known, DONE.get(key))


def _refusal(key: str) -> str:
    return f"{key!r} may not be set: {IDLE_KEYS[key]}; leave it out"


def checked(key: str, value: Any) -> Any:
    """The value of a key of TrainingArguments, as its type. Raises UserError where it is none or out of range."""
    try:
        if isinstance(value, bool) and bool not in _kinds(key) and str not in _kinds(key):
            raise UserError(f"{key} is {str(value).lower()}; a number is needed")
        for kind in _kinds(key):
            if isinstance(kind, type) and issubclass(kind, Enum):
                known = [str(member.value) for member in kind]
                if str(value) not in known:
                    raise UserError(f"{key} is {value!r}. {nearest(str(value), known)}")
                return str(value)
        return _adapter(key).validate_python(value)
    except ValidationError as error:
        raise UserError(f"{key} is {value!r}; {error.errors()[0]['msg']}") from error


def default(key: str) -> Any:
    """What a key is where nobody says so."""
    field = TRAINING_KEYS[key]
    made = field.default_factory() if field.default_factory is not MISSING else field.default
    return made.value if isinstance(made, Enum) else made


def is_switch(key: str) -> bool:
    """Whether a key of TrainingArguments says yes or no."""
    return key in TRAINING_KEYS and bool in _kinds(key)


@cache
def _hints() -> dict[str, Any]:
    # fsdp is declared a text, and documented and read as a truth value.
    return get_type_hints(TrainingArguments) | {"fsdp": bool | str | None}


@cache
def _kinds(key: str) -> tuple[Any, ...]:
    """The types that a key may have."""
    return get_args(_hints()[key]) or (_hints()[key],)


@cache
def _adapter(key: str) -> TypeAdapter[Any]:
    hint = _hints()[key]
    for constraint in RANGES.get(key, ()):
        hint = Annotated[hint, constraint]
    return TypeAdapter(hint)
