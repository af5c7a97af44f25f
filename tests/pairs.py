"""One pair of responses as the papers write it, and as a datum of K = 2."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from mmpo.matrix import compared
from mmpo.methods import CATALOGUE
from mmpo.types import Evidence, Method, PerToken, Reading


@dataclass(frozen=True)
class Pair:
    """What the model says of a winner w and a loser l, and the grade by which w leads."""

    logp_w: Tensor
    logp_l: Tensor
    ref_w: Tensor
    ref_l: Tensor
    len_w: Tensor
    len_l: Tensor
    r_w: Tensor
    r_l: Tensor
    gap: Tensor

    @property
    def h(self) -> Tensor:
        return (self.logp_w - self.ref_w) - (self.logp_l - self.ref_l)

    @property
    def h_mean(self) -> Tensor:
        return (self.logp_w - self.ref_w) / self.len_w - (self.logp_l - self.ref_l) / self.len_l

    def grid(self, winner: int, method: Method | None = None) -> tuple[Evidence, Reading]:
        """The same as B data of K = 2 with the winner in place ``winner``, and with what the method asks for besides.

        Of several outputs, d = 0, 1 ..., the winner has r_w + d / 4 and the loser r_l - d / 4. Heads on the prompt give
        numbers spread evenly from -0.5 to 0.5, tables hold numbers spread evenly from -1 to 1, and nobody is named.
        """

        def side(w: Tensor, loser: Tensor) -> Tensor:
            return torch.stack((w, loser) if winner == 0 else (loser, w), dim=-1)

        quality = side(self.gap + 3, torch.full_like(self.gap, 3))
        mask = torch.ones_like(quality, dtype=torch.bool)
        # The winner has three votes of four.
        votes = torch.zeros(*quality.shape, 2, dtype=quality.dtype)
        votes[..., winner, 1 - winner], votes[..., 1 - winner, winner] = 3.0, 1.0
        evidence = Evidence(mask, quality, torch.full_like(votes, torch.nan), votes, compared(mask).to(quality.dtype))
        reading = Reading(
            mask,
            side(self.logp_w, self.logp_l),
            side(self.ref_w, self.ref_l),
            side(self.len_w, self.len_l),
            side(self.r_w, self.r_l),
            peer_rewards=side(self.r_w - 0.3, self.r_l - 0.3),
            errors=side(torch.full_like(self.r_w, 0.1), torch.full_like(self.r_w, 0.2)),
            **self.hidden(side),
        )
        reading = replace(reading, tokens=self.tokens(winner))
        if method is None:
            return evidence, reading
        more = torch.arange(method.score.outputs(1)) / 4
        outputs = side(self.r_w[:, None] + more, self.r_l[:, None] - more).movedim(-1, 1)
        return replace(evidence, memory=method.memory(1)), replace(
            reading,
            outputs=outputs,
            of_prompt={n: spread(0.5, size).expand(len(self.gap), size) for n, size in method.on_prompt(1).items()},
            tables={n: spread(1.0, *shape) for n, shape in method.tables(1).items()},
        )

    def hidden(self, side: Callable[[Tensor, Tensor], Tensor]) -> dict[str, Any]:
        """Features of two dimensions: (r, 1), under another dropout (r, 1.5), by the frozen encoder (1, 0.5); a head of
        three degrees that knows nothing."""
        r, one = side(self.r_w, self.r_l), side(torch.ones_like(self.r_w), torch.ones_like(self.r_w))
        plane = {"features": (r, one), "view": (r, 1.5 * one), "anchors": (one, 0.5 * one)}
        heads = {"degree": one[..., None, None].expand(*one.shape, 2, 3)}
        return {"heads": heads} | {name: torch.stack(axes, dim=-1) for name, axes in plane.items()}

    def tokens(self, winner: int) -> PerToken:
        """Token by token: the log-probs spread evenly over ``len`` tokens, the first two of them marked.

        Before them stand two tokens of an own prompt, of log-prob -1.5 (winner) and -2 (loser), reference -1. At each
        token of the winner (loser) KL is 0.1 (0.2), the teacher's KL 0.02 (0.04), its advantage 0.3 (-0.1), and the
        extrapolated log-prob 1.1 times the log-prob. Marked tokens weigh 1, others 0.5; all KLs weigh 0.25.
        """
        sides = [
            (self.logp_w, self.ref_w, self.len_w, -1.5, {"kl": 0.1, "teacher_kl": 0.02, "advantage": 0.3}),
            (self.logp_l, self.ref_l, self.len_l, -2.0, {"kl": 0.2, "teacher_kl": 0.04, "advantage": -0.1}),
        ]
        told: list[dict[str, Any]] = []
        for b in range(len(self.gap)):
            for place, (logp, ref, length, before, found) in enumerate(sides if winner == 0 else sides[::-1]):
                own = {"cell": 2 * b + place, **found, "reward": 0.5, "kl weight": 0.25, "marked": False}
                told += [{**own, "logps": before, "ref": -1.0, "opening": True, "extrapolated": before}] * 2
                each = float(logp[b] / length[b])
                for t in range(int(length[b])):
                    own |= {"marked": t < 2, "reward": 1.0 if t < 2 else 0.5}
                    own |= {"logps": each, "ref": float(ref[b] / length[b]), "extrapolated": 1.1 * each}
                    told.append({**own, "opening": False})

        def column(name: str) -> Tensor:
            values = [token[name] for token in told]
            return torch.tensor(values, dtype=torch.float64 if isinstance(values[0], float) else None)

        return PerToken(
            cell=column("cell"),
            shape=(len(self.gap), 2),
            logps=column("logps"),
            ref_logps=column("ref"),
            opening=column("opening"),
            marked=column("marked"),
            probed={name: column(name) for name in ("kl", "teacher_kl", "advantage", "extrapolated")},
            weights={"reward": column("reward"), "kl": column("kl weight")},
        )


def spread(most: float, *shape: int) -> Tensor:
    """Numbers from -most to most, evenly spread."""
    return torch.linspace(-most, most, math.prod(shape), dtype=torch.float64).view(shape)


def other_parameters(name: str) -> dict[str, Any]:
    """Values that the parameters of a method of the catalogue do not have by default; whole where they must be."""
    given = CATALOGUE[name].parameters
    return {
        key: 2 * value if isinstance(value, int) else 0.37 * (1 + i) for i, (key, value) in enumerate(given.items())
    }


def pair(*values: float) -> Pair:
    return Pair(*(torch.tensor([value], dtype=torch.float64) for value in values))


def cross_entropy(z: Tensor, p: Tensor | float) -> Tensor:
    """-p log sigmoid(z) - (1 - p) log sigmoid(-z)."""
    return -p * logsigmoid(z) - (1 - p) * logsigmoid(-z)


# One pair worked by hand. Policy: logp -12 and -15, reference -13 and -14, so the log-ratios are +1 and -1 and h = 2;
# lengths 6 and 5, so h per token is 1/6 + 1/5 = 11/30. Reward model: 1.2 and 0.7, so r_w - r_l = 0.5. Grade gap: 0.5.
KNOWN = pair(-12, -15, -13, -14, 6, 5, 1.2, 0.7, 0.5)
