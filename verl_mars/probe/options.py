"""What is probed and how, and which of it the answers hang on."""

import hashlib
from dataclasses import asdict, dataclass, field
from pathlib import Path

from verl_mars.fields import FieldDict
from verl_mars.probe.questions import Sampling
from verl_mars.reward.settings import RewardSettings
from verl_mars.views import MonoPrompt

SCHEMA = "verl-mars/probe/1"


@dataclass(frozen=True)
class Options:
    """What is probed and how."""

    data: tuple[Path, ...]
    out: Path
    model: str
    server: str | None = None
    kinds: tuple[str, ...] = ("fused", "mono", "blind")
    sampling: Sampling = field(default_factory=Sampling)
    limit: int | None = None
    max_pixels: int | None = None
    mono_prompt: MonoPrompt = "repeat"
    concurrency: int = 32
    timeout: float = 300.0
    batch: int = 16
    device: str | None = None
    reward: RewardSettings = field(default_factory=RewardSettings)
    compare: Path | None = None
    power: float | None = None
    condition: tuple[str, float] | None = None
    """A gain, and what the low end of its interval must reach."""
    report_rows: int = 500


def identity(options: Options) -> FieldDict:
    """What the answers of a probe hang on; views and limit are not among them, they may grow."""
    return {
        "schema": SCHEMA,
        "model": options.model,
        "engine": "transformers" if options.server is None else "server",
        "data": [{"file": file.name, "sha256": _sha256(file)} for file in options.data],
        "sampling": asdict(options.sampling),
        "max_pixels": options.max_pixels,
        "mono_prompt": options.mono_prompt,
    }


def _sha256(file: Path) -> str:
    with open(file, "rb") as opened:
        digest = hashlib.sha256()
        while piece := opened.read(2**20):
            digest.update(piece)
        return digest.hexdigest()
