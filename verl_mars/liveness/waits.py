"""Waits of verl's replay buffer that would never end."""

from collections import Counter
from collections.abc import Callable

from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

HOPELESS = 1000
"""Consecutive failed groups after which the run is aborted."""


class WaitsThatEnd(ReplayBuffer):
    """Ends a wait for groups that will never come.

    verl polls until enough groups are finished. It does not check that the processes that roll them out are alive, and
    the asynchronous modes replace failed groups without a limit.
    """

    check_processes: Callable[[], None] | None = None
    """Raises if a process died that the run needs; called at every poll."""
    _failed_in_a_row = 0
    _finished_before: frozenset[str] = frozenset()

    def _sync_metadata_from_transfer_queue(self) -> None:
        if self.check_processes is not None:
            self.check_processes()
        super()._sync_metadata_from_transfer_queue()

    def _evict_terminal_groups(
        self, global_steps: int, partition_id: str, eviction_reasons: tuple[set[str], set[str], set[str], Counter]
    ) -> tuple[set[str], int, int, dict]:
        failed, finished = eviction_reasons[2], frozenset(self.finished_keys[partition_id])
        if finished - self._finished_before:
            self._failed_in_a_row = 0
        self._finished_before = finished
        self._failed_in_a_row += len(failed)
        if self._failed_in_a_row >= HOPELESS:
            raise RuntimeError(
                f"{self._failed_in_a_row} groups of rollouts failed one after the other, and verl would replace them "
                'forever; the log says why they failed ("Error in _run_prompt")'
            )
        return super()._evict_terminal_groups(global_steps, partition_id, eviction_reasons)
