"""Many processes train like one: the same curve, checkpoints for any number of them, a lost process."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    PreTrainedTokenizerFast,
    set_seed,
)

ROOT = Path(__file__).resolve().parents[1]
WORDS = 320
PROMPTS_A_STEP = 8


def world(folder: Path, prompts: int = 45) -> Path:
    """Tiny models with their tokenizer, and graded rows of unlike length."""
    draw = random.Random(1)

    def text() -> str:
        return " ".join(f"w{draw.randrange(3, WORDS)}" for _ in range(draw.randint(2, 30)))

    def row() -> dict[str, Any]:
        k = draw.randint(2, 4)
        grades = [round(draw.random(), 3) for _ in range(k)]
        return {"prompt": text() + " ", "responses": [text() for _ in range(k)], "scores": grades}

    vocabulary = {"<pad>": 0, "<eos>": 1, "<unk>": 2, **{f"w{n}": n for n in range(3, WORDS)}}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
    for name, tied, kind in (
        ("policy", False, AutoModelForCausalLM),
        ("tied", True, AutoModelForCausalLM),
        ("reward", False, AutoModelForSequenceClassification),
    ):
        set_seed(5)
        config = LlamaConfig(
            vocab_size=WORDS,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=tied,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=None,
            num_labels=1,
        )
        kind.from_config(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    for name, count in (("rows", prompts), ("held_out", 11)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row()) + "\n" for _ in range(count)))
    return folder


def recipe(
    world: Path, name: str, processes: int, steps: int, accumulation: int = 1, evaluate: bool = True, **keys: Any
) -> Path:
    """A recipe whose steps are the same however many processes share them. Returns its path."""
    evaluation = {
        "eval_data": str(world / "held_out.jsonl"),
        "per_device_eval_batch_size": PROMPTS_A_STEP // processes,
        "eval_strategy": "steps",
        "eval_steps": 10,
    }
    told = {
        "model": str(world / "policy"),
        "method": {"name": "mmpo", "gamma": 2.2, "beta": 0.1},
        "data": str(world / "rows.jsonl"),
        "output_dir": str(world / "runs" / name),
        "per_device_train_batch_size": PROMPTS_A_STEP // processes // accumulation,
        "gradient_accumulation_steps": accumulation,
        "learning_rate": 1e-3,
        "max_steps": steps,
        "logging_steps": 1,
        "save_strategy": "no",
        "micro_batch_tokens": 100,
        "max_length": 128,
        "use_cpu": True,
        "seed": 5,
        "disable_tqdm": True,
        **(evaluation if evaluate else {}),
        **({"reference_cache": str(world / "cache" / name)} if keys.get("reference") == "cached" else {}),
        **keys,
    }
    path = world / f"{name}.yaml"
    path.write_text(yaml.safe_dump(told))
    return path


def command(recipe: Path, processes: int, *launcher: str) -> list[str]:
    """The front door, through torchrun where there are several processes."""
    fsdp = "fsdp" in yaml.safe_load(recipe.read_text())
    door = [str(ROOT / "soak" / "fsdp_on_cpu.py")] if fsdp else ["-m", "mmpo"]
    launched = ["-m", "torch.distributed.run", *(launcher or ("--standalone",)), "--nproc_per_node", str(processes)]
    return [sys.executable, *(launched if processes > 1 else ()), *door, "train", str(recipe)]


def run(recipe: Path, processes: int, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    return subprocess.run(
        command(recipe, processes), capture_output=True, text=True, timeout=timeout, env=environment, check=False
    )


def curve(recipe: Path) -> dict[str, list[float]]:
    """What was logged at each step, by name: the losses of training, and those of evaluation."""
    folder = Path(yaml.safe_load(recipe.read_text())["output_dir"])
    log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return {name: [entry[name] for entry in log if name in entry] for name in ("loss", "eval_loss", "grad_norm")}
