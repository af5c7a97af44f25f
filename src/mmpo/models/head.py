"""The language-model head: log-probs of tokens from hidden states, without ever holding the logits of all of them.

M tokens, H hidden units, V words in the vocabulary. The [M, V] logits of a policy are often its largest tensor by far.
Here they are made a chunk of rows at a time, and of each row only the log-prob of its label is kept, with on request a
statistic or two. The logits of the last chunk stay for the backward pass, which makes those of the others anew: tokens
that fit into one chunk are computed once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

STATISTICS = ("entropy", "hits")
"""What can be asked of the distribution over the next token besides the log-prob of the label."""

CHUNK_BYTES = {"cpu": 128 * 2**20, "cuda": 512 * 2**20}
"""Logits that live at once, counted in fp32, where the caller does not say: on a GPU every chunk reads the whole weight
and adds to its whole gradient, which small chunks do not earn back."""

BLOCKS = 16
"""A full chunk is normalised in so many blocks of rows: their working copies stay in cache and add little to memory."""

_spare: deque[Tensor] = deque(maxlen=1)
"""The memory of the last chunk on CPU, for the next one: the kernel takes longer to hand out fresh pages than the
matrix product to fill them. Who takes it owns it; who finds none allocates; it comes back after use or not at all."""


@dataclass(frozen=True)
class TokenReadings:
    """What a language model says of M tokens.

    Attributes:
        logps: [M] log-probs of the labels in nats, fp32, with gradient.
        entropy: [M] entropy of the next token in nats, fp32, without gradient; None unless asked for.
        hits: [M] bool, whether the label is the most likely token; None unless asked for.
    """

    logps: Tensor
    entropy: Tensor | None = None
    hits: Tensor | None = None

    @classmethod
    def joined(cls, parts: Sequence[TokenReadings], order: Tensor | None = None) -> TokenReadings:
        """Parts one after the other, and then in the given order: entry n is the ``order[n]``-th of all."""

        def column(values: list[Tensor]) -> Tensor:
            joined = torch.cat(values)
            return joined if order is None else joined[order]

        entropy = [part.entropy for part in parts if part.entropy is not None]
        hits = [part.hits for part in parts if part.hits is not None]
        return cls(
            column([part.logps for part in parts]),
            column(entropy) if entropy else None,
            column(hits) if hits else None,
        )


def linear_log_probs(
    hidden: Tensor,
    labels: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    scale: float = 1.0,
    cap: float | None = None,
    statistics: Collection[str] = (),
    chunk_bytes: int | None = None,
) -> TokenReadings:
    """Log-probs of labels under a linear head: log softmax(logits)[label], logits = scale * (hidden @ weight.T + bias).

    With ``cap`` (neither None nor 0) the logits are cap * tanh(logits / cap), as in Gemma 2. Under autocast the matrix
    products run in its dtype, the softmax in fp32; gradients come in the dtype of what they belong to, and sums over
    chunks are made in fp32. Gradients are made only for what requires them, and once: there is no second derivative.

    Besides the logits of one chunk (two bytes each in bf16), working copies of up to a fifth of it live at once.

    Args:
        hidden: [M, H].
        labels: [M] int64, in [0, V).
        weight: [V, H].
        bias: [V], or None.
        scale: factor on the logits.
        cap: bound of the logits, in nats.
        statistics: which of ``STATISTICS`` to read as well.
        chunk_bytes: size of a chunk's logits in fp32, or None for ``CHUNK_BYTES``; a chunk has at least one row.

    Raises:
        ValueError: an unknown statistic.
    """
    _check(statistics)
    inputs = (hidden, weight, bias)
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)
    return TokenReadings(
        *_linear(
            *inputs, labels, _Head(scale, cap or None, _dtype(hidden), _size(chunk_bytes, hidden)), statistics, keep
        )
    )


def log_probs_through(
    logits_of: Callable[[Tensor], Tensor],
    hidden: Tensor,
    labels: Tensor,
    *,
    statistics: Collection[str] = (),
    chunk_bytes: int | None = None,
    vocabulary: int,
) -> TokenReadings:
    """Log-probs of labels under any head: an adapter on it, quantised weights, its own processing of the logits.

    Whatever ``logits_of`` does it does again in the backward pass for all chunks but the last, under the same random
    numbers; parameters inside it get their gradients. At most one chunk's logits and their gradient live at once.

    Args:
        logits_of: [m, H] -> [m, V], row by row.
        hidden: [M, H].
        labels: [M] int64, in [0, V).
        statistics: which of ``STATISTICS`` to read as well.
        chunk_bytes: size of a chunk's logits in fp32, or None for ``CHUNK_BYTES``; a chunk has at least one row.
        vocabulary: V.

    Raises:
        ValueError: an unknown statistic.
    """
    _check(statistics)
    rows, block = _rows(vocabulary, _size(chunk_bytes, hidden))

    def read(hidden: Tensor, labels: Tensor) -> TokenReadings:
        return TokenReadings(*_LabelLogProbs.apply(logits_of(hidden), labels, statistics, block))

    *spans, last = _spans(len(hidden), rows)
    again = torch.is_grad_enabled()
    parts = [
        checkpoint(read, hidden[span], labels[span], use_reentrant=False) if again else read(hidden[span], labels[span])
        for span in spans
    ]
    return TokenReadings.joined([*parts, read(hidden[last], labels[last])])


def compared_through(
    logits_of: Callable[[Tensor], Tensor],
    hidden: Tensor,
    labels: Tensor,
    compare: Callable[[Tensor, Tensor, slice], Tensor],
    *,
    vocabulary: int,
    chunk_bytes: int | None = None,
) -> Tensor:
    """What ``compare`` finds in the logits of each token, with gradient: [M, H] and [M] -> [M, n] in fp32.

    A chunk of logits is made, compared and thrown away, and made again in the backward pass.

    Args:
        logits_of: [m, H] -> [m, V], row by row.
        hidden: [M, H].
        labels: [M] int64.
        compare: logits [m, V], labels [m] and where they stand among the M -> [m, n].
        vocabulary: V.
        chunk_bytes: size of a chunk's logits in fp32. A comparison holds several such at once, so that the default is
            a part of ``CHUNK_BYTES``.
    """
    rows, _ = _rows(vocabulary, _size(None, hidden) // 8 if chunk_bytes is None else chunk_bytes)

    def read(hidden: Tensor, labels: Tensor, span: slice) -> Tensor:
        return compare(logits_of(hidden), labels, span)

    parts = [
        checkpoint(read, hidden[span], labels[span], span, use_reentrant=False)
        if torch.is_grad_enabled()
        else read(hidden[span], labels[span], span)
        for span in _spans(len(hidden), rows)
    ]
    return torch.cat(parts)


def read_logits(logits: Tensor, labels: Tensor, statistics: Collection[str] = ()) -> TokenReadings:
    """Log-probs of labels, where the logits are there already: [M, V] of any float dtype, and [M] int64 in [0, V).

    Raises:
        ValueError: an unknown statistic.
    """
    _check(statistics)
    _, block = _rows(logits.shape[-1], _size(None, logits))
    return TokenReadings(*_LabelLogProbs.apply(logits, labels, statistics, block))


def _check(statistics: Collection[str]) -> None:
    unknown = [name for name in statistics if name not in STATISTICS]
    if unknown:
        raise ValueError(f"unknown statistics {unknown}: known are {', '.join(STATISTICS)}")


def _dtype(hidden: Tensor) -> torch.dtype:
    """That of the matrix products. Autocast leaves fp64 alone."""
    device = hidden.device.type
    if hidden.dtype != torch.float64 and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return hidden.dtype


def _size(chunk_bytes: int | None, like: Tensor) -> int:
    return CHUNK_BYTES.get(like.device.type, CHUNK_BYTES["cpu"]) if chunk_bytes is None else chunk_bytes


def _rows(vocabulary: int, chunk_bytes: int) -> tuple[int, int]:
    """Rows of a chunk, and of a block of it."""
    rows = max(1, chunk_bytes // (4 * vocabulary))
    return rows, max(1, rows // BLOCKS)


def _spans(count: int, rows: int) -> list[slice]:
    """Chunks of at most ``rows``. The short one comes first, since the last one is not computed twice."""
    starts = [0, *range(count % rows or rows, count, rows)]
    return [slice(start, end) for start, end in zip(starts, [*starts[1:], count], strict=True)]


# ------------------------------------------------------------------------------------------ logits of one chunk


def _read(logits: Tensor, labels: Tensor, statistics: Collection[str], block: int) -> TokenReadings:
    """[m, V] and [m] -> [m]."""
    return TokenReadings.joined(
        [_read_block(z, y, statistics) for z, y in zip(logits.split(block), labels.split(block), strict=True)]
    )


def _read_block(logits: Tensor, labels: Tensor, statistics: Collection[str]) -> TokenReadings:
    logp = logits.log_softmax(-1, dtype=_wide(logits.dtype))
    entropy = hits = None
    picked = logp.gather(-1, labels[:, None])[:, 0]
    if "hits" in statistics:
        hits = logits.argmax(-1) == labels
    if "entropy" in statistics:
        # A word that cannot come has log-prob -inf, and no share in the entropy.
        entropy = -(logp.exp() * logp.clamp_(min=torch.finfo(logp.dtype).min)).sum(-1)
    return TokenReadings(picked, entropy, hits)


def _error(logits: Tensor, labels: Tensor, logps: Tensor) -> Tensor:
    """softmax(logits) less one at the label: minus the gradient of the label's log-prob. [m, V] in fp32.

    At the label p - 1 comes from log p, so that it stays exact where p is near one, in bf16 too.
    """
    return logits.softmax(-1, dtype=logps.dtype).scatter_(-1, labels[:, None], logps.expm1()[:, None])


def _wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype of softmax and of sums: fp32, or fp64 where that is what came in."""
    return torch.promote_types(dtype, torch.float32)


