"""Numbers gone bad: a NaN or an infinity ends a run before it reaches the weights, and is traced to its data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor, nn

from mmpo.types import Evidence, Outcome, Reading

MENDS = (
    "Usual mends: a lower learning_rate or a longer warm-up; max_grad_norm: 1; bf16 instead of fp16, or fp32; and a "
    "look at those data (mmpo inspect). A changed recipe takes another output_dir"
)

SKIPS = 25
"""Steps in a row that fp16 may skip while it looks for a scale; 65,536 halved so often is far below 1."""

SHOWN = 5
"""How many data, or parameters, a message names."""

Named: TypeAlias = dict[str, list[str]]
"""By datum, which of its numbers are not finite."""


@dataclass
class Numbers:
    """The numbers of a step, or of an evaluation, until they are known to be finite.

    To note them waits for no device: sums are kept, and looked into only where one of them is not finite.
    """

    sums: list[Tensor] = field(default_factory=list)
    seen: list[tuple[Sequence[str], dict[str, Tensor]]] = field(default_factory=list)

    @torch.no_grad()
    def note(self, ids: Sequence[str], evidence: Evidence, outcome: Outcome, reading: Reading) -> None:
        """Note what a micro-batch of data ``ids`` found: losses [B], log-probs or rewards [B, K], margins [B, K, K]."""
        said = {"log-prob": reading.logps, "reference's log-prob": reading.ref_logps, "reward": reading.rewards}
        told = {name: value.detach().masked_fill(~reading.mask, 0) for name, value in said.items() if value is not None}
        told["margin"] = outcome.m.detach().masked_fill(~evidence.compared, 0)
        told["loss"] = outcome.losses.detach()
        # Of a finite sum every term is finite.
        self.sums.append(torch.stack([value.sum(dtype=torch.float32) for value in told.values()]).sum())
        self.seen.append((ids, told))

    def total(self, device: torch.device) -> Tensor:
        """Not finite where any number is not."""
        return torch.stack([x.to(device) for x in self.sums]).sum() if self.sums else torch.zeros((), device=device)

    def bad(self) -> Named:
        """The data with numbers that are not finite, and which those are."""
        found: Named = {}
        for ids, told in self.seen:
            for name, value in told.items():
                # Of several models read at once, the rows stand one model after the other.
                each = value.reshape(-1, len(ids), value[0].numel()).transpose(0, 1).flatten(1)
                for n in (~each.isfinite()).any(-1).nonzero().flatten().tolist():
                    found.setdefault(ids[n], []).append(f"{name} {each[n][~each[n].isfinite()][0].item()}")
        return found

    def ids(self) -> list[str]:
        return [name for ids, _ in self.seen for name in ids]

    def forget(self) -> None:
        self.sums, self.seen = [], []


def gradient_norm(parameters: Iterable[nn.Parameter], device: torch.device) -> Tensor:
    """The norm of the gradients that lie in this process, before anything is clipped: a clip by NaN spreads it."""
    found = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    return (found.full_tensor() if hasattr(found, "full_tensor") else found).to(device)


def bad_gradients(named: Iterable[tuple[str, nn.Parameter]]) -> list[str]:
    """The parameters whose gradient is not finite."""
    return [name for name, p in named if p.grad is not None and not _local(p.grad).isfinite().all()]


def bad_weights(named: Iterable[tuple[str, nn.Parameter]]) -> list[str]:
    """The trained parameters that are not finite."""
    trained = [(name, _local(p.detach())) for name, p in named if p.requires_grad]
    if not trained:
        return []
    finite = torch.stack([weights.isfinite().all() for _, weights in trained]).tolist()
    return [name for (name, _), fine in zip(trained, finite, strict=True) if not fine]


def _local(tensor: Tensor) -> Tensor:
    """What of a tensor lies in this process, where it is divided."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def in_words(
    where: str, data: Named, gradients: Sequence[str], weights: Sequence[str], ids: Sequence[str], left: str
) -> str:
    """The message of a run that ends: where, whose numbers, and what is left.

    Args:
        where: such as "step 7" or "the evaluation at step 8".
        data, gradients, weights: what is not finite, of all processes together.
        ids: all data of the step, named where no single one is to blame.
        left: the last good checkpoint, in words.
    """
    causes = "; ".join(_causes(data, gradients, weights, ids))
    return f"{where}: {causes}. Nothing was saved after it: {left}. {MENDS}"


def _causes(data: Named, gradients: Sequence[str], weights: Sequence[str], ids: Sequence[str]) -> Iterator[str]:
    if data:
        told = [f"datum {name!r} ({', '.join(what)})" for name, what in data.items()]
        yield f"numbers that are not finite, of {_some(told, 'data')}"
    for what, names in (("gradient", gradients), ("weights", weights)):
        if names:
            yield f"the {what} of {_some(names, 'parameters')} {'is' if what == 'gradient' else 'are'} not finite"
    if ids and not data:
        yield f"the log-probs, margins and losses of its data are finite ({_some([repr(x) for x in ids], 'data')})"


def _some(names: Sequence[str], of: str) -> str:
    shown, more = ", ".join(names[:SHOWN]), len(names) - SHOWN
    return f"{shown} and {more} further {of}" if more > 0 else shown
