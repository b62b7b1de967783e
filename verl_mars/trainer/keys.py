"""What verl's keys ``{uid}_{session}_{output}`` and tags say of the rows of a batch."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch


def counted_rows(keys: Sequence[str], tags: Sequence[Mapping[str, Any]]) -> torch.Tensor:
    """(B,) bool: the rows that enter group statistics.

    A session with several outputs (multi-turn) is one rollout: its last output counts, the others do not. Padding rows,
    which verl appends under uids of their own and with copies of a real row's fields, never count.
    """
    counted = torch.zeros(len(keys), dtype=torch.bool)
    counted[last_outputs(keys)] = True
    return counted & real_rows(tags)


def last_outputs(keys: Sequence[str]) -> torch.Tensor:
    """(B,) long: for each row, the row of its session's last output; its own where a session has one output."""
    last: dict[str, tuple[int, int]] = {}
    for row, key in enumerate(keys):
        session, _, output = key.rpartition("_")
        last[session] = max(last.get(session, (-1, -1)), (int(output), row))
    return torch.tensor([last[key.rpartition("_")[0]][1] for key in keys], dtype=torch.long)


def real_rows(tags: Sequence[Mapping[str, Any]]) -> torch.Tensor:
    """(B,) bool: the rows that are not verl's padding."""
    return torch.tensor([not tag.get("is_padding", False) for tag in tags], dtype=torch.bool)