class _LabelLogProbs(torch.autograd.Function):
    """Logits of one chunk -> log-probs of its labels."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, statistics: Collection[str], block: int) -> Any:
        out = _read(logits, labels, statistics, block)
        ctx.block = block
        ctx.save_for_backward(logits, labels, out.logps)
        return _outputs(ctx, out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> Any:
        logits, labels, logps = ctx.saved_tensors
        out = torch.empty_like(logits)
        blocks = (x.split(ctx.block) for x in (out, logits, labels, logps, grad))
        for into, z, y, logp, g in zip(*blocks, strict=True):
            into.copy_(_error(z, y, logp).mul_(-g[:, None]))
        return out, None, None, None


def _outputs(ctx: Any, out: TokenReadings) -> tuple[Tensor, Tensor | None, Tensor | None]:
    ctx.mark_non_differentiable(*[x for x in (out.entropy, out.hits) if x is not None])
    return out.logps, out.entropy, out.hits


# ------------------------------------------------------------------------------------------ a linear head


@dataclass(frozen=True)
class _Head:
    """How a linear head makes its logits, and how many at once."""

    scale: float
    cap: float | None
    dtype: torch.dtype
    chunk_bytes: int

    def take(self, count: int, vocabulary: int, device: torch.device) -> Tensor:
        """Memory for a chunk of [count, V] logits."""
        rows, _ = _rows(vocabulary, self.chunk_bytes)
        size, whole = (n * self.dtype.itemsize for n in (min(rows, count) * vocabulary, self.chunk_bytes // 4))
        return _take(size, whole, device)

    def room(self, memory: Tensor, count: int, vocabulary: int) -> Tensor:
        """The part of memory where ``count`` rows of logits are: [count, V]."""
        return memory[: count * vocabulary * self.dtype.itemsize].view(self.dtype).view(count, vocabulary)

    def fill(self, out: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> None:
        """Write the logits of [m, H] into [m, V]."""
        if bias is None:
            out.addmm_(hidden, weight.t(), beta=0, alpha=self.scale)
        else:
            torch.addmm(bias, hidden, weight.t(), beta=self.scale, alpha=self.scale, out=out)
        if self.cap is not None:
            out.div_(self.cap).tanh_().mul_(self.cap)

    def errors(self, logits: Tensor, labels: Tensor, logps: Tensor, block: int) -> None:
        """Overwrite the logits: minus the gradient of the log-probs by the logits before the cap."""
        for z, y, logp in zip(logits.split(block), labels.split(block), logps.split(block), strict=True):
            error = _error(z, y, logp)
            if self.cap is not None:
                error *= 1 - (z.to(error.dtype) / self.cap).square_()
            z.copy_(error)


class _LinearLogProbs(torch.autograd.Function):
    """``linear_log_probs``. The incoming gradient and the scale multiply [m, H], never [m, V]."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        head: _Head,
        statistics: Collection[str],
        keep: bool,
    ) -> Any:
        rows, block = _rows(len(weight), head.chunk_bytes)
        w, b = weight.to(head.dtype), _cast(bias, head.dtype)
        memory = head.take(len(hidden), len(weight), hidden.device)
        parts = []
        for span in _spans(len(hidden), rows):
            h = hidden[span].to(head.dtype)
            logits = head.room(memory, len(h), len(w))
            head.fill(logits, h, w, b)
            parts.append(_read(logits, labels[span], statistics, block))
        out = TokenReadings.joined(parts)
        if keep:
            ctx.save_for_backward(hidden, weight, bias, labels, out.logps)
            ctx.head, ctx.memory = head, memory
        else:
            _give_back(memory)
        return _outputs(ctx, out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> Any:
        hidden, weight, bias, labels, logps = ctx.saved_tensors
        to_hidden, to_weight, to_bias = ctx.needs_input_grad[:3]
        head: _Head = ctx.head
        # Whoever comes here a second time, through a retained graph, finds the last chunk used up.
        filled = ctx.memory is not None
        memory = ctx.memory if filled else head.take(len(hidden), len(weight), hidden.device)
        ctx.memory = None
        rows, block = _rows(len(weight), head.chunk_bytes)
        w, b = weight.to(head.dtype), _cast(bias, head.dtype)
        grad_hidden = torch.empty_like(hidden) if to_hidden else None
        grad_weight = grad_bias = None
        for span in reversed(_spans(len(hidden), rows)):
            h = hidden[span].to(head.dtype)
            errors = head.room(memory, len(h), len(w))
            if not filled:
                head.fill(errors, h, w, b)
            filled = False
            head.errors(errors, labels[span], logps[span], block)
            share = -head.scale * grad[span, None]
            if grad_hidden is not None:
                grad_hidden[span] = share * (errors @ w)
            if to_weight:
                grad_weight = _plus_product(grad_weight, errors.t(), (share * h).to(head.dtype))
            if to_bias:
                grad_bias = _plus_product(grad_bias, errors.t(), share.to(head.dtype))
        _give_back(memory)
        return (
            grad_hidden,
            _cast(grad_weight, weight.dtype),
            None if grad_bias is None else grad_bias[:, 0].to(bias.dtype),
            *[None] * 4,
        )


# Memory that passes from call to call is nothing for a compiler to trace.
_linear: Callable[..., Any] = torch.compiler.disable(_LinearLogProbs.apply)


def _cast(x: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if x is None else x.to(dtype)


def _plus_product(total: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """total + a @ b: the product in the dtype of its factors, the sum in fp32."""
    if total is None:
        return a @ b
    wide = _wide(a.dtype)
    return total.addmm_(a, b) if a.dtype == wide else total.to(wide).add_(a @ b)


def _take(size: int, whole: int, device: torch.device) -> Tensor:
    """At least ``size`` bytes. On a CPU a ``whole`` chunk or more, so that the next one finds room in it too; pages
    that nothing was written to take no memory."""
    if device.type == "cpu":
        try:
            spare = _spare.pop()
        except IndexError:
            pass
        else:
            if len(spare) >= size:
                return spare
        size = max(size, whole)
    # Memory made in inference mode could not be written to outside of it.
    with torch.inference_mode(False):
        return torch.empty(size, dtype=torch.uint8, device=device)


def _give_back(memory: Tensor) -> None:
    if memory.device.type == "cpu":
        _spare.append(memory)


def forget() -> None:
    """Let go of the memory that is kept for the next chunk."""
    _spare.clear()
