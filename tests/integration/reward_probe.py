"""Loaded into every process of a run (VERL_USE_EXTERNAL_MODULES): the trainer mode shows the details of the rewards."""

import wrapt


def _install(_v1):
    from verl_mars.reward.training import RewardDetailsMixin
    from verl_mars.trainer.modes import MarsTrainerSync

    if not issubclass(MarsTrainerSync, RewardDetailsMixin):
        MarsTrainerSync.__bases__ = (RewardDetailsMixin, *MarsTrainerSync.__bases__)


wrapt.register_post_import_hook(_install, "verl.trainer.ppo.v1")
