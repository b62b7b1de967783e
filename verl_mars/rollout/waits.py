"""Waits of verl's replay buffer that would never end."""

from collections import Counter
from collections.abc import Callable
from typing import Any

HOPELESS = 1000
"""So many groups failed one after the other, and not one was finished among them."""


class WaitsThatEnd:
    """Ends a wait for groups that will never come. Mixed into verl's replay buffers.

    verl polls until enough groups are finished. It does not ask whether those who roll them out are alive, and where it
    replaces failed groups (asynchronous modes) it does so for ever.
    """

    check_processes: Callable[[], None] | None = None
    """Raises where a process died that the run needs; called at every poll."""
    _failed_in_a_row = 0
    _finished_before: frozenset[str] = frozenset()

    def _sync_metadata_from_transfer_queue(self) -> None:
        if self.check_processes is not None:
            self.check_processes()
        super()._sync_metadata_from_transfer_queue()  # type: ignore[misc]

    def _evict_terminal_groups(
        self, global_steps: int, partition_id: str, reasons: tuple[set[str], set[str], set[str], Counter]
    ) -> Any:
        failed, finished = reasons[2], frozenset(self.finished_keys[partition_id])  # type: ignore[attr-defined]
        if finished - self._finished_before:
            self._failed_in_a_row = 0
        self._finished_before = finished
        self._failed_in_a_row += len(failed)
        if self._failed_in_a_row >= HOPELESS:
            raise RuntimeError(
                f"{self._failed_in_a_row} groups of rollouts failed one after the other, and verl would replace them "
                'for ever; the log says why they failed ("Error in _run_prompt")'
            )
        return super()._evict_terminal_groups(global_steps, partition_id, reasons)  # type: ignore[misc]
