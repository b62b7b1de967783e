"""verl's actor workers with one more method: the divergence of the policy between two views, over the whole vocabulary.

Only ``algorithm.pgpo.divergence=exact`` and ``algorithm.vogue.divergence=exact`` use these; the estimates at the
sampled token need no worker of ours.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from tensordict import TensorDict
from verl.experimental.separation.engine_workers import DetachActorWorker
from verl.single_controller.base.decorator import make_nd_compute_dataproto_dispatch_fn, register
from verl.utils import tensordict_utils
from verl.workers.engine.utils import prepare_micro_batches
from verl.workers.engine_workers import ActorRolloutRefWorker

from verl_mars.algos.divergence import vocabulary_divergence
from verl_mars.fields import FieldDict

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from verl.workers.config import EngineConfig
    from verl.workers.engine import BaseEngine
    from verl.workers.engine_workers import TrainingWorker

FED = ("input_ids", "position_ids", "multi_modal_inputs")
"""Fields that verl's forward pass reads."""

PLACES, OWN_PLACES = "places", "own_places"
"""Fields of a view's row: indices of the hidden states that predict each sampled token, in the other view and in the
row's own view."""

PIXELS = "pixels"
"""Flag: the column of the training rows that holds the view's visual inputs; empty: the view has none."""

RESULTS = ("log_probs", "divergence", "reverse_divergence")
"""Fields that the worker adds to a view's row: for each sampled token log q, KL(p || q) and KL(q || p), where p is the
policy under the row's own view and q under the other."""


class ViewDivergence:
    """To be put before one of verl's actor workers."""

    actor: "TrainingWorker"

    @register(dispatch_mode=make_nd_compute_dataproto_dispatch_fn(mesh_name="actor"))
    def compute_view_divergence(self, view: TensorDict, own: TensorDict) -> TensorDict:
        """Compare the policy under two views of the same responses.

        Args:
            view: B rows under the other view (:data:`FED` without the visual inputs, :data:`PLACES`).
            own: the same B training rows, with :data:`FED` and the column that the flag :data:`PIXELS` names.

        Returns:
            :data:`RESULTS`, one value for each sampled token.
        """
        return compare(self.actor.engine, self.actor.engine_config, view, own).cpu()


class DivergenceActorWorker(ViewDivergence, ActorRolloutRefWorker):
    """The worker of the modes ``mars_sync`` and ``mars_colocate_async``."""


class DivergenceDetachActorWorker(ViewDivergence, DetachActorWorker):
    """The worker of the mode ``mars_separate_async``."""


WORKERS: dict[type, type] = {
    ActorRolloutRefWorker: DivergenceActorWorker,
    DetachActorWorker: DivergenceDetachActorWorker,
}
"""verl's actor workers -> ours."""


@torch.no_grad()
def compare(engine: "BaseEngine", config: "EngineConfig", view: TensorDict, own: TensorDict) -> TensorDict:
    """:meth:`ViewDivergence.compute_view_divergence` on an engine of verl's.

    Two of verl's forward steps for each micro-batch. The first keeps the inputs of the output layer; the second
    compares its own with them while FSDP has the layer's weight gathered. Logits of both never exist at once.
    """
    flags = {
        "temperature": tensordict_utils.get(own, "temperature"),
        "use_remove_padding": config.use_remove_padding,
        "use_dynamic_bsz": config.use_dynamic_bsz,
        "max_token_len_per_gpu": config.infer_max_token_len_per_gpu,
        "micro_batch_size_per_gpu": config.infer_micro_batch_size_per_gpu,
        "use_fused_kernels": False,
    }
    pixels = tensordict_utils.get(own, PIXELS)
    places, own_places = view[PLACES].unbind(), view[OWN_PLACES].unbind()
    rows = _rows(own, own.get("multi_modal_inputs"), flags)
    other_rows = _rows(view, own.get(pixels) if pixels else None, flags)
    rows["row"] = torch.arange(len(rows))

    results: list[list[torch.Tensor]] = [[] for _ in range(len(rows))]
    with engine.eval_mode():
        # Micro-batches of the own view, which has its visual tokens: the other one is never longer.
        micro_batches, _ = prepare_micro_batches(rows, engine.get_data_parallel_group(), same_micro_num_in_dp=True)
        for micro in micro_batches:
            numbers = micro.pop("row").tolist()
            others = tensordict_utils.index_select_tensor_dict(other_rows, numbers)
            step = _Step(engine, config.use_remove_padding)
            with step.keep_states(micro, [own_places[i] for i in numbers]):
                engine.forward_step(micro, loss_function=None, forward_only=True)
            with step.compare_states(others, [places[i] for i in numbers], flags["temperature"]):
                _, output = engine.forward_step(others, loss_function=None, forward_only=True)
            log_probs = output["model_output"]["log_probs"].unbind()
            for number, of_row, *divergences in zip(numbers, log_probs, *step.divergences, strict=True):
                results[number] = [of_row[places[number].to(of_row.device)].float(), *divergences]
    columns = zip(*results, strict=True)
    return TensorDict(
        {
            name: torch.nested.as_nested_tensor(list(column), layout=torch.jagged)
            for name, column in zip(RESULTS, columns, strict=True)
        },
        batch_size=len(rows),
    )


