"""Instructions with checkable answers, and what an answer is truly worth.

The language is small and every word stands alone between spaces. An instruction asks for a list::

    please name three fruits other than kiwi and plum in alphabetical order .
    please sort these tools in reverse order : saw axe drill hammer .
    which of these are animals : sheep saw cat plum bear ? in alphabetical order .

and a perfect answer to the last is ``here are three animals : bear , cat , sheep . hope this helps .``
"""

from __future__ import annotations

import re
from dataclasses import dataclass

CATEGORIES: dict[str, tuple[str, ...]] = {
    name: tuple(words.split())
    for name, words in {
        "fruits": "apple banana cherry grape kiwi lemon orange plum",
        "animals": "bear cat dog fox horse lion rabbit sheep",
        "tools": "axe brush drill hammer ladder pliers saw wrench",
        "colours": "black blue green pink red silver white yellow",
        "cities": "athens berlin cairo delhi london oslo paris rome",
        "clothes": "apron belt coat gloves hat jacket scarf shirt",
    }.items()
}
ITEMS = frozenset(item for items in CATEGORIES.values() for item in items)
PHRASES = {
    "name": "please name {number} {category} other than {shown} in {direction} order .",
    "sort": "please sort these {category} in {direction} order : {shown} .",
    "pick": "which of these are {category} : {shown} ? in {direction} order .",
}
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")
PADDING = ("well", "um", "basically", "actually", "really", "frankly")
CLOSING = "hope this helps ."
FRAME = "please name sort these other than and which of are in alphabetical reverse order here : ? ,"
WORDS = tuple(dict.fromkeys((*FRAME.split(), *CLOSING.split(), *NUMBERS, *PADDING, *CATEGORIES, *sorted(ITEMS))))
"""Every word of the language, once."""

WEIGHTS: dict[str, float] = {
    "correctness": 3.0,
    "completeness": 2.0,
    "order": 2.0,
    "brevity": 1.0,
    "courtesy": 1.0,
    "heading": 0.5,
    "form": 0.5,
}
BEST = sum(WEIGHTS.values())
"""The utility of a perfect answer: 10."""


@dataclass(frozen=True)
class Task:
    """What an instruction asks for: ``count`` of the ``allowed`` items, sorted by name.

    ``shown`` are the items that stand in the instruction: those to sort, to pick from, or to leave out.
    """

    kind: str
    category: str
    count: int
    descending: bool
    shown: tuple[str, ...]

    @property
    def allowed(self) -> frozenset[str]:
        members = frozenset(CATEGORIES[self.category])
        return members - frozenset(self.shown) if self.kind == "name" else members & frozenset(self.shown)

    @property
    def heading(self) -> str:
        return f"here are {NUMBERS[self.count]} {self.category} :"

    @property
    def prompt(self) -> str:
        return PHRASES[self.kind].format(
            number=NUMBERS[self.count],
            category=self.category,
            shown=(" and " if self.kind == "name" else " ").join(self.shown),
            direction="reverse" if self.descending else "alphabetical",
        )

    def sorted(self, items: list[str]) -> list[str]:
        return sorted(items, reverse=self.descending)

    def follows(self, first: str, second: str) -> bool:
        """Whether ``second`` may stand behind ``first``."""
        return first > second if self.descending else first < second


def read(prompt: str) -> Task:
    """The task behind an instruction, the inverse of ``Task.prompt``. Raises ValueError for any other text."""
    words = prompt.split()
    category = next((word for word in words if word in CATEGORIES), None)
    kind = next((kind for kind, phrase in PHRASES.items() if words[:2] == phrase.split()[:2]), None)
    if category is None or kind is None:
        raise ValueError(f"not an instruction of this world: {prompt!r}")
    shown = tuple(word for word in words if word in ITEMS)
    members = [item for item in shown if item in CATEGORIES[category]]
    count = NUMBERS.index(words[2]) if kind == "name" else len(members)
    return Task(kind, category, count, "reverse" in words, shown)


def attributes(prompt: str, response: str) -> dict[str, float]:
    """What an answer does well, each from 0 to 1; any text is an answer.

    - correctness: the share of the stated items that are right, repeats and surplus items counting as wrong;
    - completeness: the share of the wanted items that are there;
    - order: the neighbours that stand in the order asked for, as a share of the best possible count;
    - brevity: 1 without padding, a quarter less for each word that carries nothing;
    - courtesy: it closes with "hope this helps .";
    - heading: it opens with what was asked for, count and category, half each;
    - form: the list has its commas and its full stop.

    Without one right item the last four are 0 as well: a polite refusal is worth nothing here.
    """
    task = read(prompt)
    allowed = task.allowed
    opening, body, courtesy = _sections([word for word in response.split() if word not in PADDING])
    stated = [word for word in response.split() if word in ITEMS]
    right = [item for item in dict.fromkeys(stated) if item in allowed]
    if not right:
        return dict.fromkeys(WEIGHTS, 0.0)
    found = min(len(right), task.count)
    in_order = sum(map(task.follows, right, right[1:]))
    list_words = [word for word in body if word in ITEMS or word in {",", "."}]
    padding = len(body) - len(list_words) + sum(word in PADDING for word in response.split())
    return {
        "correctness": found / len(stated),
        "completeness": found / task.count,
        "order": min(in_order, task.count - 1) / (task.count - 1),
        "brevity": max(0.0, 1 - padding / 4),
        "courtesy": float(courtesy),
        "heading": (NUMBERS[task.count] in opening) / 2 + (task.category in opening) / 2,
        "form": float(list_words == f"{' , '.join(stated)} .".split()),
    }


def _sections(words: list[str]) -> tuple[list[str], list[str], bool]:
    """Heading words, the words between, and whether it closes politely."""
    text = " ".join(words)
    opening = re.match(rf"here are ({'|'.join(NUMBERS)}) ({'|'.join(CATEGORIES)}) : ", text)
    body = text[opening.end() :] if opening else text
    return opening[0].split() if opening else [], body.removesuffix(CLOSING).split(), body.endswith(CLOSING)


def utility(prompt: str, response: str) -> float:
    """The true worth of an answer, from 0 to 10: the attributes, weighted by ``WEIGHTS``.

    Two answers may differ by a stray word (0.25) or by everything (10), so near-ties and clear wins are both common.
    """
    return sum(WEIGHTS[name] * value for name, value in attributes(prompt, response).items())
