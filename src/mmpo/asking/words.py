"""Questions in plain words to a model behind an endpoint, for whatever wants a function of texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mmpo.asking.ask import ask
from mmpo.asking.endpoint import Endpoint, Request
from mmpo.asking.store import Store


def in_words(endpoint: Endpoint, store: Store, max_tokens: int | None = 256) -> Callable[[Sequence[str]], list[str]]:
    """A function that asks each text once and gives the answers, "" where there is none; all are kept in the store.

    An answer that was cut at ``max_tokens`` is none. What all of it cost, and what failed, is printed.
    """

    def asked(questions: Sequence[str]) -> list[str]:
        requests = [
            Request(f"question {n}", ({"role": "user", "content": text},), max_tokens=max_tokens)
            for n, text in enumerate(questions)
        ]
        replies, account = ask(requests, endpoint, store)
        print("\n".join(account.summary()))
        return [reply.text if (reply := replies.get(r.id)) and not reply.cut else "" for r in requests]

    return asked
