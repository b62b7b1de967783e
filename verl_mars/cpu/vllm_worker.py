"""verl's weight updates for vLLM's CPU build, in vLLM's worker process.

Named by the overlay ``hardware: cpu_vllm`` in ``rollout.engine_kwargs.vllm.worker_extension_cls``, so that importing
this module happens in that process alone. The GPU path never sees it.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import vllm.model_executor.layers.utils as vllm_layers
from verl.workers.rollout.vllm_rollout.bucketed_weight_transfer import BucketedWeightReceiver
from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension

if TYPE_CHECKING:
    from vllm.model_executor.layers.linear import LinearBase


class CpuWorkerExtension(vLLMColocateWorkerExtension):
    """verl's extension. Importing this module makes the two repairs below."""


_receive = BucketedWeightReceiver.receive_weights


def receive_copies(self: BucketedWeightReceiver, on_bucket_received: Callable[[list, bool], None]) -> object:
    """Copy each received weight.

    verl hands out ``buffer.to(device)``, which on a CPU is a view of the shared memory: vLLM keeps it, and closing the
    segment raises BufferError. Goes when verl copies where the device is a CPU.
    """

    def on_copies(weights: list, is_last: bool) -> None:
        on_bucket_received([(name, tensor.clone()) for name, tensor in weights], is_last)

    return _receive(self, on_copies)


def keep_weights(layer: "LinearBase", remove_weight: bool) -> None:
    """Keep the weight of a linear layer and compute it with torch.

    vLLM's CPU layers repack their weight after loading and drop the parameter, which leaves ``model.load_weights``
    nothing to write to. Goes when verl reloads such layers as vLLM's own reload does.
    """
    layer.cpu_linear = torch.nn.functional.linear


BucketedWeightReceiver.receive_weights = receive_copies
vllm_layers.dispatch_cpu_unquantized_gemm = keep_weights
