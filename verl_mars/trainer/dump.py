"""Further columns of verl's dump of training responses (``trainer.rollout_data_dir``)."""

from verl.trainer.ppo.v1 import PPOTrainer

from verl_mars.fields import Columns, FieldDict
from verl_mars.store import Batch


class DumpsColumns(PPOTrainer):
    """Gives each line of a step's dump what the parts of the trainer say about its row.

    The lines of a validation dump stay as they are.
    """

    _lines: dict[str, FieldDict] | None = None

    def dump_lines(self, batch: Batch) -> list[FieldDict]:
        """Name and value of each further column of a row, in the order of the batch's keys.

        A part of the trainer overrides it and adds to what its ``super()`` returns; a row without a value has null.
        """
        return [{} for _ in batch.keys]

    def _log_rollout_data(self, batch: Batch, timing_raw: dict[str, float], rollout_data_dir: str) -> None:
        self._lines = dict(zip(batch.keys, self.dump_lines(batch), strict=True))
        try:
            super()._log_rollout_data(batch, timing_raw, rollout_data_dir)
        finally:
            self._lines = None

    def _dump_generations(
        self,
        inputs: list[str],
        outputs: list[str],
        gts: list[object],
        scores: list[float],
        reward_extra_infos_dict: Columns,
        dump_path: str,
    ) -> None:
        """A line also has ``reward`` as a line of verl's validation dump: the score that was trained on, penalties
        included."""
        extra = reward_extra_infos_dict
        if self._lines is not None:
            lines = [self._lines[key] for key in extra["uid"]]
            names = dict.fromkeys(name for line in lines for name in line)
            extra = {"reward": list(scores), **{name: [line.get(name) for line in lines] for name in names}, **extra}
        super()._dump_generations(inputs, outputs, gts, scores, extra, dump_path)
