"""``trainer.v1.trainer_mode=mars_sync | mars_colocate_async | mars_separate_async``: verl's modes with anchors.

Each rolls out mono sessions beside the fused ones, hands their rewards to the estimator, and shows the details of the
rewards in metrics and dumps. Without ``adv_estimator=mars`` a mode does what verl's own mode of that name does.
"""

from verl.trainer.ppo.v1 import PPOTrainerColocateAsync, PPOTrainerSeparateAsync, PPOTrainerSync

from verl_mars.reward.training import RewardDetailsMixin
from verl_mars.trainer.mixin import AnchorsMixin


class MarsTrainerSync(RewardDetailsMixin, AnchorsMixin, PPOTrainerSync):
    """Rollout and training take turns on the same devices."""

    base_mode = "sync"


class MarsTrainerColocateAsync(RewardDetailsMixin, AnchorsMixin, PPOTrainerColocateAsync):
    """The same devices; unfinished sessions are interrupted for an update and go on with the new weights."""

    base_mode = "colocate_async"


class MarsTrainerSeparateAsync(RewardDetailsMixin, AnchorsMixin, PPOTrainerSeparateAsync):
    """Rollout on devices of its own, which never waits for the trainer."""

    base_mode = "separate_async"
