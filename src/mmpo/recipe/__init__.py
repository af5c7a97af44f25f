"""Recipes: what to train, on what, how; every key of one is known, checked, and does something."""

from mmpo.recipe.keys import IDLE_KEYS, TRAINING_KEYS
from mmpo.recipe.recipe import (
    Recipe,
    Shape,
    check_trust,
    is_switch,
    make_recipe,
    parse_value,
    read_recipe,
    set_key,
)

__all__ = [
    "IDLE_KEYS",
    "TRAINING_KEYS",
    "Recipe",
    "Shape",
    "check_trust",
    "is_switch",
    "make_recipe",
    "parse_value",
    "read_recipe",
    "set_key",
]
