"""Loaded into every process of a run of ``step_time.py`` (``VERL_USE_EXTERNAL_MODULES=step_time_plugin``).

Puts the trainer with the arms in the place of the trainer mode ``mars_sync``.
"""

from types import ModuleType

import wrapt


def _exchange_trainer(modes: ModuleType) -> None:
    from step_time_two_phase import ArmsTrainer

    vars(modes)["MarsTrainerSync"] = ArmsTrainer


wrapt.register_post_import_hook(_exchange_trainer, "verl_mars.trainer.modes")
