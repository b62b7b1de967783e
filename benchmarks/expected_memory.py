"""Expected GPU memory of a recipe: ``python benchmarks/expected_memory.py`` prints the table of the docs.

Derived from the models' shapes, not measured. In bytes, for P parameters, N GPUs, T tokens of a micro-batch, a language
model of L layers of width h and a vision tower of M blocks of width v, vocabulary V:

    states       16 P / N       fp32 parameters 4, their gradients 4, Adam's two moments 8; 0 where they are offloaded
    gathered     4 V h (x 2 where embeddings are not tied) + 4 B       bf16 weights and gradients of the embeddings,
                                bf16 weights of two decoder layers of B parameters each: one at work, one on its way
    activations  2 T L h + 8 T M v       with gradient checkpointing the inputs of each layer; four patches make a
                                token, and T counts as if all tokens were an image's
    logits       4 T V          bf16 logits and their gradients; 8 T V without flash-attn, whose loss kernel keeps no
                                log-softmax, and T then counts padding
    engine       u x 80 GB      vLLM's share u of the GPU (24, 48 or 80 GB) while it samples; next to nothing while the
                                actor trains

    training  = states + gathered + activations + logits
    sampling  = engine + 12 P / N       gradients are freed by then
    host      = the reference model of GRPO, 4 P in all, and with offloading 16 P; with adapter=lora and offloading
                4 P in all, since frozen parameters have no gradients and the reference is the same model

What is left out: CUDA contexts and fragmentation, 3 to 6 GB, and images in the host's memory. The second table sets it
beside what was measured on a GPU (``results/gpu.json``, ``results/gpu_steps.json``).
"""

from dataclasses import dataclass, replace

import report

GB = 1e9
LONGEST_ROW = 4096 + 8192


@dataclass(frozen=True)
class Shape:
    """Sizes of a published checkpoint, from its ``config.json``."""

    parameters: int
    hidden: int
    layers: int
    heads: int
    key_value_heads: int
    intermediate: int
    vocabulary: int
    tied: bool
    vision_blocks: int
    vision_hidden: int
    head_dim: int = 128

    @property
    def layer_parameters(self) -> int:
        """Parameters of one decoder layer: attention and feed-forward matrices."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.key_value_heads)
        return attention + 3 * self.hidden * self.intermediate

    @property
    def cache_bytes(self) -> int:
        """Bytes of one token in the engine's key-value cache, bf16."""
        return 2 * 2 * self.layers * self.key_value_heads * self.head_dim


MODELS = {
    "qwen2_5_vl_3b": Shape(3_754_622_976, 2048, 36, 16, 2, 11008, 151_936, True, 32, 1280),
    "qwen2_5_vl_7b": Shape(8_292_166_656, 3584, 28, 28, 4, 18944, 152_064, False, 32, 1280),
    "qwen3_vl_4b": Shape(4_437_815_808, 2560, 36, 32, 8, 9728, 151_936, True, 24, 1024),
    "qwen3_vl_8b": Shape(8_767_123_696, 4096, 36, 32, 8, 12288, 151_936, False, 27, 1152),
}


@dataclass(frozen=True)
class Hardware:
    """What of a hardware overlay decides about memory."""

    gpus: int
    offload: bool
    tokens: int
    engine_share: float
    gpu_gb: int = 80
    longest_row: int = LONGEST_ROW
    flash_attn: bool = True


HARDWARE = {
    "gpu_24gb": Hardware(1, True, 4096, 0.8, 24, 4096),
    "gpu_48gb": Hardware(1, True, 12288, 0.75, 48),
    "one_gpu": Hardware(1, True, 12288, 0.7),
    "eight_gpus": Hardware(8, False, 16384, 0.7),
    "cluster": Hardware(16, False, 16384, 0.7),
}


@dataclass(frozen=True)
class Expected:
    """Gigabytes of a GPU, and of all hosts together; tokens that the engine's cache holds."""

    training: float
    sampling: float
    host: float
    cache_tokens: int


def expected(shape: Shape, hardware: Hardware) -> Expected:
    """The formula of this module's docstring."""
    resident = 0 if hardware.offload else 1 / hardware.gpus
    states = 16 * shape.parameters * resident
    embeddings = shape.vocabulary * shape.hidden * (1 if shape.tied else 2)
    gathered = 4 * embeddings + 4 * shape.layer_parameters
    tokens = hardware.tokens
    activations = 2 * tokens * (shape.layers * shape.hidden + 4 * shape.vision_blocks * shape.vision_hidden)
    logits = (4 if hardware.flash_attn else 8) * tokens * shape.vocabulary
    engine = hardware.engine_share * hardware.gpu_gb * GB
    return Expected(
        training=(states + gathered + activations + logits) / GB,
        sampling=(engine + 12 * shape.parameters * resident) / GB,
        host=(4 + (16 if hardware.offload else 0)) * shape.parameters / GB,
        cache_tokens=int((engine - 2 * shape.parameters - 5 * GB) / shape.cache_bytes),
    )


def table() -> str:
    """The table in Markdown."""
    lines = [
        "| `model=` | `hardware=` | training, GB a GPU | sampling, GB a GPU | all hosts, GB | longest rows a GPU |",
        "|---|---|---|---|---|---|",
    ]
    for model, shape in MODELS.items():
        for name, hardware in HARDWARE.items():
            need = expected(shape, hardware)
            if need.cache_tokens < hardware.longest_row:  # the weights leave no room
                continue
            rows = need.cache_tokens // hardware.longest_row
            numbers = f"{need.training:.0f} | {need.sampling:.0f} | {need.host:.0f} | {rows}"
            lines.append(f"| `{model}` | `{name}` | {numbers} |")
    return "\n".join(lines)


TINY = replace(MODELS["qwen2_5_vl_3b"], parameters=542_939_248, layers=2, vision_blocks=2)
"""The model of ``tests/gpu``."""
SMALL = replace(MODELS["qwen2_5_vl_3b"], parameters=1_084_210_000, layers=8, vision_blocks=6)
"""The model of ``gpu_steps.py``."""
PEAK = "actor/perf/max_memory_allocated_gb"  # verl's gigabytes are of 2**30 bytes


def measured_table() -> str:
    """Expected beside measured peaks of the actor, in Markdown."""
    cases, steps = report.read("gpu"), report.read("gpu_steps")
    case = cases["cases"]["test_two_steps_are_trained[mars]"]["metrics"][f"2 {PEAK}"]
    rows = [
        ("2 layers, 2 vision blocks", TINY, 32 * (27 + 12), case),
        ("8 layers, 6 vision blocks", SMALL, 8192, max(step[PEAK] for step in steps["steps"])),
    ]
    lines = ["| model of Qwen2.5-VL-3B's width | T | derived, GB | measured, GB |", "|---|---|---|---|"]
    for name, shape, tokens, peak in rows:
        need = expected(shape, Hardware(1, False, tokens, 0.0, flash_attn=False))
        lines.append(f"| {name} | {tokens:,} | {need.training:.1f} | {peak * 2**30 / GB:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(), measured_table(), sep="\n\n")
