"""VPPO (arXiv 2510.09285): learn from the tokens and the responses that depend on the images.

A token's *dependency* on the images is S_t = KL( pi(.|images) || pi(.|masked images) ), where random patches of the
masked images are black. It shapes the advantage twice,

    m_t   = 1 on the ceil(k |o|) tokens of a response with the largest S_t, else 0                      (Eq. 4)
    alpha = b_min + (b_max - b_min) (S - min S) / (max S - min S)      S: mean S_t of a response        (Eq. 5)
    A'_t  = alpha A m_t                                                                                 (Eq. 6)

with min and max over the responses of a batch. The released code chooses b_max such that the mean of alpha is 1:
b_max = b_min + (1 - b_min) / mean of the normalised S.

Shapes: B rows (trajectories), T tokens. Results are detached.
"""

import torch

SMALLEST_RANGE = 1e-6
"""Mean dependencies of a batch that differ by no more count as equal; the value of the released code."""


def pivotal_tokens(dependency: torch.Tensor, response_mask: torch.Tensor, share: float) -> torch.Tensor:
    """The tokens of each response that keep their gradient: (B, T) bool, m_t of Eq. 4.

    Args:
        dependency: (B, T) S_t; values outside the mask are not looked at.
        response_mask: (B, T) 1 on response tokens.
        share: k, in (0, 1]; ceil(k |o|) tokens of a response are chosen. Of equal dependencies the earlier token is,
            where the released code leaves the choice to the sort.

    Raises:
        ValueError: shapes differ, ``share`` is impossible, or a dependency of a response token is negative or not
            finite.
    """
    inside = _response_tokens(dependency, response_mask)
    if not 0.0 < share <= 1.0:
        raise ValueError(f"share = {share}: a number above 0 and at most 1 is needed")
    count = (inside.sum(1, keepdim=True).double() * share - 1e-9).ceil()  # 0.1 x 30 is above 3 in binary
    ranked = torch.where(inside, dependency.detach().double(), -torch.inf)
    order = ranked.argsort(dim=1, descending=True, stable=True)
    place = torch.empty_like(order).scatter(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    return inside & (place < count)


def response_scale(
    dependency: torch.Tensor,
    response_mask: torch.Tensor,
    counted: torch.Tensor,
    lowest: float,
    highest: float | None,
) -> torch.Tensor:
    """The factor of each response's advantage: (B,) in float64, alpha of Eq. 5.

    Args:
        dependency, response_mask: (B, T) as for :func:`pivotal_tokens`.
        counted: (B,) bool, the rows that belong to the batch; others, and responses without tokens, get 1.
        lowest: b_min, not negative.
        highest: b_max, at least ``lowest``. None: chosen so that the mean factor is 1, as in the released code.

    Degenerate batches: where all mean dependencies are equal every factor is 1.

    Raises:
        ValueError: shapes differ, an impossible range, or as :func:`pivotal_tokens` says.
    """
    inside = _response_tokens(dependency, response_mask)
    if counted.shape != inside.shape[:1]:
        raise ValueError(f"counted must be ({inside.shape[0]},), got {tuple(counted.shape)}")
    if not lowest >= 0.0 or (highest is None and lowest > 1.0) or (highest is not None and not highest >= lowest):
        raise ValueError(
            f"lowest = {lowest}, highest = {highest}: lowest must not be negative, and at most highest, or 1 where "
            "highest is None"
        )
    length = inside.sum(1)
    chosen = counted & (length > 0)
    scale = torch.ones(len(counted), dtype=torch.float64, device=dependency.device)
    if not bool(chosen.any()):
        return scale
    mean = (torch.where(inside, dependency.detach().double(), 0.0).sum(1) / length)[chosen]
    if not mean.max() - mean.min() > SMALLEST_RANGE:
        return scale
    normalized = (mean - mean.min()) / (mean.max() - mean.min())
    top = lowest + (1.0 - lowest) / normalized.mean() if highest is None else highest
    scale[chosen] = lowest + (top - lowest) * normalized
    return scale


def _response_tokens(dependency: torch.Tensor, response_mask: torch.Tensor) -> torch.Tensor:
    """(B, T) bool, with everything checked that both shapings need."""
    if dependency.shape != response_mask.shape or dependency.dim() != 2:
        raise ValueError(
            "dependency and response_mask must both be (B, T); got "
            f"{tuple(dependency.shape)} and {tuple(response_mask.shape)}"
        )
    inside = response_mask.bool()
    bad = inside & ~(dependency.isfinite() & (dependency >= 0))
    if bool(bad.any()):
        row, token = bad.nonzero()[0].tolist()
        raise ValueError(
            f"the dependency of a token is a divergence, finite and not negative, but that of row {row}, token {token} "
            f"is {dependency[row, token].item()} ({int(bad.sum())} such tokens in the batch)"
        )
    return inside
