"""How much a step computes and sends, and how long that takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmpo.models import head
from mmpo.models.packed import Layout
from mmpo.plan.blueprint import Blueprint
from mmpo.plan.hardware import NODE, Device
from mmpo.plan.memory import SINGLE, Job, Split, states
from mmpo.plan.rows import Row, padded_blocks


@dataclass(frozen=True)
class Load:
    """What is read of some rows in one layout.

    Attributes:
        tokens: positions that the layers compute.
        seen: pairs of a token and one that it sees, itself included.
        scored: positions that go through the vocabulary.
    """

    tokens: int = 0
    seen: int = 0
    scored: int = 0

    def __add__(self, other: Load) -> Load:
        return Load(self.tokens + other.tokens, self.seen + other.seen, self.scored + other.scored)


def load(rows: Sequence[Row], layout: Layout, both_ways: bool = False) -> Load:
    """What a micro-batch of these rows computes; ``both_ways`` for an encoder.

    shared: a prompt of p tokens once, with p (p + 1) / 2 pairs, and of each response of r tokens r p + r (r + 1) / 2.
    separate: sequences of n = p + r tokens, with n (n + 1) / 2 pairs, or n n in both directions.
    padded: the same where all n of a block are the longest; the vocabulary from the first scored position of any on.
    """

    def pairs(n: int) -> int:
        return n * n if both_ways else n * (n + 1) // 2

    if layout == "padded":
        blocks = padded_blocks(rows)
        return sum((Load(b.rows * b.width, b.rows * pairs(b.width), b.rows * b.logits) for b in blocks), Load())
    lengths = [(p, r) for p, responses in rows for r in responses]
    scored = sum(r for _, r in lengths)
    if layout == "separate":
        return Load(sum(p + r for p, r in lengths), sum(pairs(p + r) for p, r in lengths), scored)
    own = sum(r * p + r * (r + 1) // 2 for p, r in lengths)
    return Load(sum(p for p, _ in rows) + scored, sum(pairs(p) for p, _ in rows) + own, scored)


@dataclass(frozen=True)
class Flops:
    """Floating-point operations; a product of [m, k] and [k, n] is 2 m k n.

    Norms, activations and softmax are left out: they are no matrix products.
    """

    forward: float
    backward: float
    again: float
    others: float

    @property
    def total(self) -> float:
        return sum(vars(self).values())


def forward_flops(blueprint: Blueprint, read: Load) -> float:
    """Once through a model: 2 for each weight and token, 4 D for each pair of tokens and layer (q . k, and the weighted
    sum of v; D is the size of all heads), and for a policy 2 H V for each scored token."""
    return sum(_forward(blueprint, read))


def _forward(blueprint: Blueprint, read: Load) -> tuple[float, float, float]:
    anatomy = blueprint.anatomy
    return 2.0 * anatomy.products * read.tokens, 4.0 * anatomy.attention * read.seen, 2.0 * anatomy.head * read.scored


def flops(job: Job, read: Load, device: str = "cuda") -> Flops:
    """Of one micro-batch, all that is done.

    Backward, each product has one of its size for the gradient of its input, and one more where its weight is trained;
    a fused attention kernel has five for the two of its forward. Checkpointed layers are run twice, and so are the
    logits of all chunks but the last (``models/head.py``).
    """
    anatomy = job.blueprint.anatomy
    products, attention, logits = _forward(job.blueprint, read)
    trained = 2.0 * anatomy.products_trained * read.tokens + logits * anatomy.head_trained
    remade = 0.0
    if job.layout != "padded" and anatomy.vocabulary:
        fits = max(1, head.CHUNK_BYTES[device] // (4 * anatomy.vocabulary))
        remade = logits * max(0.0, 1 - fits / max(read.scored, 1))
    again = remade
    if job.checkpointing is not None:
        again += (products + attention) / int(job.checkpointing.get("every_n_layers", 1))
    live = [job.blueprint] * (job.reference in ("copy", "adapter")) + list(job.beside)
    return Flops(
        forward=job.models * (products + attention + logits),
        backward=job.models * (products + trained + 2.5 * attention + logits),
        again=job.models * again,
        others=sum(forward_flops(one, read) for one in live),
    )


def sent(job: Job, split: Split, devices: int, micro_batches: float) -> float:
    """Bytes that each device sends in a step of so many micro-batches; as many come in.

    ddp: the gradients once, in a ring. zero2: gradients in each micro-batch, and the new weights once. fsdp2, zero3:
    all weights before the forward and before the backward pass of each micro-batch, and the gradients after it.
    """
    if devices == 1:
        return 0.0
    anatomy, part = job.blueprint.anatomy, (devices - 1) / devices
    trained = job.width * anatomy.trained
    if split == "ddp":
        return 2 * part * anatomy.trained_bytes
    if split == "zero2":
        return part * trained * (micro_batches + 1)
    return part * micro_batches * (2 * job.width * anatomy.parameters + trained)


@dataclass(frozen=True)
class Seconds:
    """Of one step, at the best and at the worst: how busy the device is kept, and whether sending hides behind it."""

    compute: tuple[float, float]
    sending: float
    stepping: float

    @property
    def low(self) -> float:
        return max(self.compute[0], self.sending) + self.stepping

    @property
    def high(self) -> float:
        return self.compute[1] + self.sending + self.stepping


def seconds(
    job: Job, work: Flops, device: Device, split: Split = "alone", devices: int = 1, micro_batches: float = 1.0
) -> Seconds:
    """How long a step takes in which each device does this work, in so many micro-batches."""
    rate, (least, most) = (device.half, device.busy) if job.width < SINGLE else (device.single, device.busy_single)
    _, gradients, optimizer = states(job, "alone", 1)
    moved = 3 * gradients + 2 * optimizer  # a weight is as large as its gradient, and read and written
    shared = devices if split in ("fsdp2", "zero2", "zero3") else 1
    bandwidth = device.link if devices <= NODE else device.network
    return Seconds(
        (work.total / (rate * most), work.total / (rate * least)),
        sent(job, split, devices, micro_batches) / bandwidth,
        moved / shared / device.bandwidth,
    )
