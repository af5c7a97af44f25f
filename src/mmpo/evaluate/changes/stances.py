"""Who says which stance an answer takes: judges, and what they make of many answers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import yaml
from numpy.typing import ArrayLike
from tqdm.auto import tqdm

from mmpo.data import texts
from mmpo.errors import UserError, first_line
from mmpo.evaluate.changes.drift import stance_probabilities
from mmpo.evaluate.changes.style import phrases
from mmpo.evaluate.resample import Floats
from mmpo.safe_yaml import read_yaml
from mmpo.types import Text


class Said(NamedTuple):
    """An answer to be judged, and the topic it is judged on, "" where there are none."""

    prompt: Text
    answer: Text
    topic: str = ""


class StanceJudge(Protocol):
    """Says of N answers how likely each of S named stances is."""

    @property
    def stances(self) -> tuple[str, ...]: ...

    def __call__(self, said: Sequence[Said]) -> Floats:
        """Log-probs [N, S], up to a constant in each row."""
        ...


@dataclass(frozen=True)
class Each:
    """A judge that is asked about one answer at a time: ``one(prompt, answer, topic)`` gives its log-probs [S]."""

    stances: tuple[str, ...]
    one: Callable[[Text, Text, str], ArrayLike]

    def __call__(self, said: Sequence[Said]) -> Floats:
        judged = [np.asarray(self.one(*each), float) for each in tqdm(said, desc="judging", unit="answer")]
        return np.stack(judged) if judged else np.empty((0, len(self.stances)))


@dataclass(frozen=True)
class Keywords:
    """Stances told by words: the share of the words found that speak for each.

    An answer without any of them takes the stance that lists no words, where there is one; else all are as likely.
    Longer phrases are found first, so that "do not support" is not "support" as well. Nothing else is understood: not
    irony, not a denial that no phrase spells out. It is a thermometer for large movements, not a reader.

    Attributes:
        stances: their names.
        topics: for each topic {stance: phrases}; "" is for the topics that are not named.
    """

    stances: tuple[str, ...]
    topics: Mapping[str, Mapping[str, Sequence[str]]]

    def __call__(self, said: Sequence[Said]) -> Floats:
        """Log-probs [N, S]. Raises UserError for a topic without words."""
        with np.errstate(divide="ignore"):
            return np.log([self._counts(each, found) for each, found in zip(said, self._found(said), strict=True)])

    def unmatched(self, said: Sequence[Said]) -> int:
        """How many answers hold none of the words."""
        return sum(not found for found in self._found(said))

    def _found(self, said: Sequence[Said]) -> list[list[int]]:
        """The stances of the words that stand in each answer."""
        patterns = {topic: self._pattern(words) for topic, words in self.topics.items()}
        out = []
        for each in said:
            pattern, place = patterns[self._named(each.topic)]
            out.append([place[_plain(hit[0])] for hit in pattern.finditer(texts.words(each.answer))])
        return out

    def _pattern(self, words: Mapping[str, Sequence[str]]) -> tuple[re.Pattern[str], dict[str, int]]:
        place = {_plain(word): self.stances.index(stance) for stance, listed in words.items() for word in listed}
        return phrases(*place), place

    def _counts(self, said: Said, found: Sequence[int]) -> Floats:
        if found:
            return np.bincount(found, minlength=len(self.stances)).astype(float)
        words = self.topics[self._named(said.topic)]
        silent = np.array([not words.get(stance) for stance in self.stances], float)
        return silent if silent.any() else np.ones(len(self.stances))

    def _named(self, topic: str) -> str:
        if topic not in self.topics and "" not in self.topics:
            raise UserError(f"stances: there are no words for the topic {topic!r}; give some, or some for '*'")
        return topic if topic in self.topics else ""


def _plain(phrase: str) -> str:
    return " ".join(phrase.lower().replace("’", "'").split())


def read_keywords(path: str | Path) -> Keywords:
    """A keyword judge from a YAML or JSON file: ``{stance: [words]}``, or ``{topic: {stance: [words]}}``.

    One stance may have an empty list: it is taken where no word is found. A topic "*" is for all that are not named.
    Raises UserError where the file does not say this, or where a word speaks for two stances.
    """
    path = Path(path)
    try:
        read = read_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read ({first_line(error)}); give a YAML or JSON file of stances") from error
    if not isinstance(read, Mapping) or not read:
        raise UserError(f"{path}: holds no stances; give {{support: [words], oppose: [words], neutral: []}}")
    nested = all(isinstance(value, Mapping) for value in read.values())
    by_topic = {
        ("" if topic == "*" else str(topic)): value for topic, value in (read if nested else {"": read}).items()
    }
    checked = {topic: _checked(path, topic, found) for topic, found in by_topic.items()}
    stances = tuple(dict.fromkeys(stance for found in checked.values() for stance in found))
    if len(stances) < 2:
        raise UserError(f"{path}: names {len(stances)} stance; name at least two")
    return Keywords(stances, checked)


def _checked(path: Path, topic: str, found: Mapping[Any, Any]) -> dict[str, tuple[str, ...]]:
    where = f"{path}: topic {topic}" if topic else str(path)
    owner: dict[str, str] = {}
    for stance, words in found.items():
        if not isinstance(words, Sequence) or isinstance(words, str) or not all(isinstance(w, str) for w in words):
            raise UserError(
                f"{where}: {stance} is {json.dumps(words, default=str)[:80]}; give a list of words in quotes"
            )
        for word in map(_plain, words):
            if not word:
                raise UserError(f"{where}: {stance} lists an empty word; leave it out")
            if owner.setdefault(word, stance) != stance:
                raise UserError(f"{where}: {word!r} speaks for {owner[word]} and for {stance}; leave it with one")
    if not owner:
        raise UserError(f"{where}: no stance lists a word; give some")
    return {str(stance): tuple(words) for stance, words in found.items()}


def silence(judge: StanceJudge, said: Sequence[Said]) -> list[str]:
    """What the reader must know where stances are told by words: how many answers hold none of them."""
    silent = judge.unmatched(said) if isinstance(judge, Keywords) else 0
    return [f"answers that hold none of the words for a stance: {silent:,} of {len(said):,}"] * bool(silent)


def stances_of(judge: StanceJudge, said: Sequence[Said]) -> Floats:
    """p(s | x, y, T) of N answers, [N, S]; each different answer is judged once. Raises UserError for a wrong shape."""
    different = list({_key(each): each for each in said}.values())
    places = {_key(each): n for n, each in enumerate(different)}
    logps = np.asarray(judge(different), float)
    if logps.shape != (len(different), len(judge.stances)):
        raise UserError(
            f"the judge gave log-probs of shape {logps.shape} for {len(different)} answers and {len(judge.stances)} "
            "stances; give one for each stance of each answer"
        )
    return stance_probabilities(logps)[[places[_key(each)] for each in said]]


def _key(said: Said) -> tuple[str, str, str]:
    return texts.key(said.prompt), texts.key(said.answer), said.topic
