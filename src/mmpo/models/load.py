"""Models and tokenizers by folder or hub id, ready to train or to score, and saved so that anyone can load them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainingArguments,
)
from transformers.utils import cached_file

from mmpo.errors import UserError, first_line
from mmpo.models.quantized import Quantized, is_quantized, steady


def load_tokenizer(name: str, pad_token: str | None = None, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a model. ``pad_token`` names its padding token; a new one is added to the vocabulary."""
    try:
        found = _found(AutoTokenizer.from_pretrained, name, trust_remote_code=trust_remote_code)
    except UserError:
        raise
    except Exception as error:  # the library of tokenizers has no error of its own for a file that is none
        raise UserError(
            f"model: the tokenizer of {name} cannot be read ({first_line(error)}); save it again"
        ) from error
    return with_pad_token(found, pad_token)


def load_config(name: str, trust_remote_code: bool = False) -> Any:
    """The config of a model."""
    return _found(AutoConfig.from_pretrained, name, trust_remote_code=trust_remote_code)


def with_pad_token(tokenizer: Any, pad_token: str | None = None) -> Any:
    """The tokenizer with this padding token. Raises UserError where it then has none."""
    if pad_token is not None:
        if pad_token not in tokenizer.get_vocab():
            tokenizer.add_special_tokens({"pad_token": pad_token})
        tokenizer.pad_token = pad_token
    if tokenizer.pad_token_id is None:
        raise UserError(
            f"the tokenizer of {tokenizer.name_or_path} has no pad token; name one with pad_token, for example "
            "pad_token: '<|pad|>' (it is added to the vocabulary if it is new)"
        )
    return tokenizer


def load_policy(
    name: str,
    tokenizer: Any,
    dtype: str = "float32",
    trust_remote_code: bool = False,
    quantized: Quantized | None = None,
    device: torch.device | str = "cpu",
) -> Any:
    """A causal language model, fitted to its tokenizer. Raises UserError for a reward model, which would load too.

    ``quantized``: quantise it on this device, where it then stays.
    """
    model = _weights(AutoModelForCausalLM, name, dtype, trust_remote_code, quantized, device)
    if any(made.endswith("ForSequenceClassification") for made in model.config.architectures or ()):
        raise UserError(f"{name} is a reward model, and a policy that writes answers is needed; name one")
    return as_policy(model, tokenizer)


def as_policy(model: Any, tokenizer: Any) -> Any:
    """A loaded language model made a policy. Raises UserError where nothing would tell it to stop."""
    # A tokenizer with a separator is that of an encoder, which is no policy for another reason.
    if tokenizer.eos_token_id is None and tokenizer.sep_token_id is None and not tokenizer.chat_template:
        raise UserError(
            f"the tokenizer of {tokenizer.name_or_path} has neither an end-of-text token nor a chat template, so a "
            "policy would never learn to stop; set eos_token in its tokenizer_config.json"
        )
    return fitted(model, tokenizer)


def load_reward_model(
    name: str,
    tokenizer: Any,
    dtype: str = "float32",
    trust_remote_code: bool = False,
    quantized: Quantized | None = None,
    device: torch.device | str = "cpu",
    outputs: int = 1,
) -> Any:
    """A sequence classifier with so many outputs, from any encoder or decoder; a missing head is initialised.

    ``quantized``: quantise it on this device, where it then stays.
    """
    kind = AutoModelForSequenceClassification
    model = _weights(kind, name, dtype, trust_remote_code, quantized, device, num_labels=outputs)
    return as_reward_model(model, tokenizer, outputs)


def load_preference_model(name: str, tokenizer: Any, dtype: str = "float32", trust_remote_code: bool = False) -> Any:
    """A sequence classifier whose 2 k outputs embed a response, for scores that compare two of them.

    Raises UserError where it has an odd number of outputs.
    """
    model = _weights(AutoModelForSequenceClassification, name, dtype, trust_remote_code)
    if model.config.num_labels % 2:
        raise UserError(
            f"a preference model gives pairs of numbers, but {name} has {model.config.num_labels} "
            f"output{'s' * (model.config.num_labels > 1)}; leave out read_as"
        )
    _check_padding(tokenizer)
    return fitted(model, tokenizer)


