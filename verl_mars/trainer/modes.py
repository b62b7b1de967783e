"""``trainer.v1.trainer_mode=mars_sync | mars_colocate_async | mars_separate_async``: verl's modes with views.

Each runs the method that ``algorithm.adv_estimator`` names, shows the details of the rewards in metrics and dumps, and
ends with an explanation if a process dies. With an estimator of verl's own a mode does what verl's mode of that name
does.
"""

from verl.trainer.ppo.v1 import PPOTrainerColocateAsync, PPOTrainerSeparateAsync, PPOTrainerSync

from verl_mars import _compat
from verl_mars.liveness.processes import EndsWithDeadProcesses
from verl_mars.preflight.checkpoints import how_to_continue
from verl_mars.trainer.anchor_memory import RemembersAnchors
from verl_mars.trainer.checkpoints import SavesIdentity
from verl_mars.trainer.counts import SumsCounts
from verl_mars.trainer.image_costs import FreesImages
from verl_mars.trainer.reward_details import RewardDetails
from verl_mars.trainer.rollout_dump import DumpsPrompts
from verl_mars.trainer.sight import LooksFirst
from verl_mars.trainer.token_dump import DumpsTokens
from verl_mars.trainer.validation import ValidatesSources


class MarsTrainer(
    RewardDetails,
    ValidatesSources,
    DumpsPrompts,
    DumpsTokens,
    RemembersAnchors,
    FreesImages,
    SumsCounts,
    SavesIdentity,
    EndsWithDeadProcesses,
    LooksFirst,  # after it: a process that dies while it looks is explained too
):
    """The parts that all three modes have."""

    def how_to_continue(self) -> str:
        """Which command resumes the run, and from which checkpoint."""
        return how_to_continue(self.config)

    def on_train_begin(self) -> None:
        """Begin verl's loop with a garbage collector that leaves everything loaded so far alone."""
        super().on_train_begin()
        _compat.freeze_startup_objects()


class MarsTrainerSync(MarsTrainer, PPOTrainerSync):
    """Rollout and training take turns on the same devices."""

    base_mode = "sync"


class MarsTrainerColocateAsync(MarsTrainer, PPOTrainerColocateAsync):
    """The same devices; an update interrupts unfinished sessions, which continue with the new weights."""

    base_mode = "colocate_async"


class MarsTrainerSeparateAsync(MarsTrainer, PPOTrainerSeparateAsync):
    """Rollout on separate devices, which never waits for the trainer."""

    base_mode = "separate_async"
