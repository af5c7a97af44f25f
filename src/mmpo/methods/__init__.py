"""The catalogue: each method is 2-4 lines over the parts; this table says where each comes from."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mmpo.errors import UserError, nearest
from mmpo.methods import policy, reward
from mmpo.types import Method


@dataclass(frozen=True)
class Entry:
    """A row of the catalogue: how to build the method, and the paper it comes from."""

    build: Callable[..., Method]
    paper: str
    title: str

    @property
    def name(self) -> str:
        return self.build.__name__

    @property
    def parameters(self) -> dict[str, Any]:
        """The hyper-parameters with their defaults."""
        return {name: p.default for name, p in inspect.signature(self.build).parameters.items()}

    @property
    def about(self) -> str:
        return inspect.getdoc(self.build) or ""

    def as_dict(self) -> dict[str, Any]:
        """The row as plain data."""
        method = self.build()
        return {
            "name": self.name,
            "paper": self.paper,
            "title": self.title,
            "task": method.task,
            "needs": sorted(method.needs),
            "parameters": self.parameters,
            "equation": method.equation.splitlines(),
            "about": self.about,
        }

    def page(self) -> str:
        """The row as text for people."""
        method = self.build()
        parameters = ", ".join(f"{name}={value:g}" for name, value in self.parameters.items()) or "none"
        lines = [f"{self.name} ({method.task})", "", self.about, "", *method.equation.splitlines(), ""]
        lines += [f"needs       {', '.join(sorted(method.needs))}", f"parameters  {parameters}"]
        return "\n".join([*lines, f"paper       {self.citation()}", f"parts       {method}"])

    def citation(self) -> str:
        return f"{self.title}. arXiv:{self.paper}" if self.paper else self.title


_IPO = "A General Theoretical Paradigm to Understand Learning from Human Preferences"

CATALOGUE: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(policy.mmpo, "2410.03145", "Margin Matching Preference Optimization"),
        Entry(policy.dpo, "2305.18290", "Direct Preference Optimization"),
        Entry(policy.soft_dpo, "2305.18290", "Direct Preference Optimization, with the share of votes as its label"),
        Entry(policy.cdpo, "", "Mitchell (2023), A note on DPO with noisy preferences"),
        Entry(policy.robust_dpo, "2403.00409", "Provably Robust DPO"),
        Entry(policy.ipo_sum, "2310.12036", _IPO),
        Entry(policy.ipo_mean, "2310.12036", _IPO),
        Entry(policy.simpo, "2405.14734", "SimPO: Simple Preference Optimization with a Reference-Free Reward"),
        Entry(policy.slic, "2305.10425", "SLiC-HF: Sequence Likelihood Calibration with Human Feedback"),
        Entry(policy.rpo, "2405.16436", "Provably Mitigating Overoptimization in RLHF: RPO"),
        Entry(policy.odpo, "2402.10571", "Direct Preference Optimization with an Offset"),
        Entry(reward.mmpo_reward, "2410.03145", "Margin Matching Preference Optimization"),
        Entry(reward.soft_bradley_terry, "", "Bradley and Terry (1952), with the share of votes as its label"),
        Entry(
            reward.bradley_terry, "2203.02155", "Training language models to follow instructions with human feedback"
        ),
        Entry(reward.margin_bradley_terry, "2307.09288", "Llama 2: Open Foundation and Fine-Tuned Chat Models"),
    )
}


def build(name: str, **parameters: Any) -> Method:
    """A method by name. Raises UserError for an unknown name or parameter, naming the nearest known one."""
    if name not in CATALOGUE:
        raise UserError(f"unknown method {name!r}. {nearest(name, CATALOGUE)}")
    entry = CATALOGUE[name]
    for key, value in parameters.items():
        if key not in entry.parameters:
            raise UserError(f"method {name!r} has no parameter {key!r}. {nearest(key, entry.parameters)}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"method.{key} is {value!r}; a number is needed")
        if not math.isfinite(value) or value < 0:
            raise UserError(f"method.{key} is {value!r}; a finite number, 0 or more, is needed")
    return entry.build(**parameters)


def cite(method: Method) -> str:
    """The paper of the catalogue row whose parts a method has; of the parts themselves where no row has them all."""
    kinds = [type(part) for part in method.parts]
    for entry in CATALOGUE.values():
        if [type(part) for part in entry.build().parts] == kinds:
            return entry.citation()
    return f"A product of {', '.join(kind.__name__ for kind in kinds)}; see their docstrings for papers."
