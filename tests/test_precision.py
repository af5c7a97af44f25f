"""Policy and reference read in the same precision: the first loss is ln 2 in bf16 too, whatever the reference."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainingArguments

from mmpo.train import train
from mmpo.types import Datum

DATA = [Datum(str(n), f"prompt {n}\n", (f"long answer {n} " * 20, f"short {n}"), grades=(1.0, 0.0)) for n in range(4)]


@pytest.mark.parametrize(
    "options", [{}, {"micro_batch_tokens": 1}, {"layout": "padded"}], ids=["row", "alone", "padded"]
)
@pytest.mark.parametrize("reference", ["copy", "cached"])
def test_first_loss_is_ln_2_in_bf16(
    reference: str, options: dict[str, Any], tiny_policy: Any, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    model = tiny_policy(0)
    for parameter in model.parameters():
        # Sharp log-probs, so that bf16 and fp32 readings of the same weights differ visibly.
        parameter.data *= 6 if parameter.dim() > 1 else 1
    args = TrainingArguments(
        str(tmp_path),
        bf16=True,
        use_cpu=True,
        max_steps=1,
        logging_steps=1,
        per_device_train_batch_size=4,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = train(model, "dpo", DATA, args, tokenizer=tiny_tokenizer, reference=reference, **options)
    assert trainer.state.log_history[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert trainer.state.log_history[0]["rewards/chosen"] == pytest.approx(0, abs=1e-6)
