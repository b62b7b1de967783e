"""VOGUE (arXiv 2510.01444, later renamed DUPL): explore where the policy is unsure of what it sees or what it says.

Two branches: rollouts of the raw images and rollouts of noisy ones. Two uncertainties of a response token,

    u_per = 1/2 [ KL(p || q) + KL(q || p) ]      p = pi(.|fused view), q = pi(.|noisy view)         (Eq. 1)
    u_out = - sum_v pi(v) log pi(v)              of the view that the response belongs to

each give a bonus that is never more than a share of the advantage,

    g_out = min( |A| / beta_o, alpha_o u_out )   on both branches
    g_per = min( |A| / beta_p, alpha_p u_per )   on the noisy branch only

and a group of rollouts is of the noisy branch with a probability that falls to zero over the training,

    p_noi(s) = max(0, 1 - s / s_total)

Bonuses are never negative, on tokens with a negative advantage too: there they weaken the push away from what was
sampled. Shapes: B rows (trajectories), T tokens. Everything here is detached: no result carries a gradient.
"""

from dataclasses import dataclass

import torch

LOG_FLOOR = 1e-8
"""Added inside the logarithms of the sampled-token estimates, as in the authors' code: it keeps them finite."""


@dataclass(frozen=True)
class Bonus:
    """How large a bonus is and how much of the advantage it may be: min(|A| / beta, alpha * uncertainty)."""

    alpha: float
    beta: float


PERCEPTION = Bonus(alpha=1.0, beta=2.0)
OUTPUT = Bonus(alpha=0.4, beta=2.0)


def noisy_probability(step: int, total_steps: int, start: float = 1.0, end: float = 0.0) -> float:
    """p_noi(s), the probability that a group of training step ``step`` is of the noisy branch.

    It falls on a line from ``start`` at step 0 to ``end`` at ``total_steps`` and stays there; the paper's line is from
    1 to 0, its ablation's is 0.5 throughout.

    Raises:
        ValueError: fewer than one step in total, a negative step, or a probability outside [0, 1].
    """
    if total_steps < 1 or step < 0:
        raise ValueError(f"step {step} of {total_steps}: a step from 0 on of at least one step in total is needed")
    for name, value in (("start", start), ("end", end)):
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"{name} = {value}: a probability from 0 to 1 is needed")
    return start + (end - start) * min(step / total_steps, 1.0)


def exploration_bonus(advantages: torch.Tensor, uncertainty: torch.Tensor, alpha: float, beta: float) -> torch.Tensor:
    """min(|A| / beta, alpha * u): (B, T), never negative and never more than |A| / beta.

    Args:
        advantages: (B, T).
        uncertainty: (B, T), not negative.
        alpha: weight of the uncertainty, not negative.
        beta: the bonus is at most the beta-th part of |A|; positive.

    Degenerate cases: where the advantage is 0 there is no bonus.

    Raises:
        ValueError: shapes differ, an impossible ``alpha`` or ``beta``, or an uncertainty below zero or NaN.
    """
    _same_shape(advantages=advantages, uncertainty=uncertainty)
    if not alpha >= 0.0 or not beta > 0.0:
        raise ValueError(f"alpha = {alpha}, beta = {beta}: alpha must not be negative and beta must be positive")
    if not bool((uncertainty >= 0.0).all()):
        raise ValueError("an uncertainty is below zero or not a number; divergences and entropies never are")
    if alpha == 0.0:
        return torch.zeros_like(advantages)  # 0 times an infinite uncertainty would be NaN
    return torch.minimum(advantages.detach().abs() / beta, alpha * uncertainty.detach())


def symmetric_divergence(forward: torch.Tensor, reverse: torch.Tensor) -> torch.Tensor:
    """u_per of Eq. 1 from KL(p || q) and KL(q || p) over the vocabulary, (B, T) each.

    Raises:
        ValueError: shapes differ; (B, 1) would broadcast.
    """
    _same_shape(forward=forward, reverse=reverse)
    return 0.5 * (forward + reverse)


def sampled_divergence(log_probs: torch.Tensor, other_log_probs: torch.Tensor) -> torch.Tensor:
    """The authors' estimate of u_per from the sampled token: 1/2 (p - q)(log p - log q), (B, T), never negative.

    Args:
        log_probs: (B, T) log-probabilities of the response tokens under one view.
        other_log_probs: (B, T) under the other; the two may be exchanged.

    It is the sampled token's own summand of the symmetric KL over the vocabulary, not an unbiased estimate of it: the
    other tokens' summands, which are never negative either, are missing.

    Raises:
        ValueError: shapes differ; (B, 1) would broadcast.
    """
    _same_shape(log_probs=log_probs, other_log_probs=other_log_probs)
    p, q = log_probs.detach().double().exp(), other_log_probs.detach().double().exp()
    return 0.5 * (p - q) * ((p + LOG_FLOOR).log() - (q + LOG_FLOOR).log())


