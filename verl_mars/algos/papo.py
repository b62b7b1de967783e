"""PAPO (arXiv 2507.06448): what the policy says should depend on what it sees.

The paper adds three terms to the loss of GRPO or DAPO, each averaged over the response tokens like the loss itself,

    L = L_base - gamma KL3_t + eta_1 H_t + eta_2 H_t(masked)          KL3_t = r_t - 1 - log r_t          (Eqs. 2, 3)

with r_t = pi(o_t | masked images) / pi(o_t | images), and with -log pi(o_t) of the sampled token for the entropy H_t.
The released code scores the masked view once, before the update, and keeps it fixed. Then only two terms have a
gradient, d KL3 = (1 - r_t) d log pi and d H = -d log pi, and both are that of a policy gradient with the advantage

    A'_t = A_t + gamma c_t (1 - r_t) + eta_1          c_t = 1 where KL3_t is below its clip, else 0

At the old policy the gradients are equal. From the second mini-batch on they differ: here r_t stays that of the old
policy, and PPO's ratio and clip act on the whole advantage.

In expectation over tokens drawn from all of pi, gamma (1 - r_t) lowers the likelihood of what the policy would say
without the hidden patches, and eta_1 does nothing: E[d log pi] = 0. With top_p below 1 the latter sharpens the policy.

Shapes: B rows (trajectories), T tokens. Results are detached.
"""

import torch

LARGEST_LOG_RATIO = 20.0
"""Beyond it the released code's clamp leaves no gradient."""


def perception_advantage(
    log_probs: torch.Tensor, masked_log_probs: torch.Tensor, gamma: float, eta: float, max_divergence: float
) -> torch.Tensor:
    """The advantage that PAPO's terms amount to: gamma c_t (1 - r_t) + eta, (B, T) in float64.

    Args:
        log_probs: (B, T) of the response tokens under the view they were sampled with.
        masked_log_probs: (B, T) of the same tokens with patches of the images hidden.
        gamma: weight of the perception term, not negative.
        eta: weight of the entropy term, not negative.
        max_divergence: KL3 above it is clipped and pulls no more. The released code clamps at 10, and at
            ``kl_prcp_clipping`` if that is switched on.

    Degenerate cases: equal log-probs (no images) leave eta alone. 1 - r is at most 1, and bounded below by the clip.

    Raises:
        ValueError: shapes differ or a setting is negative.
    """
    if log_probs.shape != masked_log_probs.shape or log_probs.dim() != 2:
        raise ValueError(
            "log_probs and masked_log_probs must both be (B, T); got "
            f"{tuple(log_probs.shape)} and {tuple(masked_log_probs.shape)}"
        )
    for name, value in (("gamma", gamma), ("eta", eta), ("max_divergence", max_divergence)):
        if not value >= 0.0:
            raise ValueError(f"{name} = {value}: a number that is not negative is needed")
    log_ratio = masked_log_probs.detach().double() - log_probs.detach().double()
    excess = torch.expm1(log_ratio.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO))  # r - 1, exact for small log-ratios
    unclipped = (excess - log_ratio <= max_divergence) & (log_ratio.abs() <= LARGEST_LOG_RATIO)
    return torch.where(unclipped, -gamma * excess, 0.0) + eta
