"""Heads of any shape over frozen features, trained by a method of the library on what several raters voted.

A small trunk on the features of each response, a linear map to as many outputs as the method's score asks for, its
tables, and its heads on the features of the prompt: what a run learns on top of a language model, with the language
model frozen. Evidence, voices, loss and memory are those of the library (as in ``mmpo.run.loop``).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evidence.raters_data import Panel, at, heard
from mmpo.evaluate.agreement import Floats, nll
from mmpo.models.outputs import fresh_heads
from mmpo.placing import Labels, grown, remembered
from mmpo.placing import fitted as fitted_rows
from mmpo.run.state import MethodState
from mmpo.scores.people import with_anybody
from mmpo.types import Evidence, Method, Reading

HIDDEN, RATE, BESIDE = 64, 1e-3, 1e-2
"""Width of the trunk, and the learning rates of it and of what is learned beside it."""
EPOCHS, PATIENCE = 30, 4


class Heads(nn.Module):
    """Everything that is trained."""

    def __init__(self, method: Method, voices: int, items: int, prompts: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(items, HIDDEN), nn.GELU())
        self.outputs = nn.Linear(HIDDEN, method.score.outputs(voices))
        self.beside = fresh_heads(method.tables(voices), method.on_prompt(voices), prompts)

    def read(self, panel: Panel, rows: Tensor, mask: Tensor) -> Reading:
        """What the heads say of the responses of some data, [n]."""
        items, where = panel.item[rows].unique(return_inverse=True)
        outputs = self.outputs(self.trunk(panel.items[items]))[where]
        asked, which = panel.asked[rows].unique(return_inverse=True)
        held = {kind: dict(self.beside[kind].items()) for kind in self.beside}  # type: ignore[operator]
        return Reading(
            mask=mask,
            rewards=outputs[..., 0],
            outputs=outputs,
            of_prompt={name: head(panel.prompts[asked])[which] for name, head in held.get("on_prompt", {}).items()},
            tables={name: table.weight for name, table in held.get("tables", {}).items()},
        )


@dataclass(frozen=True)
class Fitted:
    """Trained heads, what the method remembers, and how many voices it tells apart, the one without a name included."""

    method: Method
    heads: Heads
    memory: dict[str, Tensor]
    voices: int

    @torch.no_grad()
    def margins(self, panel: Panel, said: Evidence, rows: Tensor) -> Tensor:
        """M for what each voice said, [A * n, K, K], in the order of ``Evidence.by_voice``."""
        reading = self.heads.read(panel, rows, said.mask)
        said, view = self.method.heard(replace(said, memory=self.memory), reading)
        m = self.method.score(view)
        return m if self.method.score.apart else m.repeat(len(said.by_voice()[1]) // len(rows), 1, 1)


def fit(
    method: Method,
    panel: Panel,
    number: Tensor,
    train: Tensor,
    valid: Tensor,
    *,
    seed: int,
    batch: int,
    rate: float = RATE,
) -> Fitted:
    """Train new heads until the NLL of the votes on the validation data has not fallen for a while; keep the best.

    ``number`` says who is told apart (see ``heard``), ``train`` and ``valid`` [N] are masks of the data.
    """
    torch.manual_seed(seed)
    voices = 1 + int(number.max())
    said, rows = heard(panel, number, train)
    heads = Heads(method, voices, panel.items.shape[1], panel.prompts.shape[1])
    state = MethodState(method, heads.beside, voices, torch.device("cpu"))
    own = [*heads.trunk.parameters(), *heads.outputs.parameters()]
    groups = [{"params": own, "lr": rate}, {"params": list(heads.beside.parameters()), "lr": BESIDE}]
    optimizer = torch.optim.Adam([group for group in groups if group["params"]])
    least, waited, best = float("inf"), 0, Fitted(method, heads, state.memory, voices)
    for _ in range(EPOCHS):
        for some in torch.randperm(len(rows)).split(batch):
            step(state, heads, optimizer, panel, at(said, some), rows[some])
        votes = held(Fitted(method, heads, state.memory, voices), panel, number, valid)
        cost = float(nll(votes.p, votes.m).mean())
        if cost < least:
            least, waited, best = cost, 0, Fitted(method, copy.deepcopy(heads), dict(state.memory), voices)
        else:
            waited += 1
        if waited == PATIENCE:
            break
    return best


def step(
    state: MethodState, heads: Heads, optimizer: torch.optim.Optimizer, panel: Panel, said: Evidence, rows: Tensor
) -> None:
    """One step of training, and what the method remembers of it."""
    reading = heads.read(panel, rows, said.mask)
    evidence, reading = state.method.heard(replace(said, memory=state.memory), reading)
    optimizer.zero_grad()
    state.method(evidence, reading).losses.sum().div(len(rows)).backward()
    optimizer.step()
    state.observe(evidence, reading)
    state.remember(lambda observed: observed)


# ---------------------------------------------------------------------------------------------- what it says of votes


@dataclass(frozen=True)
class Held:
    """V single votes beside the model's margins.

    Attributes:
        p: [V] 1, 0, or 1/2 for a tie.
        m: [V] the model's margin in the view of the voter.
        who: [V] the voter, by number in the panel.
        group: [V] the group of the datum.
    """

    p: Floats
    m: Floats
    who: NDArray[np.int64]
    group: NDArray[np.int64]


def held(fitted: Fitted, panel: Panel, number: Tensor, inside: Tensor) -> Held:
    """Every vote of the voices that are heard on some data, against the model's view of that voice.

    A method that remembers how reliable a voice is takes a vote for right as often as that.
    """
    said, rows = heard(panel, number, inside)
    m = fitted.margins(panel, said, rows)
    each, who = said.by_voice()
    if "reliability" in fitted.memory:
        eta = with_anybody(fitted.memory["reliability"])[who, None, None]
        m = (eta * m.sigmoid() + (1 - eta) * (-m).sigmoid()).logit()
    cast, i, j = (each.votes + each.votes.mT).triu(1).nonzero(as_tuple=True)
    share, margin = each.vote_share[cast, i, j].double().numpy(), m[cast, i, j].double().numpy()
    group = np.unique(panel.groups, return_inverse=True)[1][rows.numpy()]
    return Held(
        share,
        margin,
        panel.voices.who[rows].T.flatten()[cast].numpy(),
        group[(cast % len(rows)).numpy()],
    )


# ---------------------------------------------------------------------------------------------- an unseen voice


def has_places(method: Method) -> bool:
    """Whether a voice that training never heard can be placed among the others (as in ``mmpo.adapt``)."""
    return method.score.apart and bool(grown(method.score, "tables", 2) or grown(method.score, "memory", 2))


def placed(fitted: Fitted, panel: Panel, number: Tensor, only: Tensor) -> Fitted:
    """The same with rows of their own for voices that training never heard, found from a few votes of theirs by what
    ``mmpo adapt`` does; everything else stays as it is. ``number`` [1 + R] goes on from the known voices.
    """
    method, new = fitted.method, 1 + int(number.max()) - fitted.voices
    tables, memories = (grown(method.score, what, fitted.voices) for what in ("tables", "memory"))
    labels = [labelled(fitted, panel, *heard(panel, number, torch.ones(len(panel), dtype=torch.bool), only))]
    rows = fitted_rows(method.score, labels, tables, new) if tables else {}
    rows |= remembered(method.score, labels, memories, fitted.voices, new) if memories else {}
    heads = copy.deepcopy(fitted.heads)
    for name in tables:
        weight = heads.beside["tables"][name].weight  # type: ignore[index]
        heads.beside["tables"][name].weight = nn.Parameter(torch.cat([weight.detach(), rows[name]]))  # type: ignore[index]
    memory = {n: torch.cat([known, rows[n]]) if n in rows else known for n, known in fitted.memory.items()}
    return Fitted(method, heads, memory, fitted.voices + new)


def labelled(fitted: Fitted, panel: Panel, said: Evidence, rows: Tensor) -> Labels:
    """What voices said as rows of their own, in which every comparison counts once."""
    with torch.no_grad():
        reading = fitted.heads.read(panel, rows, said.mask)
    each, who = said.by_voice()
    spoke = each.compared.any(-1).any(-1).nonzero().squeeze(-1)
    each = at(replace(each, weight=each.compared.to(each.weight)), spoke)
    own = replace(reading, tables={})._map(lambda t: t[spoke % len(rows)])
    tables = {name: table.detach() for name, table in reading.tables.items()}
    reading = replace(own, who=who[spoke], tables={**tables, **fitted.memory})
    return Labels(each, reading, fitted.method.target.said(each))