def sampled_entropy(log_probs: torch.Tensor) -> torch.Tensor:
    """The authors' estimate of u_out from the sampled token: - p log p, (B, T), never negative."""
    p = log_probs.detach().double().exp().clamp(max=1.0)
    return -p * (p + LOG_FLOOR).log().clamp(max=0.0)


def released_entropy(log_probs: torch.Tensor, noisy_log_probs: torch.Tensor, noisy: torch.Tensor) -> torch.Tensor:
    """u_out of the authors' code: :func:`sampled_entropy` of the noisy view where z = 1, else of the raw view.

    Their ``compute_grpo_outcome_advantage_dupl`` chooses between both views with the branch, although every response
    is a rollout of the raw images.

    Args:
        log_probs: (B, T) of the response tokens under the raw view.
        noisy_log_probs: (B, T) under the noisy view; values of other rows are not used.
        noisy: (B,) bool, the rows of the noisy branch.

    Raises:
        ValueError: shapes do not fit.
    """
    _same_shape(log_probs=log_probs, noisy_log_probs=noisy_log_probs)
    _one_per_row(noisy, log_probs)
    return torch.where(noisy[:, None], sampled_entropy(noisy_log_probs), sampled_entropy(log_probs))


def paper_advantages(
    advantages: torch.Tensor,
    entropy: torch.Tensor,
    divergence: torch.Tensor,
    noisy: torch.Tensor,
    perception: Bonus = PERCEPTION,
    output: Bonus = OUTPUT,
) -> torch.Tensor:
    """The paper's shaping: A + g_out, and + g_per on the noisy branch; both capped by the bare |A|.

    Args:
        advantages: (B, T) base advantages, normalised within the branch.
        entropy: (B, T) u_out under the row's own view.
        divergence: (B, T) u_per; values of rows that are not noisy are not used.
        noisy: (B,) bool, the rows of the noisy branch.

    Raises:
        ValueError: shapes do not fit, bonuses that could turn the sign of an advantage (:func:`paper_share` above 1),
            or as :func:`exploration_bonus` says.
    """
    _one_per_row(noisy, advantages)
    _refuse_flips(paper_share(perception, output))
    advantages = advantages.detach()
    bonus = exploration_bonus(advantages, entropy, output.alpha, output.beta)
    seen = exploration_bonus(advantages, divergence, perception.alpha, perception.beta)
    return advantages + bonus + torch.where(noisy[:, None], seen, 0.0)


def paper_share(perception: Bonus, output: Bonus) -> float:
    """The most that :func:`paper_advantages` adds, as a share of |A|; above 1 it turns negative advantages positive."""
    return 1.0 / perception.beta + 1.0 / output.beta


def released_share(perception: Bonus, output: Bonus) -> float:
    """The larger of the shares of :func:`released_advantages`, of |A| and then of |A1|; above 1 as in the paper's."""
    return max(1.0 / perception.beta, 1.0 / output.beta)


def released_advantages(
    advantages: torch.Tensor,
    entropy: torch.Tensor,
    divergence: torch.Tensor,
    noisy: torch.Tensor,
    perception: Bonus = PERCEPTION,
    output: Bonus = OUTPUT,
) -> torch.Tensor:
    """The shaping of the authors' code: the perception bonus first, then g_out capped by the already shaped |A|.

        A1 = A + z min( alpha_p u_per, |A| / beta_p )
        A2 = A1 + min( alpha_o u_out, |A1| / beta_o )

    Arguments and errors as in :func:`paper_advantages`; ``noisy`` says where z = 1, and ``entropy`` is that of
    :func:`released_entropy`. All rows are rollouts of the raw images.
    """
    _one_per_row(noisy, advantages)
    _refuse_flips(released_share(perception, output))
    advantages = advantages.detach()
    seen = exploration_bonus(advantages, divergence, perception.alpha, perception.beta)
    shaped = advantages + torch.where(noisy[:, None], seen, 0.0)
    return shaped + exploration_bonus(shaped, entropy, output.alpha, output.beta)


def _refuse_flips(share: float) -> None:
    if share > 1.0 + 1e-9:
        raise ValueError(
            f"the bonuses may come to {share:.3g} |A|, which turns a negative advantage into a positive one; "
            "1/perception_beta + 1/output_beta (with variant=released: each of them) must be at most 1"
        )


def _same_shape(**tensors: torch.Tensor) -> None:
    if len({tensor.shape for tensor in tensors.values()}) > 1:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
        raise ValueError(f"{' and '.join(tensors)} must have one shape, got {shapes}")


def _one_per_row(noisy: torch.Tensor, values: torch.Tensor) -> None:
    if noisy.shape != values.shape[:1] or noisy.dtype != torch.bool:
        raise ValueError(
            f"noisy must be ({values.shape[0]},) bool, one for each row of {tuple(values.shape)}; got "
            f"{tuple(noisy.shape)} {noisy.dtype}"
        )