class _Step:
    """Records the inputs of the output layer in two forward steps of one micro-batch."""

    def __init__(self, engine: "BaseEngine", packed: bool) -> None:
        self._layer = output_layer(engine.module)
        self._packed = packed
        self._states: torch.Tensor | None = None
        self.divergences: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
        """KL(p || q) and KL(q || p) of each row's sampled tokens."""

    @contextmanager
    def keep_states(self, micro: TensorDict, places: list[torch.Tensor]) -> Iterator[None]:
        """Keep the states at these places of each row."""

        def keep(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            self._states = self._at(inputs[0], micro, places).clone()

        with _hooked(self._layer, keep):
            yield

    @contextmanager
    def compare_states(self, micro: TensorDict, places: list[torch.Tensor], temperature: float) -> Iterator[None]:
        """Compare the kept states with those at these places."""

        def against(layer: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            other = self._at(inputs[0], micro, places)
            both = vocabulary_divergence(self._states, other, *weight_and_bias(layer), temperature)  # type: ignore
            counts = [len(place) for place in places]
            self.divergences = tuple(list(values.split(counts)) for values in both)  # type: ignore[assignment]

        with _hooked(self._layer, against):
            yield

    def _at(self, hidden: torch.Tensor, micro: TensorDict, places: list[torch.Tensor]) -> torch.Tensor:
        """(N, H) states at places of rows, from (1, all tokens, H) packed or (B, longest, H) padded rows."""
        starts = micro["input_ids"].offsets()[:-1].tolist()
        if not self._packed:
            starts = [row * hidden.shape[1] for row in range(len(places))]
        flat = torch.cat([place + start for place, start in zip(places, starts, strict=True)])
        return hidden.reshape(-1, hidden.shape[-1])[flat.to(hidden.device)]


def output_layer(module: torch.nn.Module) -> torch.nn.Module:
    """The layer of a model, wrapped by FSDP or not, that turns states into logits: linear, or linear with LoRA.

    Raises:
        ValueError: it is another layer, so that its rows cannot be used a chunk at a time.
    """
    model: PreTrainedModel = getattr(module, "_fsdp_wrapped_module", module)
    layer = model.get_output_embeddings()
    dora = any(getattr(layer, "use_dora", {}).values())
    if dora or not isinstance(getattr(layer, "base_layer", layer), torch.nn.Linear):
        raise ValueError(
            f"divergence=exact needs a model whose output layer is a torch.nn.Linear, with LoRA or without; this one "
            f"has {type(layer)}{' with DoRA' if dora else ''}; "
            "use divergence=sampled"
        )
    return layer


def weight_and_bias(layer: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(V, H) and (V,) or None of an output layer; with LoRA (peft), the weight with its active adapters added."""
    base = getattr(layer, "base_layer", layer)
    weight = base.weight
    if base is not layer and not layer.disable_adapters and not layer.merged:
        for name in layer.active_adapters:
            if name in layer.lora_A:
                weight = weight + layer.get_delta_weight(name).to(weight.dtype)
    return weight, base.bias


@contextmanager
def _hooked(layer: torch.nn.Module, hook: Callable[..., None]) -> Iterator[None]:
    handle = layer.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _rows(data: TensorDict, visual_inputs: object, flags: FieldDict) -> TensorDict:
    """The input of verl's forward step, with the flags that it reads."""
    rows = TensorDict({name: data[name] for name in ("input_ids", "position_ids")}, batch_size=data.batch_size)
    tensordict_utils.maybe_fix_3d_position_ids(rows)
    if visual_inputs is not None:
        rows["multi_modal_inputs"] = visual_inputs
    return tensordict_utils.assign_non_tensor(rows, **flags)
