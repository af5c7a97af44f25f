"""``python -m soak [NAME ...]``: measure again what docs/reliability.md promises."""

from __future__ import annotations

import sys
from importlib import import_module

NAMES = ("kills", "fuzz", "ranks", "million", "plan", "page")

asked = sys.argv[1:]
for name in asked or NAMES:
    if name not in NAMES:
        sys.exit(f"unknown soak run {name!r}; known: {', '.join(NAMES)}")
    import_module(f"soak.{name}").main()
