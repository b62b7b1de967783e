"""A vision tower that is not trained: ``actor_rollout_ref.actor.freeze_vision_tower`` made true.

verl 0.9.1 has the setting, and reads it nowhere. Here the actor's engine switches off the gradients of the tower before
the model is sharded, so that it has no backward pass, no recomputation of activations and no state in the optimizer.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from verl.experimental.separation.engine_workers import DetachActorWorker
from verl.workers.engine import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead
from verl.workers.engine_workers import ActorRolloutRefWorker, TrainingWorker

from verl_mars.trainer.divergence_worker import DivergenceActorWorker, DivergenceDetachActorWorker

if TYPE_CHECKING:
    from verl.workers.config import TrainingWorkerConfig

logger = logging.getLogger(__name__)

VENDOR = "verl_mars"
"""verl chooses an engine by device and vendor; the environment variable below names another vendor."""

_VENDOR_VARIABLE = "VERL_ENGINE_VENDOR"

TOWERS = ("visual", "vision_tower", "vision_model")
"""Names of the attribute that holds the tower, its projection to the language model included: Qwen-VL, GLM-V and
InternVL, LLaVA and others."""


@EngineRegistry.register(model_type="language_model", backend=["fsdp", "fsdp2"], device=["cuda", "npu"], vendor=VENDOR)
class FrozenTowerEngine(FSDPEngineWithLMHead):
    """verl's FSDP engine; the model's vision tower has no gradients."""

    def _build_fsdp_module(self, module: torch.nn.Module) -> torch.nn.Module:
        logger.info("%d parameters of the vision tower are frozen", freeze_tower(module))
        return super()._build_fsdp_module(module)


def freeze_tower(model: torch.nn.Module) -> int:
    """Switch off the gradients of a model's vision tower, adapters in it included.

    Returns:
        The number of its parameters.

    Raises:
        ValueError: the model has no vision tower.
    """
    towers = [tower for name, tower in model.named_modules() if name.rpartition(".")[2] in TOWERS]
    if not towers:
        raise ValueError(
            f"actor_rollout_ref.actor.freeze_vision_tower=true: {type(model).__name__} has no vision tower (looked for "
            f"a module called {', '.join(TOWERS)}); set it to false"
        )
    for tower in towers:
        tower.requires_grad_(False)
    return sum(parameter.numel() for tower in towers for parameter in tower.parameters())


class FrozenTowerTrainingWorker(TrainingWorker):
    """verl's training worker with :class:`FrozenTowerEngine`."""

    def __init__(self, config: "TrainingWorkerConfig") -> None:
        with _vendor(VENDOR):
            super().__init__(config)


@contextmanager
def _vendor(name: str) -> Iterator[None]:
    before = os.environ.get(_VENDOR_VARIABLE)
    os.environ[_VENDOR_VARIABLE] = name
    try:
        yield
    finally:
        if before is None:
            del os.environ[_VENDOR_VARIABLE]
        else:
            os.environ[_VENDOR_VARIABLE] = before


class FreezesTower:
    """To be put before one of verl's actor workers, which build their actor from ``actor_worker_cls``."""

    actor_worker_cls = FrozenTowerTrainingWorker


class FrozenTowerActorWorker(FreezesTower, ActorRolloutRefWorker):
    """The worker of the modes ``mars_sync`` and ``mars_colocate_async``."""


class FrozenTowerDetachActorWorker(FreezesTower, DetachActorWorker):
    """The worker of the mode ``mars_separate_async``."""


class FrozenTowerDivergenceActorWorker(FreezesTower, DivergenceActorWorker):
    """The same with ``divergence=exact``."""


class FrozenTowerDivergenceDetachActorWorker(FreezesTower, DivergenceDetachActorWorker):
    """The same with ``divergence=exact``."""


def workers(exact: bool) -> dict[type, type]:
    """verl's actor workers -> ours; ``exact``: of a run with ``divergence=exact``."""
    if exact:
        ours: tuple[type, type] = (FrozenTowerDivergenceActorWorker, FrozenTowerDivergenceDetachActorWorker)
    else:
        ours = (FrozenTowerActorWorker, FrozenTowerDetachActorWorker)
    return dict(zip((ActorRolloutRefWorker, DetachActorWorker), ours, strict=True))
