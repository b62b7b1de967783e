"""Whether the rollout engine samples from the actor's weights, from the log-probs that both give the same tokens."""

import math
from collections.abc import Mapping

CORRELATION = "training/rollout_actor_probs_pearson_corr"
LOG_PPL = "rollout_corr/log_ppl_abs_diff"

LEARNING_RATE = "actor_rollout_ref.actor.optim.lr=1e-3"
"""One update moves a response's mean log-prob by far more than :data:`LARGEST_LOG_PPL`; at 1e-5 none would be seen."""

LEAST_CORRELATION = 0.99
LARGEST_LOG_PPL = 0.02
"""Nats. bf16 against bf16 gives 0.001. An absolute difference of probabilities says nothing where random weights
spread them over 152,000 words: each is about 1e-5."""


def differences(metrics: Mapping[str, float]) -> list[str]:
    """Signs that engine and actor have different weights in this step; empty: none."""
    correlation, log_ppl = metrics[CORRELATION], metrics[LOG_PPL]
    found = []
    if not correlation >= LEAST_CORRELATION:  # NaN is a difference
        found.append(f"correlation of probabilities {correlation:.4f} < {LEAST_CORRELATION}")
    if not log_ppl <= LARGEST_LOG_PPL or not math.isfinite(log_ppl):
        found.append(f"log-ppl difference {log_ppl:.4f} > {LARGEST_LOG_PPL}")
    return found
