"""A reward with different values for different answers: the share of letters. Random weights answer nothing right."""

LETTERS = (
    "reward.custom_reward_function.path=pkg://letters_reward",
    "reward.custom_reward_function.name=compute_score",
)
"""Overrides that choose it."""


def compute_score(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    return sum(c.isalpha() and c.isascii() for c in solution_str) / max(1, len(solution_str))
