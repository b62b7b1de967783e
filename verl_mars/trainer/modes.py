"""``trainer.v1.trainer_mode=mars_sync``."""

from verl.trainer.ppo.v1 import PPOTrainerSync

from verl_mars.trainer.mixin import AnchorsMixin


class MarsTrainerSync(AnchorsMixin, PPOTrainerSync):
    """verl's synchronous trainer with anchors."""

    base_mode = "sync"
