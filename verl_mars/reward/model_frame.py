"""The frame that a model answers in, from its own files: ``config.json`` and its image processor's settings."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from verl_mars.reward.coordinates import FRAME_OF_MODEL
from verl_mars.reward.settings import Coordinates, ImageLimits


def read_model_frame(path: str, mm_processor_kwargs: Any = None) -> tuple[Coordinates, ImageLimits]:
    """The frame of a model's boxes and how its images are resized.

    Args:
        path: folder or hub name of the model.
        mm_processor_kwargs: ``data.mm_processor_kwargs`` of the run, which changes the processor's limits.

    Raises:
        ValueError: the files cannot be read; set ``reward.reward_kwargs.coordinates`` (and ``image_processor``) then.
    """
    config = _read_json(path, "config.json")
    if config is None:
        raise ValueError(f"cannot read the model's config.json at {path}. {_ADVICE}")
    frame = FRAME_OF_MODEL.get(str(config.get("model_type")), "pixel")
    if frame != "qwen2_5_vl":
        return frame, ImageLimits()
    processor = (_read_json(path, "processor_config.json") or {}).get("image_processor")
    processor = processor or _read_json(path, "preprocessor_config.json")
    if processor is None:
        raise ValueError(f"cannot read the model's image processor at {path}. {_ADVICE}")
    return frame, limits_of(processor, mm_processor_kwargs)


_ADVICE = "Set reward.reward_kwargs.coordinates and reward.reward_kwargs.image_processor instead"


def _read_json(path: str, name: str) -> dict[str, Any] | None:
    """A file of a model, from its folder or the hub; None where it is not there. Newer models keep the image processor
    inside ``processor_config.json``. transformers' own reader would do, but it imports torchvision."""
    from transformers.utils import cached_file

    try:
        file = cached_file(path, name)
    except OSError:
        return None
    if file is None:
        return None
    value = json.loads(Path(file).read_text(encoding="utf-8"))
    return value if isinstance(value, dict) else None


def limits_of(processor: Mapping[str, Any], mm_processor_kwargs: Any = None) -> ImageLimits:
    """Limits from an image processor's settings (old and new names) and what the run changes in them.

    A call changes the limits by ``size``, or by ``min_pixels`` and ``max_pixels`` together: transformers ignores one
    without the other.

    Raises:
        ValueError: the processor does not resize.
    """
    limits = ImageLimits(min_pixels=56 * 56, max_pixels=28 * 28 * 1280).model_dump()  # the class's own defaults
    size = processor.get("size") or {}
    changes = {
        "min_pixels": processor.get("min_pixels") or size.get("shortest_edge"),
        "max_pixels": processor.get("max_pixels") or size.get("longest_edge"),
        "patch_size": processor.get("patch_size"),
        "merge_size": processor.get("merge_size"),
    }
    limits |= {name: int(value) for name, value in changes.items() if value}
    call = dict(mm_processor_kwargs or {})
    call |= dict(call.get("images_kwargs") or {})
    size = call.get("size") or {}
    pair = (size.get("shortest_edge"), size.get("longest_edge"))
    if call.get("min_pixels") is not None and call.get("max_pixels") is not None:
        pair = (call["min_pixels"], call["max_pixels"])
    limits |= {name: int(value) for name, value in zip(("min_pixels", "max_pixels"), pair, strict=True) if value}
    if not call.get("do_resize", processor.get("do_resize", True)):
        raise ValueError("the image processor has do_resize=False; give each row extra_info['seen_sizes'] instead")
    return ImageLimits(**limits)
