"""The nouns of the house, in the order a datum walks: Datum, Evidence, Batch, Reading, Method, Outcome.

Shapes use B (prompts), K (responses to a prompt), N (sequences in a batch), S (all their tokens on one row), M (the
tokens of them that are scored), T (tokens of the longest sequence), V (vocabulary) and H (hidden size). Entry (i, j) of
any [B, K, K] tensor reads "i over j". A is the number of voices that spoke of a prompt, C of contrasts,
D of outputs of a reward model that has several.
"""

from mmpo.types.evidence import Evidence, Tensors, Voices
from mmpo.types.method import (
    CLOSE,
    VOICES,
    Method,
    Objective,
    Outcome,
    Part,
    Probe,
    Regularizer,
    Score,
    Target,
    inside,
    nested,
)
from mmpo.types.reading import Batch, PerToken, Reader, Reading, Tokens
from mmpo.types.text import ROLES, About, Contrast, Datum, Judgement, Message, Text

__all__ = [
    "CLOSE",
    "ROLES",
    "VOICES",
    "About",
    "Batch",
    "Contrast",
    "Datum",
    "Evidence",
    "Judgement",
    "Message",
    "Method",
    "Objective",
    "Outcome",
    "Part",
    "PerToken",
    "Probe",
    "Reader",
    "Reading",
    "Regularizer",
    "Score",
    "Target",
    "Tensors",
    "Text",
    "Tokens",
    "Voices",
    "inside",
    "nested",
]
