"""verl's hardware interface for a machine without an accelerator."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import psutil
import torch
from verl.plugin.platform.platform_base import PlatformBase

Device = torch.device | str | int | None


class CpuDeviceModule(ModuleType):
    """``torch.cpu`` with those calls of ``torch.cuda`` that verl makes on whatever device it runs on.

    Equal to ``torch.cpu``, because verl compares its device module with it to recognise a CPU.
    Memory is the process's resident memory and the machine's.
    """

    def __init__(self) -> None:
        super().__init__("torch.cpu", "torch.cpu and what verl expects of an accelerator's module")

    def __getattr__(self, name: str) -> object:
        return getattr(torch.cpu, name)

    def __eq__(self, other: object) -> bool:
        return other is torch.cpu or isinstance(other, CpuDeviceModule)

    def __hash__(self) -> int:
        return hash(torch.cpu)

    def __reduce__(self) -> tuple[type, tuple]:
        return (type(self), ())

    def set_device(self, device: Device) -> None:
        """There is one."""

    def get_device_name(self, device: Device = None) -> str:
        return "CPU"

    def empty_cache(self) -> None:
        """torch keeps no cache of a CPU's memory."""

    def ipc_collect(self) -> None:
        """Nothing to collect."""

    def memory_allocated(self, device: Device = None) -> int:
        return psutil.Process().memory_info().rss

    memory_reserved = max_memory_allocated = max_memory_reserved = memory_allocated

    def reset_peak_memory_stats(self, device: Device = None) -> None:
        """Peaks are not recorded."""

    def mem_get_info(self, device: Device = None) -> tuple[int, int]:
        memory = psutil.virtual_memory()
        return memory.available, memory.total

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    def get_rng_state(self, device: Device = None) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, device: Device = None) -> None:
        torch.set_rng_state(state)


_DEVICE_MODULE = CpuDeviceModule()


class CpuPlatform(PlatformBase):
    """Platform ``cpu``: gloo for collectives, and Ray's resource ``GPU`` as a logical slot for each trainer rank.

    verl's resource pools count the resources GPU and NPU only, so the overlay gives Ray as many logical GPUs as there
    are ranks (``ray_kwargs.ray_init.num_gpus``). Never detected by itself: the head node of a GPU cluster may have no
    GPU either.
    """

    @property
    def device_name(self) -> str:
        return "cpu"

    @property
    def vendor_name(self) -> str:
        return "cpu"

    @property
    def device_module(self) -> ModuleType:
        return _DEVICE_MODULE

    def is_available(self) -> bool:
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        return os.environ.get("VERL_PLATFORM", "").strip().lower() == self.device_name

    def current_device(self) -> torch.device:
        # Not an index: verl passes it to `.to(...)` and `device=...`, where 0 would mean the first accelerator.
        return torch.device("cpu")

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None:
        """There is one."""

    def synchronize(self, device_index: int | None = None) -> None:
        """A CPU does nothing behind the caller's back."""

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    def set_allocator_settings(self, settings: str) -> None:
        """No allocator to set."""

    def empty_cache(self) -> None:
        """No cache to empty."""

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        yield

    def profiler_start(self) -> None:
        """No device profiler."""

    def profiler_stop(self) -> None:
        """No device profiler."""

    def ray_resource_name(self) -> str:
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return []

    def is_ipc_supported(self) -> bool:
        return False

    def cudart(self) -> None:
        """There is none."""
