"""Repairs of verl 0.9.1 where it assumes an accelerator, for a process that runs on a CPU.

Each fix says what verl does, why it fails, and when the fix can go. It is applied right after the import of the module
that :data:`FIXES` names, before another module can take the faulty name from it.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar

import wrapt

from verl_mars import _compat

T = TypeVar("T")


def name_gloo_once(distributed: ModuleType) -> None:
    """One backend for one device.

    verl initialises the process group with ``cpu:gloo,<device>:<backend>``. Where the device is a CPU that names it
    twice, which torch refuses as a duplicate. Goes when verl leaves out the second half for a CPU.
    """

    def with_one_backend(wrapped: Callable[..., T], instance: object, args: tuple, kwargs: dict) -> T:
        def call(timeout_second: int | None = None, backend: str | None = None) -> T:
            return wrapped(timeout_second=timeout_second, backend=backend or "cpu:gloo")

        return call(*args, **kwargs)

    wrapt.wrap_function_wrapper(distributed, "initialize_global_process_group_ray", with_one_backend)


def offload_unpinned(fsdp_utils: Any) -> None:
    """Offloaded parameters in ordinary memory.

    verl always offloads a reference model with ``CPUOffloadPolicy(pin_memory=True)``; pinned memory needs an
    accelerator. Goes when verl pins only where there is one.
    """
    policy = fsdp_utils.CPUOffloadPolicy

    def unpinned(pin_memory: bool = True) -> object:
        return policy(pin_memory=False)

    fsdp_utils.CPUOffloadPolicy = unpinned


FIXES: dict[str, Callable[[ModuleType], None]] = {
    "verl.utils.distributed": name_gloo_once,
    "verl.utils.fsdp_utils": offload_unpinned,
    "verl.utils.tensordict_utils": _compat.keep_equal_mrope_rows,
    "transformers.modeling_outputs": _compat.average_vision_output,
}
