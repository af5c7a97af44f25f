"""``python -m evidence [NAME ...]``: measure again what docs/evidence.md claims."""

from __future__ import annotations

import sys
from importlib import import_module

NAMES = ("ukp", "experts", "policy", "page")

for name in sys.argv[1:] or NAMES:
    if name not in NAMES:
        sys.exit(f"unknown evidence {name!r}; known: {', '.join(NAMES)}")
    import_module(f"evidence.{name}").main()
