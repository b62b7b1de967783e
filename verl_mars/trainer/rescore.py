"""Rescoring: the log-probs that the policy before the update gives the batch's responses under another view.

Rows under another view go to a separate partition, which is cleared even after an error. For the estimate at the
sampled token verl's ``compute_log_prob`` runs on them as on any others (:func:`rescore`). For the divergence over the
whole vocabulary a worker of ours compares them with the training rows (:func:`compare_views`).

Shapes: B rows, P prompt tokens, R response tokens, S sampled tokens of a response.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from verl.single_controller.ray import RayWorkerGroup

from verl_mars import store
from verl_mars.fields import FieldDict
from verl_mars.images.reference import stored_once
from verl_mars.rows import OTHER_VISUAL_INPUTS
from verl_mars.store import Batch
from verl_mars.trainer.divergence_worker import FED, OWN_PLACES, PIXELS, PLACES, RESULTS
from verl_mars.views import RescoreView, Trajectory

PARTITION = "mars_views"


@dataclass(frozen=True)
class ViewLogProbs:
    """The results of rescoring: (R,) in float32 for each of the B rows."""

    log_probs: list[torch.Tensor]
    """Under the row's other view. The old log-probs where a row has none or looks the same under it, and on tokens that
    the policy did not sample."""
    divergence: list[torch.Tensor] | None = None
    """KL(own view || other view) over the vocabulary, 0 where there is nothing to compare; ``None``: not computed."""
    reverse_divergence: list[torch.Tensor] | None = None
    """KL(other view || own view)."""
    rows: int = 0
    """Number of rows that were rescored."""


def rescore(
    keys: Sequence[str],
    trajectories: Sequence[Trajectory],
    views: Sequence[RescoreView | None],
    old_log_probs: Sequence[torch.Tensor],
    worker_group: RayWorkerGroup,
    temperature: float,
    multiple: int,
    limit: int = 0,
) -> ViewLogProbs:
    """Log-probabilities of each response under its row's other view.

    Args:
        keys: (B) of the training rows.
        trajectories: (B) the rows, as the policy was fed them.
        views: (B) the view to rescore each under; ``None``: none.
        old_log_probs: (B) under the rows' own view, (R,) each.
        worker_group: verl's actor workers.
        temperature: of the rollout, as for the old log-probs.
        multiple: the workers get a multiple of this many rows; the last one is repeated to fill up.
        limit: visual inputs that several views share are stored once, and a worker holds at most so many bytes of them;
            0: each row holds a copy.
    """
    result = [values.float().clone() for values in old_log_probs]
    rendered = _rendered(trajectories, views)
    if not rendered:
        return ViewLogProbs(result)
    rows = {keys[i]: trajectory for i, trajectory in rendered.items()}
    last_key, last = list(rows.items())[-1]
    rows |= {f"{last_key}_again{i}": last for i in range(-len(rows) % multiple)}
    flags = {"calculate_entropy": False, "compute_loss": False, "temperature": temperature}

    def run(batch: Batch) -> None:
        batch.extra_info.update(flags)
        worker_group.compute_log_prob(batch)

    with stored_once([trajectory.visual_inputs for trajectory in rows.values()], limit) as inputs:
        shown = [replace(row, visual_inputs=one) for row, one in zip(rows.values(), inputs, strict=True)]
        fields = {key: row_fields(row) for key, row in zip(rows, shown, strict=True)}
        computed = store.run_on_rows(PARTITION, fields, _tags(shown), run, ["log_probs"])["log_probs"]
    for i, trajectory in rendered.items():
        sampled = trajectories[i].response_mask.bool()
        # A token's log-prob stands where the token before it is.
        of_response = computed[keys[i]][-1 - len(trajectory.response) : -1].float()
        result[i][sampled] = of_response[trajectory.response_mask.bool()]
    return ViewLogProbs(result, rows=len(rendered))


def compare_views(
    batch: Batch,
    trajectories: Sequence[Trajectory],
    views: Sequence[RescoreView | None],
    old_log_probs: Sequence[torch.Tensor],
    worker_group: RayWorkerGroup,
    temperature: float,
    multiple: int,
    limit: int,
    pixels: str,
    fill_up: RescoreView,
) -> ViewLogProbs:
    """The policy under each row's other view against the policy under its own, over the whole vocabulary.

    Visual inputs travel with the training rows: the workers read those of the own view there, and of the other view if
    it has any.

    Args:
        batch: the training rows; their number is a multiple of ``multiple``.
        pixels: the field of the training rows that holds the visual inputs of the views; empty: the views bring them
            along, if they have any, and they are stored here.
        fill_up: a view without visual inputs, under which rows without a view are passed on to fill up.

    Other arguments as of :func:`rescore`.
    """
    result = [values.float().clone() for values in old_log_probs]
    forward, reverse = ([torch.zeros_like(values) for values in result] for _ in range(2))
    rendered = _rendered(trajectories, views)
    if not rendered:
        return ViewLogProbs(result, forward, reverse)
    brought = any(trajectory.visual_inputs for trajectory in rendered.values()) and not pixels
    if brought:
        pixels = OTHER_VISUAL_INPUTS
    spare = [i for i in range(len(batch)) if i not in rendered][: -len(rendered) % multiple]
    rows = rendered | {i: fill_up.show(trajectories[i]) or trajectories[i] for i in spare}
    own = Batch(
        keys=[batch.keys[i] for i in rows],
        tags=[batch.tags[i] for i in rows],
        partition_id=batch.partition_id,
        fields=[*FED, *([pixels] if pixels else [])],
        extra_info={"temperature": temperature, PIXELS: pixels},
    )
    fields = {
        batch.keys[i]: row_fields(trajectory, with_pixels=False)
        | {PLACES: places(trajectory), OWN_PLACES: places(trajectories[i])}
        for i, trajectory in rows.items()
    }

    def run(view: Batch) -> None:
        worker_group.compute_view_divergence(view, own)

    other = [rendered[i].visual_inputs if brought and i in rendered else {} for i in range(len(batch))]
    with stored_once(other, limit) as inputs:
        if brought:
            store.write(batch, {pixels: inputs})
        computed = store.run_on_rows(PARTITION, fields, _tags(rows.values()), run, RESULTS)
        if brought:
            store.write(batch, {pixels: [{} for _ in batch.keys]})  # nobody needs them any more
    for i in rendered:
        sampled = trajectories[i].response_mask.bool()
        for column, name in zip((result, forward, reverse), RESULTS, strict=True):
            column[i][sampled] = computed[name][batch.keys[i]].float()
    return ViewLogProbs(result, forward, reverse, len(rendered))


def _rendered(trajectories: Sequence[Trajectory], views: Sequence[RescoreView | None]) -> dict[int, Trajectory]:
    """The rows that look different under their view, by number; rows without a sampled token are left out."""
    return {
        i: other
        for i, (view, trajectory) in enumerate(zip(views, trajectories, strict=True))
        if view is not None and trajectory.response_mask.any() and (other := view.show(trajectory)) is not None
    }


def _tags(trajectories: Iterable[Trajectory]) -> list[dict[str, int]]:
    return [
        {"prompt_len": len(t.prompt), "response_len": len(t.response), "seq_len": len(t.prompt) + len(t.response)}
        for t in trajectories
    ]


def row_fields(trajectory: Trajectory, with_pixels: bool = True) -> FieldDict:
    """The fields that verl's log-prob pass reads of a row."""
    fields = {
        "input_ids": torch.cat((trajectory.prompt, trajectory.response)),
        "position_ids": trajectory.position_ids,
        "prompts": trajectory.prompt,
        "responses": trajectory.response,
        "response_mask": trajectory.response_mask,
        "loss_mask": trajectory.response_mask,
    }
    return fields | ({"multi_modal_inputs": trajectory.visual_inputs} if with_pixels else {})


def places(trajectory: Trajectory) -> torch.Tensor:
    """(S,) indices of the tokens after which the policy sampled one."""
    return len(trajectory.prompt) - 1 + trajectory.response_mask.nonzero()[:, 0]
