"""The identity of a run in its checkpoints."""

from pathlib import Path

from verl.trainer.ppo.v1 import PPOTrainer

from verl_mars.preflight.checkpoints import Identity


class SavesIdentity(PPOTrainer):
    """Writes the identity of the run into each checkpoint."""

    def _save_checkpoint(self) -> None:
        Identity.of(self.config).save(checkpoint_folder(self))
        super()._save_checkpoint()


def checkpoint_folder(trainer: PPOTrainer) -> Path:
    """The folder of the checkpoint that a trainer would save now."""
    return Path(trainer.config.trainer.default_local_dir) / f"global_step_{trainer.global_steps}"
