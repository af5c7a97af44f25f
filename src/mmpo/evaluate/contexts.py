"""What a context does to a model's preferences, and what is lost where contexts and judgements are inferred.

Context-aware preference modelling, arXiv 2407.14916. Contexts as data: ``mmpo.data.contexts``; the evaluation that the
command line runs: ``mmpo.evaluate.suites.rpr``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from mmpo.evaluate.agreement import accuracy


def reversal_accuracy(m_a: ArrayLike, m_b: ArrayLike) -> float:
    """The share of right verdicts on N reversal pairs, from the margins [N] of y_a over y_b under z_a, where y_a is
    better, and under z_b, where y_b is. Of any model that ignores the context it is exactly 1/2."""
    return float((accuracy(1.0, np.asarray(m_a, float)) + accuracy(0.0, np.asarray(m_b, float))).mean() / 2)


def context_gain(leads: ArrayLike, without: ArrayLike) -> float:
    """By how much accuracy grows with the context: leads [N] of the better response with it, and without any or with
    a nonsense one."""
    return float((accuracy(1.0, np.asarray(leads, float)) - accuracy(1.0, np.asarray(without, float))).mean())


def preference_error_bound(p_z: ArrayLike, q_z: ArrayLike, p_hat: ArrayLike, q_hat: ArrayLike) -> float:
    """An upper bound of |P - P^|, the error of a marginal preference: E_{z ~ p} |q_z - q^_z| + TV(p, p^).

    All are [Z]: true probabilities of the contexts and of the preference in each, then the inferred ones. A judge that
    is good in every context and a distribution of contexts that is supervised bound the error together.
    """
    p, q, other_p, other_q = (np.asarray(one, dtype=float) for one in (p_z, q_z, p_hat, q_hat))
    return float(p @ np.abs(q - other_q) + np.abs(p - other_p).sum() / 2)
