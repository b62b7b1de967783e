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

SMALLEST_SPANS = {torch.float64: 1e-6, torch.float32: 1e-6, torch.float16: 5e-4, torch.bfloat16: 3e-2}
"""Dependencies of a response that differ by no more than this (in log(1 + nats)) count as equal, by the type of the
forward pass. Two passes over the same tokens differ in log-probs by about 0.055 (sd) in bfloat16, an eighth of that in
float16 and 1e-4 in float32. k3 makes x^2 / 2 of a difference x, and these values are 4.3 standard deviations up: one
token in 60,000 is beyond."""

Gate = Literal["absolute", "quantile"]


@dataclass(frozen=True)
class TokenWeights:
    """Weights of a batch's tokens and what they were made from; 0 outside the responses."""

    weights: torch.Tensor  # (B, T), each row sums to its number of response tokens
    normalized: torch.Tensor  # (B, T) I_t of Eq. 5
    boosted: torch.Tensor  # (B, T) bool: on the upper branch of Eq. 6; nowhere in a response of equal dependencies


def token_weights(
    dependency: torch.Tensor,
    response_mask: torch.Tensor,
    tau: float = 0.4,
    beta: float = 2.0,
    gate: Gate = "absolute",
    min_span: float = SMALLEST_SPANS[torch.float32],
    max_weight: float | None = None,
    max_dependency: float | None = None,
) -> torch.Tensor:
    """The weight of each token (Eqs. 4 to 7); arguments, errors and degenerate cases as in :func:`weigh_tokens`.

    Returns:
        (B, T) weights; a row sums to its number of response tokens, tokens keep the rank of their dependencies, and
        everything outside the response is 0.
    """
    return weigh_tokens(dependency, response_mask, tau, beta, gate, min_span, max_weight, max_dependency).weights


def weigh_tokens(
    dependency: torch.Tensor,
    response_mask: torch.Tensor,
    tau: float = 0.4,
    beta: float = 2.0,
    gate: Gate = "absolute",
    min_span: float = SMALLEST_SPANS[torch.float32],
    max_weight: float | None = None,
    max_dependency: float | None = None,
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
        min_span: a response whose largest and smallest log(1 + S_t) differ by no more counts as one of equal
            dependencies. Ours: Eqs. 5 and 7 would blow rounding noise up to whole weights.
        max_weight: largest weight, at least 1; what is cut off is spread evenly over the response's other tokens, so
            that the sum stays. None: none, the paper. Where one of 1,000 tokens depends on the images, its weight is
            1,000. Another pass of Eq. 7 after the cut would bring that weight back.
        max_dependency: S_t above it counts as this much. None: none. EasyR1, which the paper trains with, clamps its
            estimate at 10: else one token that the blind view finds e^6 times likelier holds all image tokens down.

    Degenerate responses: equal dependencies give weights of 1, so a dependency of zero leaves the advantages as they
    are. A response without tokens has weights 0.

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
    if not min_span >= 0.0:
        raise ValueError(f"min_span = {min_span}: a number that is not negative is needed")
    if max_weight is not None and not max_weight >= 1.0:
        raise ValueError(f"max_weight = {max_weight}: at least 1, the mean weight of a response, is needed")
    if max_dependency is not None and not max_dependency > 0.0:
        raise ValueError(f"max_dependency = {max_dependency}: a positive number is needed")
    inside = response_mask.bool()
    values = dependency.detach().double()
    _refuse_impossible(values, inside)
    kind = torch.promote_types(dependency.dtype, torch.float32)
    if values.shape[1] == 0:
        nothing = torch.zeros_like(values, dtype=kind)
        return TokenWeights(nothing, nothing, inside)
    if max_dependency is not None:
        values = values.clamp(max=max_dependency)

    logs = torch.log1p(torch.where(inside, values, 0.0))
    low = torch.where(inside, logs, torch.inf).amin(1, keepdim=True)
    high = torch.where(inside, logs, -torch.inf).amax(1, keepdim=True)
    flat = ~(high - low > min_span)  # responses without tokens too
    normalized = torch.where(inside & ~flat, (logs - low) / (high - low + EPSILON), 0.0)

    threshold = torch.full_like(low, tau) if gate == "absolute" else _quantile(normalized, inside, tau)
    boosted = inside & ~flat & (normalized >= threshold)
    suppression = normalized / (threshold + EPSILON)
    boost = 1.0 + beta * (normalized - threshold) / (1.0 - threshold + EPSILON)
    raw = torch.where(inside, torch.where(boosted, boost, suppression), 0.0)

    total, length = raw.sum(1, keepdim=True), inside.sum(1, keepdim=True).double()
    spread = raw * length / total.clamp(min=EPSILON)
    weights = torch.where(flat | (total <= EPSILON), inside.double(), spread)
    if max_weight is not None:
        weights = _capped(weights, inside, max_weight)
    return TokenWeights(weights.to(kind), normalized.to(kind), boosted)


def effective_tokens(weights: torch.Tensor, response_mask: torch.Tensor) -> torch.Tensor:
    """Share of a response's tokens that its advantage effectively rests on: (sum w)^2 / sum w^2 / |o|, (B,).

    1 where all weights are equal, 1 / |o| where one token has all of it, NaN for a response without tokens.

    Raises:
        ValueError: shapes differ.
    """
    if weights.shape != response_mask.shape or weights.dim() != 2:
        raise ValueError(
            "weights and response_mask must both be (B, T); got "
            f"{tuple(weights.shape)} and {tuple(response_mask.shape)}"
        )
    inside = response_mask.bool()
    values = torch.where(inside, weights.double(), 0.0)
    return values.sum(1) ** 2 / values.square().sum(1) / inside.sum(1)


def _capped(weights: torch.Tensor, inside: torch.Tensor, cap: float) -> torch.Tensor:
    """Weights of at most ``cap`` that sum to what they did: min(cap, w + c), with the c of each response solved for.

    With the k largest weights at the cap, c_k = (|o| - k cap - sum of the others) / (|o| - k). The right k is the first
    for which no other weight comes above the cap.
    """
    length = inside.sum(1, keepdim=True).double()
    descending = torch.where(inside, weights, -torch.inf).sort(1, descending=True).values
    finite = descending.clamp(min=0.0)  # k = 0 .. T - 1 of them at the cap, the others after
    capped = torch.arange(weights.shape[1], dtype=torch.float64, device=weights.device)
    rest = finite.sum(1, keepdim=True) - finite.cumsum(1) + finite
    lift = (length - capped * cap - rest) / (length - capped).clamp(min=1.0)
    fits = (descending + lift <= cap) | (capped >= length - 1)
    chosen = lift.gather(1, fits.to(torch.uint8).argmax(1, keepdim=True))
    return torch.where(inside, torch.minimum(weights + chosen.clamp(min=0.0), torch.full_like(weights, cap)), 0.0)


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
