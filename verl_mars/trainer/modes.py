"""``trainer.v1.trainer_mode=mars_sync``."""

from verl.trainer.ppo.v1 import PPOTrainerSync

from verl_mars.reward.training import RewardDetailsMixin
from verl_mars.trainer.mixin import AnchorsMixin


class MarsTrainerSync(RewardDetailsMixin, AnchorsMixin, PPOTrainerSync):
    """verl's synchronous trainer with anchors, and with the details of the rewards in metrics and dumps."""

    base_mode = "sync"
