"""Which step of a run of ``step_time.py`` belongs to which arm."""

import itertools

ARMS = ("grpo", "mars", "two_phase")
_ORDERS = tuple(itertools.permutations(ARMS))


def arm_of(step: int) -> str:
    """The arm of a step, from 1 on. Each block of three steps has all arms, six blocks have them in every order."""
    block, place = divmod(step - 1, len(ARMS))
    return _ORDERS[block % len(_ORDERS)][place]
