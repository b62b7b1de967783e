"""How far two policies are apart at each token: estimated at the sampled token, or over the whole vocabulary.

For a token x drawn from p, (r - 1) - log r with r = q(x) / p(x) has the divergence as its mean. Exactly,

    KL(p || q) = sum_v p_v (log p_v - log q_v)        p = softmax(h W' / T), q = softmax(g W' / T)

A policy's logits over a vocabulary V of 150,000 are what costs memory in reinforcement learning of language models. So
they are never held here: the last hidden states h and g, which are a hundred times smaller, are multiplied with a chunk
of the output layer's rows at a time, and the sums are carried from chunk to chunk as in an online softmax. With

    Z_p = log sum_v exp a_v      D_p = sum_v exp(a_v - Z_p) (a_v - b_v)      a, b: the two policies' logits

KL(p || q) = D_p - Z_p + Z_q, and likewise for the reverse with the same chunks.

Shapes: N tokens, H hidden units, V words.
"""

import torch
from torch.nn.functional import linear

CHUNK_ELEMENTS = 2**20
"""Logits of one policy that exist at a time: 4 MB in float32, next to 600 kB for every token of a log-prob pass."""

LARGEST_LOG_RATIO = 20.0
"""Log-ratios are cut off here, so that one token that is impossible without the images stays a finite number."""

SMALLEST_CHUNK = 1024
"""Words of a chunk, at least: shorter matrix products waste the time of starting them."""


def sampled_dependency(log_probs: torch.Tensor, view_log_probs: torch.Tensor) -> torch.Tensor:
    """The dependency estimated at the sampled token: S_t = (r - 1) - log r with r = pi_view / pi.

    Args:
        log_probs: (B, T) log-probabilities of the response tokens under the view they were sampled with.
        view_log_probs: (B, T) the same tokens under a view that hides images or parts of them.

    Returns:
        (B, T) in float64, never negative ("k3"). Its mean over tokens drawn from all of pi is KL(pi || pi_view)
        exactly; drawn with top_p below 1 it misses the tokens outside of the nucleus.

    Source: arXiv 2604.01840, appendix A.1. Log-ratios beyond +-20 are cut off.

    Raises:
        ValueError: shapes differ; (B, 1) would broadcast.
    """
    if log_probs.shape != view_log_probs.shape:
        raise ValueError(
            f"log_probs and view_log_probs must have one shape; got {tuple(log_probs.shape)} and "
            f"{tuple(view_log_probs.shape)}"
        )
    log_ratio = (view_log_probs.detach().double() - log_probs.detach().double()).clamp(
        -LARGEST_LOG_RATIO, LARGEST_LOG_RATIO
    )
    return (torch.expm1(log_ratio) - log_ratio).clamp(min=0.0)  # expm1 keeps small ratios from cancelling out


@torch.no_grad()
def vocabulary_divergence(
    hidden: torch.Tensor,
    other_hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    temperature: float = 1.0,
    chunk: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """KL(p || q) and KL(q || p) of each token, in nats.

    Args:
        hidden: (N, H) what the output layer gets under the one view: p.
        other_hidden: (N, H) under the other view: q.
        weight: (V, H) of the output layer, of the type that the policy computes logits in.
        bias: (V,) of the output layer, where it has one.
        temperature: logits are divided by it, as for the log-probs that they are compared with.
        chunk: words at a time; default: such that about a million logits exist at once.

    Returns:
        Two tensors (N,) in float32, never negative. Logits are computed in the type of ``weight`` and summed in
        float64 between chunks, float32 within one.

    Source: arXiv 2604.01840, Eq. 1; arXiv 2510.01444, Eq. 1 (half the sum of both).

    Raises:
        ValueError: shapes do not fit, or a temperature that is not positive.
    """
    if hidden.shape != other_hidden.shape or hidden.dim() != 2 or weight.shape[1:] != hidden.shape[1:]:
        raise ValueError(
            "hidden and other_hidden must be (N, H) and weight (V, H); got "
            f"{tuple(hidden.shape)}, {tuple(other_hidden.shape)} and {tuple(weight.shape)}"
        )
    if not temperature > 0:
        raise ValueError(f"temperature = {temperature}: a positive number is needed")
    words = chunk or max(SMALLEST_CHUNK, CHUNK_ELEMENTS // max(len(hidden), 1))
    p, q = _OnlineMean(hidden), _OnlineMean(other_hidden)
    for start in range(0, len(weight), words):
        rows = slice(start, start + words)
        some = None if bias is None else bias[rows]
        a = linear(hidden.to(weight.dtype), weight[rows], some).float() / temperature
        b = linear(other_hidden.to(weight.dtype), weight[rows], some).float() / temperature
        p.add(a, a - b)
        q.add(b, b - a)
    apart = p.log_sum - q.log_sum
    return (p.mean - apart).clamp(min=0).float(), (q.mean + apart).clamp(min=0).float()


class _OnlineMean:
    """The mean of a value under softmax(logits), and log sum exp of the logits, with the logits coming in chunks."""

    def __init__(self, like: torch.Tensor) -> None:
        self._highest = torch.full((len(like),), -torch.inf, dtype=torch.float64, device=like.device)
        self._sum = torch.zeros_like(self._highest)
        self._weighed = torch.zeros_like(self._highest)

    def add(self, logits: torch.Tensor, values: torch.Tensor) -> None:
        """Take in a chunk: (N, C) logits and (N, C) values."""
        highest = torch.maximum(self._highest, logits.amax(1).double())
        shrink = (self._highest - highest).exp()
        mass = (logits - highest[:, None].float()).exp_()
        self._sum = self._sum * shrink + mass.sum(1).double()
        self._weighed = self._weighed * shrink + (mass * values).sum(1).double()
        self._highest = highest

    @property
    def log_sum(self) -> torch.Tensor:
        return self._highest + self._sum.log()

    @property
    def mean(self) -> torch.Tensor:
        return self._weighed / self._sum
