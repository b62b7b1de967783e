"""Metrics that count: summed over the local updates of a step, where verl would average them."""

from verl_mars.rows import counted_rows
from verl_mars.store import Batch
from verl_mars.trainer.trainer import ViewTrainer

MISSING_ROLLOUTS = "mars/missing_rollouts"
"""Fused rollouts of a batch whose sessions failed. verl trains on the rest of their groups and counts nothing."""


class SumsCounts(ViewTrainer):
    """Counts missing rollouts, and adds up this count and those of the method."""

    _counts: dict[str, float]

    def step(self, metrics: dict, timing_raw: dict) -> Batch:
        """Run verl's step, and replace the means of counts by their sums."""
        self._counts = {}
        batch = super().step(metrics, timing_raw)
        metrics.update(self._counts)
        return batch

    def _step_once(self, metrics: dict, timing_raw: dict, sample_batch_size: int) -> Batch:
        batch = super()._step_once(metrics, timing_raw, sample_batch_size)
        wanted = sample_batch_size * self.config.actor_rollout_ref.rollout.n
        metrics[MISSING_ROLLOUTS] = float(max(0, wanted - int(counted_rows(batch.keys, batch.tags).sum())))
        for name in (self.method.counts | {MISSING_ROLLOUTS}) & metrics.keys():
            self._counts[name] = self._counts.get(name, 0.0) + metrics[name]
        return batch
