"""Answers of the model under test: written once, by an endpoint or a model folder, and kept on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any, Protocol

import torch

from mmpo.asking.account import Account
from mmpo.asking.ask import ask
from mmpo.asking.endpoint import Endpoint, Reply, Request, key_of
from mmpo.asking.pending import Pending, distinct
from mmpo.asking.store import Store
from mmpo.evaluate.judged.questions import Answer, Question
from mmpo.models.load import load_policy, load_tokenizer
from mmpo.models.sample import Sampling, prompt_ids, sample
from mmpo.models.store import weights_digest


class Writer(Protocol):
    """What answers requests: a ``Server`` or a ``Folder``."""

    def __call__(self, requests: Sequence[Request]) -> tuple[dict[str, Reply], Account]:
        """Replies by id, and an account."""
        ...

    def look(self, requests: Sequence[Request]) -> tuple[dict[str, Reply], list[Pending]]:
        """The replies that are stored, and what would be asked for the others."""
        ...


@dataclass(frozen=True)
class Server:
    """A model on a server, as a writer."""

    endpoint: Endpoint
    store: Store

    def __call__(self, requests: Sequence[Request]) -> tuple[dict[str, Reply], Account]:
        return ask(requests, self.endpoint, self.store)

    def look(self, requests: Sequence[Request]) -> tuple[dict[str, Reply], list[Pending]]:
        keys, questions = distinct(requests, self.endpoint)
        stored = self.store.replies()
        missing = [question for key, question in questions.items() if key not in stored]
        return {id: stored[key] for id, key in keys.items() if key in stored}, missing


_AT_ONCE = 64
"""Answers of a model folder that are written, and on disk, together."""


def write(
    questions: Sequence[Question], writer: Writer, temperature: Callable[[str], float], max_tokens: int, turns: int
) -> tuple[dict[str, Answer], Account]:
    """The answers to up to ``turns`` turns of each question, each turn asked after the answers to those before it.

    A question that the writer leaves without an answer on some turn is missing.
    """
    said: dict[str, list[str]] = {question.id: [] for question in questions}
    cut: dict[str, bool] = dict.fromkeys(said, False)
    accounts = []
    for turn in range(turns):
        open_now = [q for q in questions if len(q.turns) > turn and len(said[q.id]) == turn]
        if not open_now:
            break
        requests = {
            q.id: Request(f"{q.id}/turn{turn + 1}", _talk(q, said[q.id]), temperature(q.category), max_tokens)
            for q in open_now
        }
        replies, account = writer(list(requests.values()))
        accounts.append(account)
        for name, request in requests.items():
            if reply := replies.get(request.id):
                said[name].append(reply.text)
                cut[name] |= reply.cut
    whole = [q.id for q in questions if len(said[q.id]) >= min(turns, len(q.turns))]
    return {name: Answer(tuple(said[name]), cut[name]) for name in whole}, sum(accounts[1:], accounts[0])


def _talk(question: Question, said: Sequence[str]) -> tuple[Mapping[str, str], ...]:
    """The turns so far, ending with the user's."""
    roles = [{"role": "user", "content": text} for text in question.turns[: len(said) + 1]]
    replies = [{"role": "assistant", "content": text} for text in said]
    return tuple(turn for n, user in enumerate(roles) for turn in (user, *replies[n : n + 1]))


@dataclass
class Folder:
    """A policy in a folder or on the hub, as a writer.

    An answer in the store counts for the same weights, chat template, generation settings, talk and sampling. Those of
    one temperature are drawn 64 at a time; the drawing depends on who shares a batch, so the 64 are the same whatever
    is in the store, and a run that was stopped ends as if it had not been. The model is loaded when it is first asked.
    """

    name: str
    store: Store
    seed: int = 0
    dtype: str = "float32"
    pad_token: str | None = None
    trust_remote_code: bool = False

    @cached_property
    def tokenizer(self) -> Any:
        return load_tokenizer(self.name, self.pad_token, self.trust_remote_code)

    @cached_property
    def model(self) -> Any:
        device = torch.accelerator.current_accelerator() or torch.device("cpu")
        return load_policy(self.name, self.tokenizer, self.dtype, self.trust_remote_code).eval().to(device)

    @cached_property
    def digest(self) -> str:
        known = (weights_digest(self.model), self.tokenizer.chat_template, self.model.generation_config.to_dict())
        return sha256(repr(known).encode()).hexdigest()[:32]

    def __call__(self, requests: Sequence[Request]) -> tuple[dict[str, Reply], Account]:
        """The replies by id. Raises UserError where a prompt leaves no room for an answer."""
        bodies = {request.id: self._body(request, self.digest) for request in requests}
        keys = {name: key_of(body) for name, body in bodies.items()}
        fresh: list[Reply] = []
        with self.store.opened() as kept:
            cached = [kept.replies[key] for key in dict.fromkeys(keys.values()) if key in kept.replies]
            for some in _batches(requests):
                if all(keys[request.id] in kept.replies for request in some):
                    continue
                for request, reply in zip(some, self._draw(some), strict=True):
                    if keys[request.id] not in kept.replies:
                        kept.put(keys[request.id], 0, bodies[request.id], reply)
                        fresh.append(reply)
            found = {name: kept.replies[key] for name, key in keys.items()}
            return found, Account.of(fresh, cached, {}, {}, 0, kept.torn)

    def look(self, requests: Sequence[Request]) -> tuple[dict[str, Reply], list[Pending]]:
        stored = self.store.replies()
        # Without a store the model need not be loaded to know that nothing is in it.
        bodies = [self._body(request, self.digest if stored else self.name) for request in requests]
        pending = [Pending(key_of(body), one.id, 0, body) for one, body in zip(requests, bodies, strict=True)]
        return (
            {one.id: stored[one.key] for one in pending if one.key in stored},
            [one for one in pending if one.key not in stored],
        )

    def _body(self, request: Request, model: str) -> dict[str, Any]:
        return {
            "model": model,
            "messages": [dict(message) for message in request.messages],
            "temperature": request.temperature,
            "max_tokens": request.max_tokens,
            "seed": self.seed,
            "dtype": self.dtype,
        }

    def _draw(self, requests: Sequence[Request]) -> list[Reply]:
        first = requests[0]
        how = Sampling(first.max_tokens or 1024, temperature=first.temperature or 0.0, seed=self.seed)
        drawn = sample(self.model, self.tokenizer, [request.messages for request in requests], how)
        return [
            Reply(
                request.id,
                one.text,
                len(prompt_ids(request.messages, self.tokenizer)),
                len(one.tokens),
                "stop" if one.ended else "length",
                model=self.name,
            )
            for request, (one,) in zip(requests, drawn, strict=True)
        ]


def _batches(requests: Sequence[Request]) -> list[list[Request]]:
    """Requests of like sampling, in their order, so many at once."""
    alike: dict[tuple[Any, Any], list[Request]] = {}
    for request in requests:
        alike.setdefault((request.temperature, request.max_tokens), []).append(request)
    return [some[n : n + _AT_ONCE] for some in alike.values() for n in range(0, len(some), _AT_ONCE)]


def record(name: str, question: Question, answer: Answer) -> dict[str, Any]:
    """An answer as a line of answers.jsonl, in the layout of FastChat."""
    return {
        "question_id": question.id,
        "model_id": name,
        "choices": [{"index": 0, "turns": list(answer.turns)}],
        "cut": answer.cut,
    }
