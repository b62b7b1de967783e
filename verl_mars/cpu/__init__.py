"""Real verl on a machine without an accelerator, chosen by configuration alone: the overlay ``hardware: cpu``.

Importing this package registers the platform ``cpu``, the rollout engine ``transformers`` and the checkpoint engine
``object_store``, which brings weights to rollout servers on other nodes. If ``VERL_PLATFORM`` is ``cpu``, it also
repairs verl where it assumes an accelerator (:mod:`.fixes`). Each piece is registered when the module of verl that it
belongs to is imported, so the import costs next to nothing, needs no verl, and may be repeated. The overlay has verl
import this package in every process (``VERL_USE_EXTERNAL_MODULES``); nothing else of verl-mars is needed.
"""

import os
from types import ModuleType

import wrapt

PLATFORM = "cpu"
"""Our platform in verl's registry, and its device type."""

ENGINE = "transformers"
"""Our rollout engine: ``actor_rollout_ref.rollout.name=transformers``."""

CHECKPOINT_ENGINE = "object_store"
"""Our weight transfer: ``actor_rollout_ref.rollout.checkpoint_engine.backend=object_store``."""

_fixed = False


def _register_platform(platform_manager: ModuleType) -> None:
    from verl_mars.cpu.platform import CpuPlatform

    platform_manager.PlatformRegistry.register(platform=PLATFORM)(CpuPlatform)


def _register_rollout(base: ModuleType) -> None:
    base._ROLLOUT_REGISTRY[(ENGINE, "async")] = "verl_mars.cpu.adapter.TransformersAdapter"


def _register_replica(replica: ModuleType) -> None:
    def load() -> type:
        from verl_mars.cpu.replica import TransformersReplica

        return TransformersReplica

    replica.RolloutReplicaRegistry.register(ENGINE, load)


def _register_checkpoint_engine(base: ModuleType) -> None:
    from verl_mars.cpu.weights import ObjectStoreEngine

    base.CheckpointEngineRegistry.register(CHECKPOINT_ENGINE)(ObjectStoreEngine)


def apply_fixes() -> None:
    """Repair verl in this process where it assumes an accelerator. Idempotent."""
    global _fixed
    if _fixed:
        return
    _fixed = True
    from verl_mars import _compat
    from verl_mars.cpu import fixes

    _compat.define_missing_torchvision_ops()
    for module, fix in fixes.FIXES.items():
        wrapt.register_post_import_hook(fix, module)


wrapt.register_post_import_hook(_register_platform, "verl.plugin.platform.platform_manager")
wrapt.register_post_import_hook(_register_rollout, "verl.workers.rollout.base")
wrapt.register_post_import_hook(_register_replica, "verl.workers.rollout.replica")
wrapt.register_post_import_hook(_register_checkpoint_engine, "verl.checkpoint_engine.base")
if os.environ.get("VERL_PLATFORM", "").strip().lower() == PLATFORM:
    apply_fixes()
