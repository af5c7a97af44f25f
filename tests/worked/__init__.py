"""What each method of the catalogue must say of one pair, worked out apart from the library; a file for each family.

``PAIRWISE`` holds the formula for one pair, ``WORKED`` the value on ``pairs.KNOWN`` under the default parameters.
"""

from worked import (
    attributes,
    denoised,
    field,
    general,
    goals,
    groups,
    lists,
    mixed,
    noisy,
    people,
    policy,
    regularized,
    tokens,
)

PAIRWISE = {
    **attributes.PAIRWISE,
    **policy.PAIRWISE,
    **noisy.PAIRWISE,
    **people.PAIRWISE,
    **denoised.PAIRWISE,
    **lists.PAIRWISE,
    **general.PAIRWISE,
    **goals.PAIRWISE,
    **groups.PAIRWISE,
    **mixed.PAIRWISE,
    **tokens.PAIRWISE,
    **regularized.PAIRWISE,
    **field.PAIRWISE,
}
WORKED = {
    **attributes.WORKED,
    **policy.WORKED,
    **noisy.WORKED,
    **people.WORKED,
    **denoised.WORKED,
    **lists.WORKED,
    **general.WORKED,
    **goals.WORKED,
    **groups.WORKED,
    **mixed.WORKED,
    **tokens.WORKED,
    **regularized.WORKED,
    **field.WORKED,
}
