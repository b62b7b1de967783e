"""Options of ``verl-mars data convert``."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field, ValidationError

from verl_mars.config import Settings, faults
from verl_mars.data.depth import DepthEncoding
from verl_mars.data.paths import is_unicode
from verl_mars.data.prompts import MonoStyle, Style
from verl_mars.errors import UsageError
from verl_mars.fields import FieldDict
from verl_mars.vision.families import IMAGE_LIMITS


class ConvertSettings(Settings):
    """Options of ``verl-mars data convert``."""

    model_config = ConfigDict(strict=False)  # paths may be given as texts

    root: Path
    out: Path
    images: Literal["path", "embed"] = "path"
    style: Style = "labelled"
    mono: MonoStyle = "own"
    depth_encoding: DepthEncoding = "turbo"
    splits: tuple[str, ...] = ()
    """Only these; none named: all."""
    val_fraction: float = Field(default=0.05, ge=0.0, lt=1.0)
    """Share of groups that go to ``val``, where the data set names no split."""
    seed: int = 0
    shard_rows: int = Field(default=100_000, gt=0)
    shard_megabytes: int = Field(default=512, gt=0)
    """Image bytes of one shard, in embed mode."""
    max_reject: float = Field(default=0.01, ge=0.0, le=1.0)
    decode: bool = False
    workers: int = Field(default=0, ge=0, le=256)
    """Processes that open images beside this one, started once there is enough for them; 0: none."""
    model: str = "qwen2_5_vl"
    """Family that prompt lengths are computed for."""
    tokenizer: str | None = None
    """Folder or hub name of a checkpoint; without it text is bounded, not counted."""
    max_prompt_length: int | None = Field(default=None, gt=0)
    min_pixels: int | None = Field(default=None, gt=0)
    max_pixels: int | None = Field(default=None, gt=0)
    limit: int | None = Field(default=None, gt=0)
    """Only so many samples."""
    allow_roots: tuple[Path, ...] = ()
    overwrite: bool = False
    options: dict[str, str] = Field(default_factory=dict)
    """Options of the converter."""


def settings_from(values: FieldDict) -> ConvertSettings:
    """Settings from plain values.

    Raises:
        UsageError: a value that is not allowed, with what is.
    """
    try:
        settings = ConvertSettings.model_validate(values)
    except ValidationError as error:
        options = (replace(fault, key="--" + fault.key.replace("_", "-")) for fault in faults(error, ConvertSettings))
        raise UsageError("\n".join(option.sentence for option in options)) from None
    for name, folder in (("root", settings.root), ("out", settings.out)):
        if not is_unicode(str(folder)):
            raise UsageError(
                f"--{name} {str(folder)!r} is not UTF-8, so no row can hold a path in it; rename the folder"
            )
    low, high = settings.min_pixels, settings.max_pixels
    if low is not None and high is not None and low > high:
        raise UsageError(f"--min-pixels {low} is more than --max-pixels {high}")
    if settings.model not in IMAGE_LIMITS:
        raise UsageError(f"--model {settings.model!r} is unknown, allowed: {', '.join(IMAGE_LIMITS)}")
    return settings
