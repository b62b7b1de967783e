"""What verl 0.9.1 takes for granted of an accelerator, repaired in a process that runs on a CPU.

Each fix says what verl does, why it fails, and when the fix can go. :data:`FIXES` names the module of verl after whose
import a fix is applied: early enough that nobody has taken the faulty name from it yet.
"""

from collections.abc import Callable
from typing import Any

import wrapt


def name_gloo_once(distributed: Any) -> None:
    """One backend for one device.

    verl initialises the process group with ``cpu:gloo,<device>:<backend>``. Where the device is a CPU that names it
    twice, which torch refuses as a duplicate. Goes when verl leaves out the second half for a CPU.
    """

    def with_one_backend(wrapped: Callable, instance: Any, args: tuple, kwargs: dict) -> Any:
        def call(timeout_second: int | None = None, backend: str | None = None) -> Any:
            return wrapped(timeout_second=timeout_second, backend=backend or "cpu:gloo")

        return call(*args, **kwargs)

    wrapt.wrap_function_wrapper(distributed, "initialize_global_process_group_ray", with_one_backend)


def offload_unpinned(fsdp_utils: Any) -> None:
    """Offloaded parameters in ordinary memory.

    verl always offloads a reference model with ``CPUOffloadPolicy(pin_memory=True)``; pinned memory needs an
    accelerator. Goes when verl pins only where there is one.
    """
    policy = fsdp_utils.CPUOffloadPolicy

    def unpinned(pin_memory: bool = True) -> Any:
        return policy(pin_memory=False)

    fsdp_utils.CPUOffloadPolicy = unpinned


def keep_equal_mrope_rows(tensordict_utils: Any) -> None:
    """mRoPE position ids of a batch whose samples all have the same length. Not a matter of the device.

    A row of position ids is (4, L_i), a batch of them a nested tensor ragged in its last dimension. Pickling loses
    which dimension is ragged, so verl's ``maybe_fix_3d_position_ids`` sets it to the last. But of rows of one shape
    torch makes a nested tensor that is ragged in dimension 1 (the 4), whose offsets count rows of 4: labelled as
    ragged in dimension 2, unbinding it fails. Such a tensor is built anew here. Goes when verl checks the offsets.
    """

    def maybe_fix_3d_position_ids(data: Any) -> None:
        if "position_ids" not in data.keys():
            return
        positions = data["position_ids"]
        if positions.dim() != 3 or not positions.is_nested:
            return
        values = positions._values
        if int(positions.offsets()[-1]) == values.shape[-1]:
            positions._ragged_idx = 2
        else:
            rows = list(values.view(len(data), -1, values.shape[-1]))
            data["position_ids"] = tensordict_utils.nested_tensor_from_tensor_list(rows, ragged_idx=2)

    tensordict_utils.maybe_fix_3d_position_ids = maybe_fix_3d_position_ids


def average_vision_output(modeling_outputs: Any) -> None:
    """A micro-batch without images for the Qwen2-VL family. Not a matter of the device.

    For such a batch verl adds ``0.0 * visual(zeros).mean()`` to the embeddings, so that the vision tower takes part in
    every backward pass. transformers 5 returns an object there instead of a tensor: ``'BaseModelOutputWithPooling'
    object has no attribute 'mean'``. It gets one, of what verl takes from it for real images (``pooler_output``), so
    that the patch merger takes part too. Text-only rows meet this, and so do verl's padding rows. Goes when verl
    unpacks the output there as it does for real images.
    """

    def mean(self: Any) -> Any:
        return (self.last_hidden_state if self.pooler_output is None else self.pooler_output).mean()

    if not hasattr(modeling_outputs.BaseModelOutputWithPooling, "mean"):
        modeling_outputs.BaseModelOutputWithPooling.mean = mean


FIXES: dict[str, Callable[[Any], None]] = {
    "verl.utils.distributed": name_gloo_once,
    "verl.utils.fsdp_utils": offload_unpinned,
    "verl.utils.tensordict_utils": keep_equal_mrope_rows,
    "transformers.modeling_outputs": average_vision_output,
}
