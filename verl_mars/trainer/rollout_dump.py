"""Images and advantages in verl's dump of training responses (``trainer.rollout_data_dir``)."""

from collections.abc import Iterable

from PIL.Image import Image

from verl_mars import store
from verl_mars.errors import SampleError
from verl_mars.fields import FieldDict, Fields
from verl_mars.reports.page import picture
from verl_mars.rows import Key, as_list, as_rows
from verl_mars.store import Batch
from verl_mars.trainer.dump import DumpsColumns
from verl_mars.views import Message, image_parts

SIDE = 160
"""Longest side in pixels of the thumbnail of an image that has no path."""


def prompts_of(batch: Batch, *, with_sources: bool) -> list[FieldDict]:
    """What a dumped line gets, in the order of the batch's keys; ``verl-mars show-rollouts`` reads it.

    ``images``: the path of each image of the prompt. An image without a path, as one that the data embed, is a small
    data URL in one row of each prompt and null in the others. ``image_sources``: the names of each image's sources.
    ``advantage``: the mean over the sampled tokens, null without any.

    Args:
        batch: as its advantages were computed.
        with_sources: the data have the column ``sources``.
    """
    data = store.read(batch, ["raw_prompt", "advantages", "response_mask", *(["sources"] if with_sources else [])])
    prompts = as_list(data["raw_prompt"])
    sources = as_list(data["sources"]) if with_sources else [None] * len(prompts)
    advantages, masks = as_rows(data["advantages"]), as_rows(data["response_mask"])
    lines, pictured = [], set()
    for key, prompt, of_row, advantage, mask in zip(batch.keys, prompts, sources, advantages, masks, strict=True):
        messages, uid = getattr(prompt, "data", prompt), Key.parse(key).uid
        images = [
            part["image"] if isinstance(part.get("image"), str) else None if uid in pictured else thumbnail(part)
            for part in image_parts(messages)
        ]
        pictured.add(uid)
        sampled = advantage[: len(mask)][mask[: len(advantage)].bool()]
        lines.append(
            {
                "images": images,
                "image_sources": _source_names(getattr(of_row, "data", of_row), len(images)),
                "advantage": float(sampled.double().mean()) if len(sampled) else None,
            }
        )
    return lines


def thumbnail(part: Message) -> str | None:
    """A data URL of an image part that has no path; None if it is no image."""
    source = part.get("image", part.get("bytes"))
    if not isinstance(source, bytes | Image):
        return None
    try:
        return picture(source, SIDE, jpeg_from=0).url
    except SampleError:
        return None


def _source_names(sources: Iterable[Fields] | None, images: int) -> list[str]:
    """The names of each image's sources, empty for an image of none."""
    names: list[list[str]] = [[] for _ in range(images)]
    for source in [] if sources is None else sources:
        for index in source["images"]:
            if int(index) < images:
                names[int(index)].append(str(source["name"]))
    return [" + ".join(of_image) for of_image in names]


class DumpsPrompts(DumpsColumns):
    """Adds :func:`prompts_of` to each line of a step's dump."""

    def dump_lines(self, batch: Batch) -> list[FieldDict]:
        columns = getattr(getattr(self.train_dataset, "dataframe", None), "column_names", ())
        prompts = prompts_of(batch, with_sources="sources" in columns)
        return [{**line, **prompt} for line, prompt in zip(super().dump_lines(batch), prompts, strict=True)]
