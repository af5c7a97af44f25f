"""The text room: a stream of Datum in, a stream of Datum out. It loads, checks and shapes data."""

from mmpo.data.ledger import Dropped, Ledger
from mmpo.data.load import Loaded, load
from mmpo.data.source import Source

__all__ = ["Dropped", "Ledger", "Loaded", "Source", "load"]
