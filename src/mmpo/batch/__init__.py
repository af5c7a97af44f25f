"""The threshold: Datum -> Batch."""

from mmpo.batch.collate import Collator
from mmpo.batch.counts import Stated
from mmpo.batch.cuts import Cuts
from mmpo.batch.example import Example
from mmpo.batch.preparing import prepare
from mmpo.batch.statements import Vocabulary, evidence, named
from mmpo.batch.stored import StoredExamples
from mmpo.batch.tokenize import Encoded, Limits, encode_all, encoder

__all__ = [
    "Collator",
    "Cuts",
    "Encoded",
    "Example",
    "Limits",
    "Stated",
    "StoredExamples",
    "Vocabulary",
    "encode_all",
    "encoder",
    "evidence",
    "named",
    "prepare",
]
