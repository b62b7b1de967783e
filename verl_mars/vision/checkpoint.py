"""A model's family and image limits, from its own files: ``config.json`` and its image processor's settings."""

import json
from pathlib import Path

from verl_mars.fields import FieldDict, Fields
from verl_mars.vision.families import FAMILIES, FRAMES
from verl_mars.vision.resize import ImageLimits, limits_of


def read_family(path: str) -> str:
    """The family of a model, a key of :data:`FAMILIES`.

    Args:
        path: folder or hub name.

    Raises:
        ValueError: ``config.json`` cannot be read, or the family is unknown.
    """
    config = _read_json(path, "config.json")
    if config is None:
        raise ValueError(f"cannot read the model's config.json at {path}. {_ADVICE}")
    name = str(config.get("model_type"))
    if name not in FAMILIES:
        raise ValueError(
            f"the frame in which a model of type {name!r} gives boxes is unknown ({path}). {_ADVICE}; "
            f"allowed: {', '.join([*FRAMES, *FAMILIES])}"
        )
    return name


def read_limits(path: str, mm_processor_kwargs: Fields | None = None) -> ImageLimits:
    """The limits of the model's image processor.

    Args:
        path: folder or hub name.
        mm_processor_kwargs: ``data.mm_processor_kwargs`` of the run, which changes the processor's limits.

    Raises:
        ValueError: the settings of the image processor cannot be read, or it does not resize.
    """
    processor = (_read_json(path, "processor_config.json") or {}).get("image_processor")
    processor = processor or _read_json(path, "preprocessor_config.json")
    if processor is None:
        raise ValueError(f"cannot read the model's image processor at {path}. {_ADVICE}")
    return limits_of(processor, mm_processor_kwargs)


_ADVICE = "Set reward.reward_kwargs.coordinates (and reward.reward_kwargs.image_processor)"


def _read_json(path: str, name: str) -> FieldDict | None:
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