def load_encoder(name: str, tokenizer: Any, dtype: str = "float32", trust_remote_code: bool = False) -> Any:
    """A model of any kind without its head, for its hidden states."""
    model = _weights(AutoModel, name, dtype, trust_remote_code)
    _check_padding(tokenizer)
    return fitted(model, tokenizer)


def fitted(model: Any, tokenizer: Any) -> Any:
    """The model with the vocabulary and the pad token of the tokenizer."""
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        if is_quantized(model):
            raise UserError(
                f"the vocabulary of a quantised model cannot grow, and {tokenizer.name_or_path} has "
                f"{len(tokenizer)} tokens; name a pad_token that it has, or leave quantize out"
            )
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def as_reward_model(model: Any, tokenizer: Any, outputs: int = 1) -> Any:
    """A loaded sequence classifier made a reward model.

    ``problem_type`` is set to regression, so that no consumer puts a sigmoid over the raw score.
    Raises UserError where it has not so many labels, or where the token before the padding is the padding token too.
    """
    if model.config.num_labels != outputs:
        gives = "one score" if outputs == 1 else f"{outputs} numbers with this method"
        raise UserError(
            f"a reward model gives {gives}, but {type(model).__name__} has {model.config.num_labels} labels; load it "
            f"with AutoModelForSequenceClassification and num_labels={outputs}"
        )
    _check_padding(tokenizer)
    model.config.problem_type = "regression"
    return fitted(model, tokenizer)


def _check_padding(tokenizer: Any) -> None:
    if tokenizer.pad_token_id == tokenizer.eos_token_id and tokenizer.cls_token_id is None:
        raise UserError(
            f"the tokenizer of {tokenizer.name_or_path} uses its end-of-text token for padding; a reward model would "
            "pool the token before it. Name another pad token, for example pad_token: '<|pad|>'"
        )


def check_length(model: Any, tokenizer: Any, longest: int, mend: str = "") -> None:
    """Raise UserError where a sequence is longer than the model can read; ``mend`` says what to do, if not to cut."""
    most = min(getattr(model.config.get_text_config(), "max_position_embeddings", longest), tokenizer.model_max_length)
    if longest > most:
        raise UserError(
            f"the longest sequence has {longest} tokens and the model reads {most}; {mend or f'set max_length: {most}'}"
        )


def without_dropout(model: Any) -> Any:
    """The model with every dropout set to 0, so that policy and reference agree in training as in evaluation."""
    for module, name in _dropouts(model):
        setattr(module, name, 0.0)
    return model


def has_dropout(model: Any) -> bool:
    """Whether two readings of the model in training differ."""
    return any(getattr(module, name) > 0 for module, name in _dropouts(model))


def _dropouts(model: Any) -> Iterator[tuple[torch.nn.Module, str]]:
    """Every module with a rate of dropout, and the name of that rate."""
    for module in model.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            yield module, "p"
        # Much code calls the function dropout with a rate that the module holds, under many names.
        for name, value in list(vars(module).items()):
            if "drop" in name and isinstance(value, float):
                yield module, name


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise UserError(f"dtype is {name!r}; use float32, bfloat16 or float16")
    return dtype


def _weights(
    kind: Any,
    name: str,
    dtype: str,
    trust_remote_code: bool,
    quantized: Quantized | None = None,
    device: torch.device | str = "cpu",
    **options: Any,
) -> Any:
    """A model from safetensors alone: reading any other format of weights could run what is in it."""

    def load(name: str, **options: Any) -> Any:
        if _only_pickled_adapter(name):
            raise OSError("Error no file named adapter_model.safetensors found")
        model, told = kind.from_pretrained(name, use_safetensors=True, output_loading_info=True, **options)
        _check_whole(name, told["missing_keys"])
        return model

    # A checkpoint of a run on a quantised base is an adapter alone; the finished run has the base with it.
    quantized = quantized or (None if (Path(name) / "config.json").exists() else Quantized.recorded(name))
    if quantized is not None:
        options |= quantized.options(kind is AutoModelForSequenceClassification, device)
    return steady(_found(load, name, dtype=_dtype(dtype), trust_remote_code=trust_remote_code, **options))


