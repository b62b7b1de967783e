"""Which step of a run of ``step_time.py`` belongs to which arm; loaded into every process of such a run.

``VERL_USE_EXTERNAL_MODULES=step_time_arms`` puts the arms in the place of the trainer mode ``mars_sync``.
"""

import itertools
from types import ModuleType

import wrapt

ARMS = ("grpo", "mars", "two_phase")
_ORDERS = tuple(itertools.permutations(ARMS))


def arm_of(step: int) -> str:
    """The arm of a step, from 1 on. Each block of three steps has all arms, six blocks have them in every order."""
    block, place = divmod(step - 1, len(ARMS))
    return _ORDERS[block % len(_ORDERS)][place]


def _exchange_trainer(modes: ModuleType) -> None:
    from step_time_two_phase import ArmsTrainer

    modes.MarsTrainerSync = ArmsTrainer  # type: ignore[attr-defined]


wrapt.register_post_import_hook(_exchange_trainer, "verl_mars.trainer.modes")
