"""Scoring a view: what the old policy makes of the batch's responses when it is shown another view of their prompts.

Re-viewed rows go to a TransferQueue partition of their own, and the partition is cleared whatever happens. For
estimates at the sampled token verl's ``compute_log_prob`` runs on them as on any others (:func:`score_views`). For the
divergence over the whole vocabulary a worker of ours compares them with the training rows (:func:`compare_views`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transfer_queue as tq
from transfer_queue import KVBatchMeta
from verl.utils import tensordict_utils

from verl_mars.trainer.divergence_worker import FED, OWN_PLACES, PIXELS, PLACES, RESULTS
from verl_mars.views import ScoredView, Trajectory

PARTITION = "mars_views"

FIELDS = ("prompts", "responses", "response_mask", "position_ids", "old_log_probs")
"""What scoring needs of a training row. The pixels are not among it: no scored view keeps them."""


def rows_of(column: torch.Tensor) -> list[torch.Tensor]:
    """The rows of a column as TransferQueue returns it: nested, or stacked where all have one length."""
    return list(column.unbind())


def read_trajectories(data: Any) -> list[Trajectory]:
    """The trajectories of rows read from TransferQueue (:data:`FIELDS`), without their pixels."""
    tensordict_utils.maybe_fix_3d_position_ids(data)
    prompts, responses, masks, positions = (
        rows_of(data[field]) for field in ("prompts", "responses", "response_mask", "position_ids")
    )
    return [Trajectory(*row, visual_inputs={}) for row in zip(prompts, responses, masks, positions, strict=True)]


@dataclass(frozen=True)
class ViewScores:
    """What scoring says of the batch's rows; (R,) in float32 for each of the B rows."""

    log_probs: list[torch.Tensor]
    """Of the response under the view. Where a row has no view, where its view shows it unchanged and on tokens that the
    policy did not sample, these are the old log-probs."""
    divergence: list[torch.Tensor] | None = None
    """KL(own view || other view) over the vocabulary, 0 where there is nothing to compare; ``None``: not computed."""
    reverse_divergence: list[torch.Tensor] | None = None
    """KL(other view || own view)."""
    rows: int = 0
    """How many rows were scored."""


def score_views(
    keys: Sequence[str],
    trajectories: Sequence[Trajectory],
    views: Sequence[ScoredView | None],
    old_log_probs: Sequence[torch.Tensor],
    worker_group: Any,
    temperature: float,
    multiple: int,
) -> ViewScores:
    """Log-probabilities of each response under its row's view.

    Args:
        keys: (B) of the training rows.
        trajectories: (B) the rows, as the policy was fed them.
        views: (B) what to score each under; ``None``: nothing.
        old_log_probs: (B) of the rows' own view, (R,) each.
        worker_group: verl's actor workers.
        temperature: of the rollout, as for the old log-probs.
        multiple: rows are passed to the workers in a multiple of this; the last one is repeated to fill up.
    """
    result = [values.float().clone() for values in old_log_probs]
    shown = _shown(trajectories, views)
    if not shown:
        return ViewScores(result)
    rows = {keys[i]: trajectory for i, trajectory in shown.items()}
    last_key, last = list(rows.items())[-1]
    rows |= {f"{last_key}_again{i}": last for i in range(-len(rows) % multiple)}
    flags = {"calculate_entropy": False, "compute_loss": False, "temperature": temperature}

    def run(meta: KVBatchMeta) -> None:
        meta.extra_info.update(flags)
        worker_group.compute_log_prob(meta)

    scored = _on_partition(rows, [_fields(row) for row in rows.values()], run, ["log_probs"])["log_probs"]
    for i, trajectory in shown.items():
        sampled = trajectories[i].response_mask.bool()
        # A token's log-prob stands where the token before it is.
        of_response = scored[keys[i]][-1 - len(trajectory.response) : -1].float()
        result[i][sampled] = of_response[trajectory.response_mask.bool()]
    return ViewScores(result, rows=len(shown))


