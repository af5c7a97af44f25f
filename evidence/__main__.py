"""``python -m evidence [NAME ...]``: measure again what docs/evidence.md and docs/ideas.md claim.

``python -m evidence ideas METHOD ...`` measures the ideas of some methods alone.
"""

from __future__ import annotations

import sys
from importlib import import_module

NAMES = (
    "ideas",
    "truth",
    "ukp",
    "ukp_frozen",
    "pandalm",
    "experts",
    "judges",
    "alpaca",
    "temperature",
    "policy",
    "bandit",
    "bestof",
    "judged",
    "health",
    "raters",
    "page",
)

asked = sys.argv[1:2] if sys.argv[1:2] == ["ideas"] else sys.argv[1:]
for name in asked or NAMES:
    if name not in NAMES:
        sys.exit(f"unknown evidence {name!r}; known: {', '.join(NAMES)}")
    import_module(f"evidence.{name}").main()
