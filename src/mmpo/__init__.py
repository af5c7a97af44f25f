"""mmpo: preference optimisation with graded feedback."""

__version__ = "0.1.0"