def compare_views(
    batch: KVBatchMeta,
    trajectories: Sequence[Trajectory],
    views: Sequence[ScoredView | None],
    old_log_probs: Sequence[torch.Tensor],
    worker_group: Any,
    temperature: float,
    multiple: int,
    pixels: str,
    fill_up: ScoredView,
) -> ViewScores:
    """The policy under each row's view against the policy under its own, over the whole vocabulary.

    Pixels stay where they are: the workers read those of the own view, and of the other where it has any, from the
    training rows.

    Args:
        batch: the training rows; their number is a multiple of ``multiple``.
        pixels: the column of the training rows that holds the visual inputs of the views; empty: they have none.
        fill_up: a view without pixels, under which rows without a view of their own are passed on to fill up.

    Other arguments as of :func:`score_views`.
    """
    result = [values.float().clone() for values in old_log_probs]
    forward, reverse = ([torch.zeros_like(values) for values in result] for _ in range(2))
    shown = _shown(trajectories, views)
    if not shown:
        return ViewScores(result, forward, reverse)
    spare = [i for i in range(len(batch)) if i not in shown][: -len(shown) % multiple]
    rows = shown | {i: fill_up.show(trajectories[i]) or trajectories[i] for i in spare}
    own = KVBatchMeta(
        keys=[batch.keys[i] for i in rows],
        tags=[batch.tags[i] for i in rows],
        partition_id=batch.partition_id,
        fields=[*FED, *([pixels] if pixels else [])],
        extra_info={"temperature": temperature, PIXELS: pixels},
    )
    fields = [
        _fields(seen, with_pixels=False) | {PLACES: _places(seen), OWN_PLACES: _places(trajectories[i])}
        for i, seen in rows.items()
    ]
    keyed = {batch.keys[i]: seen for i, seen in rows.items()}
    scored = _on_partition(keyed, fields, lambda meta: worker_group.compute_view_divergence(meta, own), list(RESULTS))
    for i in shown:
        sampled = trajectories[i].response_mask.bool()
        for column, name in zip((result, forward, reverse), RESULTS, strict=True):
            column[i][sampled] = scored[name][batch.keys[i]].float()
    return ViewScores(result, forward, reverse, len(shown))


def _shown(trajectories: Sequence[Trajectory], views: Sequence[ScoredView | None]) -> dict[int, Trajectory]:
    """The rows that look different under their view, by number; rows without a sampled token are left out."""
    return {
        i: seen
        for i, (view, trajectory) in enumerate(zip(views, trajectories, strict=True))
        if view is not None and trajectory.response_mask.any() and (seen := view.show(trajectory)) is not None
    }


def _on_partition(
    rows: dict[str, Trajectory],
    fields: list[dict[str, Any]],
    run: Callable[[KVBatchMeta], None],
    results: list[str],
) -> dict[str, dict[str, torch.Tensor]]:
    """Write rows to :data:`PARTITION`, let workers run on them, read the results by field and key, and clear it."""
    keys = list(rows)
    tags = [
        {"prompt_len": len(t.prompt), "response_len": len(t.response), "seq_len": len(t.prompt) + len(t.response)}
        for t in rows.values()
    ]
    try:
        tq.kv_batch_put(
            keys=keys,
            partition_id=PARTITION,
            fields=tensordict_utils.list_of_dict_to_tensordict(fields),
            tags=tags,
        )
        run(KVBatchMeta(keys=keys, tags=tags, partition_id=PARTITION))
        data = tq.kv_batch_get(keys=keys, partition_id=PARTITION, select_fields=results)
    finally:
        tq.kv_clear(keys=keys, partition_id=PARTITION)
    return {name: dict(zip(keys, rows_of(data[name]), strict=True)) for name in results}


def _fields(trajectory: Trajectory, with_pixels: bool = True) -> dict[str, Any]:
    """What verl's log-prob pass reads of a row."""
    fields = {
        "input_ids": torch.cat((trajectory.prompt, trajectory.response)),
        "position_ids": trajectory.position_ids,
        "prompts": trajectory.prompt,
        "responses": trajectory.response,
        "response_mask": trajectory.response_mask,
        "loss_mask": trajectory.response_mask,
    }
    return fields | ({"multi_modal_inputs": dict(trajectory.visual_inputs)} if with_pixels else {})


def _places(trajectory: Trajectory) -> torch.Tensor:
    """(S,) where in a row's tokens those stand after which the policy sampled one."""
    return len(trajectory.prompt) - 1 + trajectory.response_mask.nonzero()[:, 0]
