"""PGPO (arXiv 2604.01840): the advantage of a response, spread over its tokens by how much each depends on the images.

A token's *dependency* on the images is the divergence of the policy that sees them from the policy that does not, at
the same prefix of the same response (the fused and the blind view),

    S_t = KL( pi(.|q, I, o_<t) || pi(.|q, o_<t) )                                             (Eq. 1)

and its weight grows with the dependency's place within its own response,

    I_t = (L_t - min L) / (max L - min L + eps)      L_t = log(1 + S_t)                       (Eqs. 4, 5)
    w_t = I_t / (tau + eps)                          where I_t <  tau: suppressed
          1 + beta (I_t - tau) / (1 - tau + eps)     where I_t >= tau: boosted                (Eq. 6)
    A_t = A * w_t * |o| / sum_j w_j                                                           (Eqs. 7, 8)

so that a response's weights sum to its length and its advantage is shifted between tokens, never scaled as a whole.

Shapes: B rows (trajectories), T tokens. Everything here is detached: a weight carries no gradient.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch

EPSILON = 1e-8
"""eps of Eqs. 5 to 7."""

LARGEST_LOG_RATIO = 20.0
"""Log-ratios are cut off here, so that one token that is impossible without the images stays a finite number."""

SMALLEST_SPAN = 1e-6
"""Dependencies of a response that differ by no more than this (in log(1 + nats)) count as equal."""

Gate = Literal["absolute", "quantile"]


@dataclass(frozen=True)
class TokenWeights:
    """Weights of a batch's tokens and what they were made from; 0 outside the responses."""

    weights: torch.Tensor  # (B, T), each row sums to its number of response tokens
    normalized: torch.Tensor  # (B, T) I_t of Eq. 5
    boosted: torch.Tensor  # (B, T) bool: on the upper branch of Eq. 6; nowhere in a response of equal dependencies


def sampled_dependency(log_probs: torch.Tensor, blind_log_probs: torch.Tensor) -> torch.Tensor:
    """The dependency estimated at the sampled token: S_t = (r - 1) - log r with r = pi_blind / pi_fused.

    Args:
        log_probs: (B, T) log-probabilities of the response tokens under the view they were sampled with.
        blind_log_probs: (B, T) the same tokens under the blind view.

    Returns:
        (B, T) in float64, never negative. Its mean over tokens drawn from pi_fused is Eq. 1 exactly ("k3").

    Source: arXiv 2604.01840, appendix A.1. Log-ratios beyond +-20 are cut off.
    """
    log_ratio = (blind_log_probs.detach().double() - log_probs.detach().double()).clamp(
        -LARGEST_LOG_RATIO, LARGEST_LOG_RATIO
    )
    return (torch.expm1(log_ratio) - log_ratio).clamp(min=0.0)  # expm1 keeps small ratios from cancelling out


def token_weights(
    dependency: torch.Tensor,
    response_mask: torch.Tensor,
    tau: float = 0.4,
    beta: float = 2.0,
    gate: Gate = "absolute",
) -> torch.Tensor:
    """The weight of each token (Eqs. 4 to 7); arguments, errors and degenerate cases as in :func:`weigh_tokens`.

    Returns:
        (B, T) weights; a row sums to its number of response tokens, tokens keep the rank of their dependencies, and
        everything outside the response is 0.
    """
    return weigh_tokens(dependency, response_mask, tau, beta, gate).weights


def weigh_tokens(
    dependency: torch.Tensor,
    response_mask: torch.Tensor,
    tau: float = 0.4,
    beta: float = 2.0,
    gate: Gate = "absolute",
) -> TokenWeights:
    """Token weights with what they were made from.

    Args:
        dependency: (B, T) S_t in nats, not negative; values outside the mask are not looked at.
        response_mask: (B, T) 1 on response tokens. Gaps (tool outputs) belong to no response.
        tau: where suppression ends and boosting begins, within [0, 1].
        beta: the most that the boost adds to a weight before Eq. 7.
        gate: ``absolute``: ``tau`` is a value of I_t, as in the paper. ``quantile``: it is the share of a response's
            tokens that is suppressed; the threshold is the I_t at place floor(tau * |o|) in ascending order. A port
            describes the authors' development code so, with two more things that are not taken over: weights below
            0.1 lifted to it, and no Eq. 7.

    Degenerate responses: where all dependencies are equal (within :data:`SMALLEST_SPAN`, which is ours: Eqs. 5 and 7
    would blow rounding noise up to whole weights) every weight is 1; so a dependency of zero leaves the advantages as
    they are. A response without tokens has weights 0.

    Raises:
        ValueError: shapes differ, ``tau``, ``beta`` or ``gate`` is impossible, or a dependency of a response token is
            negative or not finite (named by row and token).
    """
    if dependency.shape != response_mask.shape or dependency.dim() != 2:
        raise ValueError(
            "dependency and response_mask must both be (B, T); got "
            f"{tuple(dependency.shape)} and {tuple(response_mask.shape)}"
        )
    if not 0.0 <= tau <= 1.0:
        raise ValueError(f"tau = {tau}: a number from 0 (boost only) to 1 (suppress only) is needed")
    if not 0.0 <= beta < float("inf"):
        raise ValueError(f"beta = {beta}: a finite number that is not negative is needed")
    if gate not in get_args(Gate):
        raise ValueError(f"gate = {gate!r}: allowed are {', '.join(get_args(Gate))}")
    inside = response_mask.bool()
    values = dependency.detach().double()
    _refuse_impossible(values, inside)

    logs = torch.log1p(torch.where(inside, values, 0.0))
    low = torch.where(inside, logs, torch.inf).amin(1, keepdim=True)
    high = torch.where(inside, logs, -torch.inf).amax(1, keepdim=True)
    flat = ~(high - low > SMALLEST_SPAN)  # responses without tokens too
    normalized = torch.where(inside & ~flat, (logs - low) / (high - low + EPSILON), 0.0)

    threshold = torch.full_like(low, tau) if gate == "absolute" else _quantile(normalized, inside, tau)
    boosted = inside & ~flat & (normalized >= threshold)
    suppression = normalized / (threshold + EPSILON)
    boost = 1.0 + beta * (normalized - threshold) / (1.0 - threshold + EPSILON)
    raw = torch.where(inside, torch.where(boosted, boost, suppression), 0.0)

    total, length = raw.sum(1, keepdim=True), inside.sum(1, keepdim=True).double()
    spread = raw * length / total.clamp(min=EPSILON)
    weights = torch.where(flat | (total <= EPSILON), inside.double(), spread)
    kind = torch.promote_types(dependency.dtype, torch.float32)
    return TokenWeights(weights.to(kind), normalized.to(kind), boosted)


def _quantile(normalized: torch.Tensor, inside: torch.Tensor, tau: float) -> torch.Tensor:
    """(B, 1) the value at place floor(tau * |o|) of each response in ascending order, the last where that is beyond."""
    length = inside.sum(1, keepdim=True)
    place = torch.minimum((length.double() * tau).floor().long(), length - 1).clamp(min=0)
    ascending = torch.where(inside, normalized, torch.inf).sort(1).values
    return torch.where(length > 0, ascending.gather(1, place), 0.0)


def _refuse_impossible(values: torch.Tensor, inside: torch.Tensor) -> None:
    bad = inside & ~(values.isfinite() & (values >= 0.0))
    if bad.any():
        row, token = bad.nonzero()[0].tolist()
        raise ValueError(
            f"the dependency of a token is a divergence, finite and not negative, but that of row {row}, token {token} "
            f"is {values[row, token].item()} ({int(bad.sum())} such tokens in the batch)"
        )
