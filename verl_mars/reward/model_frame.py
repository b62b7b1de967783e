"""The frame that a model answers in, from its own files: ``config.json`` and its image processor's settings."""

from collections.abc import Mapping
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
    from transformers import PretrainedConfig

    try:
        config, _ = PretrainedConfig.get_config_dict(path)
    except OSError as error:
        raise ValueError(f"cannot read the model's config.json at {path}: {error}. {_ADVICE}") from None
    frame = FRAME_OF_MODEL.get(str(config.get("model_type")), "pixel")
    if frame != "qwen2_5_vl":
        return frame, ImageLimits()
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        processor, _ = ImageProcessingMixin.get_image_processor_dict(path)
    except OSError as error:
        raise ValueError(f"cannot read the model's image processor at {path}: {error}. {_ADVICE}") from None
    return frame, limits_of(processor, mm_processor_kwargs)


_ADVICE = "Set reward.reward_kwargs.coordinates and reward.reward_kwargs.image_processor instead"


def limits_of(processor: Mapping[str, Any], mm_processor_kwargs: Any = None) -> ImageLimits:
    """Limits from an image processor's settings (old and new names) and what the run changes in them."""
    limits = ImageLimits(min_pixels=56 * 56, max_pixels=28 * 28 * 1280).model_dump()  # the class's own defaults
    for source in (processor, mm_processor_kwargs or {}):
        size = source.get("size") or {}
        for name, old in (("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge")):
            value = source.get(name) or size.get(old)
            if value:
                limits[name] = int(value)
        for name in ("patch_size", "merge_size"):
            if source.get(name):
                limits[name] = int(source[name])
    return ImageLimits(**limits)