def _check_whole(name: str, missing: Iterable[str]) -> None:
    """Raise UserError where a layer lacks weights, for which transformers draws random ones.

    Heads and poolers may be fresh: a reward model is begun with a new head.
    """
    lost = sorted(key for key in missing if re.search(r"\.\d+\.", key))
    if lost:
        raise UserError(
            f"model: {name} lacks {len(lost)} of its weights, such as {lost[0]}; they would be random numbers. Save or "
            "download it again"
        )


def _only_pickled_adapter(name: str) -> bool:
    """Whether a folder or hub id has an adapter, and none as safetensors, where transformers would take a pickle."""
    # What is not there, or cannot be asked for now, is no error yet.
    quietly = {
        f"_raise_exceptions_for_{what}": False for what in ("missing_entries", "connection_errors", "gated_repo")
    }
    files = ("adapter_config.json", "adapter_model.safetensors")
    config, weights = (cached_file(name, file, **quietly) for file in files)
    return config is not None and weights is None


def _found(load: Any, name: str, **options: Any) -> Any:
    path = Path(name)
    if path.is_file():
        raise UserError(f"model: {name} is a file; give the folder of a saved model or a hub id")
    if not path.is_dir() and (path.is_absolute() or name.startswith(".") or len(path.parts) > 2):
        raise UserError(f"model: there is no folder {name}; give the folder of a saved model or a hub id")
    try:
        return load(name, **options)
    except SafetensorError as error:
        raise UserError(f"model: {name} has a damaged file, or one that is no safetensors ({error})") from error
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"model: {_why_not(name, str(error))}") from error
    except (StrictDataclassError, KeyError, TypeError) as error:
        raise UserError(
            f"model: the config of {name}, or of its adapter, holds what none can ({' '.join(str(error).split())}); "
            "download it again"
        ) from error
    except RuntimeError as error:
        if "mismatch" not in str(error):
            raise
        raise UserError(
            f"model: the shapes of the weights in {name!r} are not those of its config; a reward model needs one label"
        ) from error


def _why_not(name: str, said: str) -> str:
    """What keeps a model from being loaded, and the mend, from what transformers says."""
    if "trust_remote_code" in said:
        return (
            f"{name} needs code that comes with it, and such code is not run unasked; read it, and if you trust it "
            "give --trust-remote-code (from Python: trust_remote_code=True)"
        )
    if re.search(r"no file named \S+\.safetensors|does not appear to have a file named \S+\.safetensors", said):
        return (
            f"{name} has no weights as safetensors, and no other format is read, since a pickle (.bin, .pt) can run "
            "what is in it; where you trust it, convert it: load it with transformers and save_pretrained it elsewhere "
            f"({said.strip().splitlines()[0][:300]})"
        )
    what = name if Path(name).is_dir() else f"there is no folder {name} here, and the hub id"
    return f"{what} cannot be loaded ({(said.strip() or 'no reason is given').splitlines()[0][:300]})"


def precision(model: Any, autocast: AbstractContextManager[Any]) -> str:
    """In what a model computes, in words."""
    dtype = next(model.parameters()).dtype
    if isinstance(autocast, torch.autocast):
        return f"{dtype}, autocast {autocast.fast_dtype}"
    return str(dtype)


def mixed_precision(args: TrainingArguments | None) -> AbstractContextManager[Any]:
    """The precision in which the Trainer runs its model, for what happens before it starts."""
    if args is None or not (args.bf16 or args.fp16):
        return nullcontext()
    return torch.autocast(args.device.type, torch.bfloat16 if args.bf16 else torch.float16)
