"""Token log-probs by chunks are those of the plain formula, with its gradients, and never hold the logits of all."""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mmpo.models import head
from mmpo.models.head import TokenReadings, linear_log_probs, log_probs_through, read_logits

M, H, V = 7, 5, 11
ROW = 4 * V
"""Bytes of the logits of one token."""


def plain_logits(
    hidden: Tensor, weight: Tensor, bias: Tensor | None = None, scale: float = 1.0, cap: float | None = None
) -> Tensor:
    logits = hidden @ weight.T if bias is None else hidden @ weight.T + bias
    logits = scale * logits
    return cap * torch.tanh(logits / cap) if cap else logits


def plain(hidden: Tensor, labels: Tensor, *head: Any, **how: Any) -> Tensor:
    return plain_logits(hidden, *head, **how).log_softmax(-1)[torch.arange(len(labels)), labels]


def draw(
    seed: int = 0, m: int = M, h: int = H, v: int = V, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """hidden, labels, weight, bias, and a gradient for the log-probs."""
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng).to(dtype)

    labels = torch.randint(v, (m,), generator=rng)
    return normal(m, h), labels, normal(v, h), normal(v), normal(m).float()


def gradients(read: Callable[..., Tensor], *inputs: Tensor, by: Tensor) -> list[Tensor]:
    """The log-probs, and their gradients by every input."""
    inputs = tuple(x.detach().clone().requires_grad_() for x in inputs)
    logps = read(*inputs)
    return [logps.detach(), *torch.autograd.grad(logps, inputs, by.to(logps.dtype))]


def assert_same(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    """To a tolerance relative to the largest entry of each."""
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.double(), b.double(), rtol=tolerance, atol=tolerance * float(b.abs().max()))


# ------------------------------------------------------------------------------------------ values and gradients


@pytest.mark.parametrize("through", [False, True])
def test_worked_by_hand(through: bool) -> None:
    # Logits ln 1, ln 2, ln 5: probabilities 1/8, 2/8, 5/8.
    weight = torch.tensor([[1.0], [2.0], [5.0]]).log().requires_grad_()
    hidden = torch.tensor([[1.0], [1.0]], requires_grad=True)
    labels = torch.tensor([2, 1])
    both = ("entropy", "hits")
    if through:
        read = log_probs_through(lambda h: h @ weight.T, hidden, labels, statistics=both, vocabulary=3)
    else:
        read = linear_log_probs(hidden, labels, weight, statistics=both)
    assert read.logps.tolist() == pytest.approx([math.log(5 / 8), math.log(1 / 4)])
    entropy = -(math.log(1 / 8) / 8 + math.log(1 / 4) / 4 + 5 * math.log(5 / 8) / 8)
    assert read.entropy is not None and read.entropy.tolist() == pytest.approx([entropy, entropy])
    assert read.hits is not None and read.hits.tolist() == [True, False]

    (2 * read.logps[0] + read.logps[1]).backward()
    # d log p_y / d logits is one at y less the probabilities.
    mean = math.log(2) / 4 + 5 * math.log(5) / 8
    assert hidden.grad is not None and weight.grad is not None
    assert hidden.grad[:, 0].tolist() == pytest.approx([2 * (math.log(5) - mean), math.log(2) - mean])
    assert weight.grad[:, 0].tolist() == pytest.approx([-3 / 8, 1 - 6 / 8, 2 - 15 / 8])


