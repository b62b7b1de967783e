"""``trainer.v1.trainer_mode=mars_sync | mars_colocate_async | mars_separate_async``: verl's modes with views.

Each rolls out mono sessions beside the fused ones and hands their rewards to the estimator (MARS), scores responses
under another view (PGPO, VOGUE), and shows the details of the rewards in metrics and dumps. With an estimator of verl's
own a mode does what verl's mode of that name does.
"""

from verl.trainer.ppo.v1 import PPOTrainerColocateAsync, PPOTrainerSeparateAsync, PPOTrainerSync

from verl_mars.reward.training import RewardDetailsMixin
from verl_mars.trainer.mixin import AnchorsMixin
from verl_mars.trainer.scored_views import ScoredViewsMixin


class MarsTrainerSync(RewardDetailsMixin, ScoredViewsMixin, AnchorsMixin, PPOTrainerSync):
    """Rollout and training take turns on the same devices."""

    base_mode = "sync"


class MarsTrainerColocateAsync(RewardDetailsMixin, ScoredViewsMixin, AnchorsMixin, PPOTrainerColocateAsync):
    """The same devices; unfinished sessions are interrupted for an update and go on with the new weights."""

    base_mode = "colocate_async"


class MarsTrainerSeparateAsync(RewardDetailsMixin, ScoredViewsMixin, AnchorsMixin, PPOTrainerSeparateAsync):
    """Rollout on devices of its own, which never waits for the trainer."""

    base_mode = "separate_async"