@pytest.mark.parametrize("rows", [1, 3, M])
@pytest.mark.parametrize("how", [{}, {"scale": 0.3}, {"cap": 2.0}, {"scale": 1.7, "cap": 3.0}], ids=str)
@pytest.mark.parametrize("biased", [False, True])
def test_equals_the_plain_formula(rows: int, how: dict[str, float], biased: bool) -> None:
    hidden, labels, weight, bias, by = draw()
    inputs = (hidden, weight, bias) if biased else (hidden, weight)
    expected = gradients(lambda h, *w: plain(h, labels, *w, **how), *(x.double() for x in inputs), by=by)
    linear = gradients(
        lambda h, *w: linear_log_probs(h, labels, *w, **how, chunk_bytes=rows * ROW).logps, *inputs, by=by
    )
    assert all(x.dtype == torch.float32 for x in linear)
    assert_same(linear, expected, 1e-6)
    through = gradients(
        lambda h, *w: (
            log_probs_through(
                lambda h: plain_logits(h, *w, **how), h, labels, chunk_bytes=rows * ROW, vocabulary=V
            ).logps
        ),
        *inputs,
        by=by,
    )
    assert_same(through, expected, 1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_equals_the_plain_formula_in_any_shape(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    m, h, v, rows = (int(torch.randint(1, most, (), generator=rng)) for most in (40, 20, 60, 15))
    hidden, labels, weight, bias, by = draw(seed, m, h, v)
    expected = gradients(lambda *w: plain(w[0], labels, *w[1:]), hidden.double(), weight.double(), bias.double(), by=by)
    found = gradients(
        lambda *w: linear_log_probs(w[0], labels, *w[1:], chunk_bytes=rows * 4 * v).logps, hidden, weight, bias, by=by
    )
    assert_same(found, expected, 3e-6)


@pytest.mark.parametrize("cap", [None, 2.0])
def test_gradient_is_that_of_finite_differences(cap: float | None) -> None:
    hidden, labels, weight, bias, _ = draw(dtype=torch.float64)
    inputs = [x.requires_grad_() for x in (hidden, weight, bias)]
    assert torch.autograd.gradcheck(
        lambda h, w, b: linear_log_probs(h, labels, w, b, scale=0.7, cap=cap, chunk_bytes=3 * ROW).logps, inputs
    )


def test_logits_that_are_there_already() -> None:
    hidden, labels, weight, _, by = draw()
    logits = hidden @ weight.T
    expected = gradients(lambda z: z.log_softmax(-1)[torch.arange(M), labels], logits.double(), by=by)
    assert_same(gradients(lambda z: read_logits(z, labels).logps, logits, by=by), expected, 1e-6)


def test_tied_weight() -> None:
    _, labels, weight, _, by = draw()
    ids = torch.arange(M)
    expected = gradients(lambda w: plain(w[ids].tanh(), labels, w), weight.double(), by=by)
    found = gradients(lambda w: linear_log_probs(w[ids].tanh(), labels, w, chunk_bytes=2 * ROW).logps, weight, by=by)
    assert_same(found, expected, 1e-6)


def test_tensors_that_are_not_contiguous() -> None:
    hidden, labels, weight, _, by = draw()
    expected = gradients(lambda h, w: plain(h.T, labels, w.T), hidden.T.double(), weight.T.double(), by=by)
    found = gradients(lambda h, w: linear_log_probs(h.T, labels, w.T).logps, hidden.T, weight.T, by=by)
    assert_same(found, expected, 1e-6)


@pytest.mark.parametrize("rows", [1, 3, M])
def test_adapter_on_the_head(rows: int) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lm_head = nn.Linear(H, V)

    torch.manual_seed(0)
    config = LoraConfig(r=2, lora_alpha=4, lora_dropout=0.0, target_modules=["lm_head"], init_lora_weights=False)
    model = inject_adapter_in_model(config, Model())
    lora = {name: p for name, p in model.named_parameters() if "lora_" in name}
    assert len(lora) == 2
    hidden, labels, _, _, by = draw()
    hidden.requires_grad_()
    wanted = [hidden, *lora.values()]
    expected = torch.autograd.grad(
        model.lm_head(hidden).log_softmax(-1)[torch.arange(M), labels], wanted, by, retain_graph=True
    )
    found = log_probs_through(model.lm_head, hidden, labels, chunk_bytes=rows * ROW, vocabulary=V)
    assert_same(list(torch.autograd.grad(found.logps, wanted, by)), list(expected), 1e-6)


def test_random_numbers_inside_a_head_are_the_same_in_the_backward_pass() -> None:
    hidden, labels, weight, _, by = draw()
    kept = []

    def logits_of(h: Tensor) -> Tensor:
        mask = (torch.rand(len(h), V) > 0.5).float()
        kept.append(mask)
        return (h @ weight.T) * mask

    torch.manual_seed(0)
    found = gradients(
        lambda h: log_probs_through(logits_of, h, labels, chunk_bytes=3 * ROW, vocabulary=V).logps, hidden, by=by
    )
    assert [len(mask) for mask in kept] == [1, 3, 3, 3, 1], "the last chunk is made once, the others twice"
    mask = torch.cat(kept[:3]).double()
    expected = gradients(
        lambda h: ((h @ weight.double().T) * mask).log_softmax(-1)[torch.arange(M), labels], hidden.double(), by=by
    )
    assert_same(found, expected, 1e-6)


# ------------------------------------------------------------------------------------------ what is computed


def test_only_what_requires_a_gradient_gets_one() -> None:
    hidden, labels, weight, bias, by = draw()
    expected = gradients(lambda *w: plain(w[0], labels, *w[1:]), hidden, weight, bias, by=by)[1:]
    for n in range(3):
        inputs = [x.clone().requires_grad_(k == n) for k, x in enumerate((hidden, weight, bias))]
        logps = linear_log_probs(inputs[0], labels, *inputs[1:], chunk_bytes=2 * ROW).logps
        logps.backward(by)
        assert [x.grad is not None for x in inputs] == [k == n for k in range(3)]
        torch.testing.assert_close(inputs[n].grad, expected[n])


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_without_gradient(off: Any) -> None:
    hidden, labels, weight, _, by = draw()
    parameter = weight.clone().requires_grad_()
    head._spare.clear()
    with off():
        linear = linear_log_probs(hidden, labels, parameter, chunk_bytes=3 * ROW).logps
        through = log_probs_through(lambda h: h @ parameter.T, hidden, labels, chunk_bytes=3 * ROW, vocabulary=V).logps
    assert not linear.requires_grad and not through.requires_grad
    torch.testing.assert_close(linear, plain(hidden, labels, weight))
    torch.testing.assert_close(through, plain(hidden, labels, weight))
    # Memory that was first used without gradient serves a training step too.
    assert len(head._spare) == 1 and not head._spare[0].is_inference()
    linear_log_probs(hidden, labels, parameter).logps.backward(by)


def test_statistics() -> None:
    hidden, labels, weight, _, _ = draw(m=60)
    weight.requires_grad_()
    labels = torch.where(torch.arange(60) % 2 == 0, (hidden @ weight.T).argmax(-1), labels)
    logp = (hidden @ weight.T).detach().double().log_softmax(-1)
    for rows in (1, 7, 60):
        asked = [
            linear_log_probs(hidden, labels, weight, statistics=("hits", "entropy"), chunk_bytes=rows * ROW),
            log_probs_through(
                lambda h: h @ weight.T,
                hidden,
                labels,
                statistics=("hits", "entropy"),
                chunk_bytes=rows * ROW,
                vocabulary=V,
            ),
            read_logits(hidden @ weight.T, labels, ("hits", "entropy")),
        ]
        for read in asked:
            assert read.entropy is not None and read.hits is not None
            torch.testing.assert_close(read.entropy, -(logp.exp() * logp).sum(-1).float())
            assert read.hits.tolist() == (logp.argmax(-1) == labels).tolist()
            assert read.hits.dtype == torch.bool and 30 <= int(read.hits.sum()) < 60
            assert read.logps.requires_grad and not read.entropy.requires_grad
            read.logps.sum().backward()
    only = linear_log_probs(hidden, labels, weight, statistics=["entropy"])
    assert only.entropy is not None and only.hits is None
    silent = linear_log_probs(hidden, labels, weight)
    assert silent.entropy is None and silent.hits is None


def test_a_word_that_cannot_come_has_no_share() -> None:
    hidden, _, weight, bias, by = draw()
    labels = torch.arange(M)
    bias[-2:] = -torch.inf
    inputs = [x.requires_grad_() for x in (hidden, weight, bias)]
    read = linear_log_probs(hidden, labels, weight, bias, statistics=("entropy",))
    logp = (hidden @ weight[:-2].T + bias[:-2]).log_softmax(-1)
    assert read.entropy is not None
    torch.testing.assert_close(read.entropy, -(logp.exp() * logp).sum(-1).detach())
    read.logps.backward(by)
    assert all(x.grad is not None and x.grad.isfinite().all() for x in inputs)
    assert weight.grad is not None and not weight.grad[-2:].any()


def test_unknown_statistics_are_refused() -> None:
    hidden, labels, weight, _, _ = draw()
    with pytest.raises(ValueError, match=r"\['margin'\].*entropy, hits"):
        linear_log_probs(hidden, labels, weight, statistics=("entropy", "margin"))
    with pytest.raises(ValueError, match="entropy, hits"):
        log_probs_through(lambda h: h @ weight.T, hidden, labels, statistics=("margin",), vocabulary=V)
    with pytest.raises(ValueError, match="entropy, hits"):
        read_logits(hidden @ weight.T, labels, ("margin",))


def test_no_tokens() -> None:
    inputs = [torch.zeros(0, H), torch.ones(V, H), torch.ones(V)]
    labels = torch.zeros(0, dtype=torch.long)
    for read in (
        lambda h, w, b: linear_log_probs(h, labels, w, b, statistics=head.STATISTICS),
        lambda h, w, b: log_probs_through(lambda h: h @ w.T + b, h, labels, statistics=head.STATISTICS, vocabulary=V),
    ):
        leaves = [x.clone().requires_grad_() for x in inputs]
        readings = read(*leaves)
        assert [x.shape for x in (readings.logps, readings.entropy, readings.hits)] == [(0,)] * 3
        readings.logps.sum().backward()
        for leaf in leaves:
            assert leaf.grad is not None and leaf.grad.shape == leaf.shape and not leaf.grad.any()


def test_parts_join_in_order() -> None:
    parts = [TokenReadings(torch.tensor([0.0, 1.0])), TokenReadings(torch.tensor([2.0]))]
    assert TokenReadings.joined(parts).logps.tolist() == [0, 1, 2]
    joined = TokenReadings.joined(parts, torch.tensor([2, 0, 1]))
    assert joined.logps.tolist() == [2, 0, 1] and joined.entropy is None and joined.hits is None


# ------------------------------------------------------------------------------------------ precision


def test_bf16_autocast_is_close_to_fp32() -> None:
    hidden, labels, weight, bias, by = draw(m=50, h=32, v=97)
    weight /= 32**0.5
    expected = gradients(lambda *w: plain(w[0], labels, *w[1:]), hidden, weight, bias, by=by)

    with torch.autocast("cpu", torch.bfloat16):
        linear = gradients(
            lambda *w: linear_log_probs(w[0], labels, *w[1:], chunk_bytes=16 * 4 * 97).logps,
            hidden,
            weight,
            bias,
            by=by,
        )
        through = gradients(
            lambda h, *w: (
                log_probs_through(
                    lambda h: nn.functional.linear(h, *w), h, labels, chunk_bytes=16 * 4 * 97, vocabulary=97
                ).logps
            ),
            hidden,
            weight,
            bias,
            by=by,
        )
    for found in (linear, through):
        assert all(x.dtype == torch.float32 for x in found)
        assert_same(found, expected, 2e-2)
    assert not torch.equal(linear[0], expected[0]), "the products ran in bf16"


def test_pure_bf16_sums_chunks_in_fp32() -> None:
    hidden, labels, weight, _, by = draw(m=600, h=8, v=13, dtype=torch.bfloat16)
    by = by.abs()
    exact = gradients(lambda h, w: plain(h, labels, w), hidden.double(), weight.double(), by=by)
    found = gradients(lambda h, w: linear_log_probs(h, labels, w, chunk_bytes=4 * 13).logps, hidden, weight, by=by)
    assert [x.dtype for x in found] == [torch.float32, torch.bfloat16, torch.bfloat16]
    assert_same(found, exact, 2e-2)

    # What summing the gradients of the same 600 chunks in bf16 would give.
    careless = torch.zeros_like(weight)
    for h, y, g in zip(hidden.split(1), labels.split(1), by.split(1), strict=True):
        careless += gradients(lambda w, h=h, y=y: linear_log_probs(h, y, w).logps, weight, by=g)[1]

    def off(x: Tensor) -> float:
        return float((x.double() - exact[2]).abs().max() / exact[2].abs().max())

    assert off(found[2]) < off(careless) / 3


def test_a_likely_token_keeps_its_gradient_in_bf16() -> None:
    # p = sigmoid(8) is 1 - 3.4e-4, which bf16 would round to 1.
    hidden = torch.ones(1, 1, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.tensor([[8.0], [0.0]], dtype=torch.bfloat16)
    linear_log_probs(hidden, torch.tensor([0]), weight).logps.backward()
    assert hidden.grad is not None
    assert hidden.grad.item() == pytest.approx(8 / (1 + math.exp(8)), rel=1e-2)


# ------------------------------------------------------------------------------------------ life of the memory


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_forwards_before_two_backwards(order: tuple[int, int]) -> None:
    draws = [draw(seed) for seed in (1, 2)]
    leaves = [(d[0].clone().requires_grad_(), d[2].clone().requires_grad_()) for d in draws]
    logps = [linear_log_probs(h, d[1], w, chunk_bytes=4 * ROW).logps for d, (h, w) in zip(draws, leaves, strict=True)]
    for n in order:
        hidden, labels, weight, _, by = draws[n]
        logps[n].backward(by)
        expected = gradients(lambda h, w, y=labels: plain(h, y, w), hidden, weight, by=by)
        assert_same([logps[n].detach(), *(x.grad for x in leaves[n] if x.grad is not None)], expected, 1e-6)


def test_a_graph_can_be_retained() -> None:
    hidden, labels, weight, _, by = draw()
    weight.requires_grad_()
    logps = linear_log_probs(hidden, labels, weight, chunk_bytes=4 * ROW).logps
    first, second = (torch.autograd.grad(logps, weight, by, retain_graph=True)[0] for _ in range(2))
    torch.testing.assert_close(first, second)


def test_there_is_no_second_derivative() -> None:
    hidden, labels, weight, _, _ = draw()
    weight.requires_grad_()
    logps = linear_log_probs(hidden, labels, weight).logps
    (slope,) = torch.autograd.grad((logps**2).sum(), weight, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


def test_memory_is_used_again_but_never_shared() -> None:
    hidden, labels, weight, _, by = draw()
    weight.requires_grad_()
    head._spare.clear()
    linear_log_probs(hidden, labels, weight).logps.backward(by)
    (spare,) = head._spare
    first = linear_log_probs(hidden, labels, weight).logps
    assert not head._spare, "the first call has it"
    second, third = (linear_log_probs(hidden, labels, weight).logps for _ in range(2))
    second.backward(by)
    third.backward(by)
    assert len(head._spare) == 1 and head._spare[0] is not spare
    del first  # its backward pass never came: the memory goes
    gone = weakref.ref(spare)
    del spare
    assert gone() is None


def test_threads() -> None:
    draws = [draw(seed, m=40) for seed in range(4)]
    expected = [gradients(lambda h, w, d=d: plain(h, d[1], w), d[0], d[2], by=d[4]) for d in draws]
    found: dict[int, list[list[Tensor]]] = {n: [] for n in range(4)}

    def work(n: int) -> None:
        hidden, labels, weight, _, by = draws[n]
        for _ in range(25):
            found[n].append(
                gradients(lambda h, w: linear_log_probs(h, labels, w, chunk_bytes=9 * ROW).logps, hidden, weight, by=by)
            )

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n in range(4):
        assert len(found[n]) == 25
        for each in found[n]:
            assert_same(each, expected[n], 2e-6)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensor storage made inside it that is still alive, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for x in tree_leaves((args, kwargs)):
            if isinstance(x, Tensor):
                self._see(x, counted=False)
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, Tensor):
                self._see(x, counted=True)
        return out

    def _see(self, x: Tensor, counted: bool) -> None:
        storage = x.untyped_storage()
        if storage._cdata in self.known:
            return
        self.known.add(storage._cdata)
        size = storage.nbytes() if counted else 0
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, storage._cdata, size)

    def _gone(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def peaks(read: Callable[[Tensor, Tensor], Tensor], hidden: Tensor, weight: Tensor) -> tuple[int, int]:
    """Bytes that live at most in the forward pass, and in the backward pass."""
    head._spare.clear()
    with LiveBytes() as live:
        total = read(hidden, weight).sum()
        forward, live.peak = live.peak, live.now
        total.backward()
    return forward, live.peak


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("cap", [None, 3.0])
def test_logits_of_one_chunk_live_at_once(dtype: torch.dtype, cap: float | None) -> None:
    m, h, v, rows = 128, 2, 2500, 16
    hidden, labels, weight, _, _ = draw(m=m, h=h, v=v, dtype=dtype)
    hidden, weight = hidden.requires_grad_(), weight.requires_grad_()
    chunk = 4 * v * rows
    how: dict[str, Any] = {"statistics": head.STATISTICS, "chunk_bytes": chunk}

    whole = peaks(lambda h, w: plain(h, labels, w, cap=cap).float(), hidden, weight)
    assert min(whole) > weight.element_size() * m * v, "the meter sees logits"

    linear = peaks(lambda h, w: linear_log_probs(h, labels, w, cap=cap, **how).logps, hidden, weight)
    assert linear[0] < 1.2 * chunk
    assert linear[1] < 1.2 * chunk + 2 * 4 * v * h

    through = peaks(
        lambda h, w: log_probs_through(lambda h: plain_logits(h, w, cap=cap), h, labels, vocabulary=v, **how).logps,
        hidden,
        weight,
    )
    # A head that keeps what its own steps make has several tensors of a chunk's size.
    assert max(through) < (3.3 if cap else 2.3) * chunk
    assert max(through) < min(whole)


def test_a_frozen_head_costs_no_gradient() -> None:
    m, h, v = 4, 64, 1000
    hidden, labels, weight, _, _ = draw(m=m, h=h, v=v)
    hidden.requires_grad_()

    def read(h: Tensor, w: Tensor) -> Tensor:
        return linear_log_probs(h, labels, w, chunk_bytes=4 * v * m).logps

    frozen = peaks(read, hidden, weight)[1]
    assert weight.grad is None and frozen < weight.nbytes / 3
    assert peaks(read, hidden, weight.requires_grad_())[1] > weight.nbytes


def test_torch_compile_goes_round_it() -> None:
    hidden, labels, weight, _, by = draw()
    traced = []

    def backend(graph: Any, _: Any) -> Any:
        traced.append(graph.code)
        return graph.forward

    @torch.compile(backend=backend)
    def linear(h: Tensor, w: Tensor) -> Tensor:
        return 2 * linear_log_probs(h.tanh(), labels, w, chunk_bytes=3 * ROW).logps

    @torch.compile(backend="aot_eager")
    def through(h: Tensor, w: Tensor) -> Tensor:
        return 2 * log_probs_through(lambda h: h @ w.T, h.tanh(), labels, chunk_bytes=3 * ROW, vocabulary=V).logps

    expected = gradients(lambda h, w: 2 * plain(h.tanh(), labels, w), hidden, weight, by=by)
    assert_same(gradients(linear, hidden, weight, by=by), expected, 1e-6)
    assert any("tanh" in code for code in traced) and not any("softmax" in code for code in traced)
    assert_same(gradients(through, hidden, weight, by=by), expected, 1e-6)
