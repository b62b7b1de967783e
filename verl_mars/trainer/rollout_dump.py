"""Images and advantages in verl's dump of training responses (``trainer.rollout_data_dir``)."""

from typing import Any

from PIL.Image import Image

from verl_mars import store
from verl_mars.errors import SampleError
from verl_mars.reports.page import picture
from verl_mars.rows import Key, as_list, as_rows
from verl_mars.store import Batch
from verl_mars.trainer.token_dump import image_paths
from verl_mars.trainer.trainer import ViewTrainer
from verl_mars.views import Message, image_parts

SIDE = 160
"""Longest side in pixels of the thumbnail of an image that has no path."""


def prompts_of(batch: Batch, *, with_sources: bool) -> list[dict[str, Any]]:
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
            path or (None if uid in pictured else thumbnail(part))
            for path, part in zip(image_paths(messages), image_parts(messages), strict=True)
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


def _source_names(sources: Any, images: int) -> list[str]:
    """The names of each image's sources, empty for an image of none."""
    names: list[list[str]] = [[] for _ in range(images)]
    for source in [] if sources is None else sources:
        for index in source["images"]:
            if int(index) < images:
                names[int(index)].append(str(source["name"]))
    return [" + ".join(of_image) for of_image in names]


class DumpsPrompts(ViewTrainer):
    """Adds :func:`prompts_of` to each line of a step's dump."""

    _prompts: dict[str, dict[str, Any]] | None = None

    def _log_rollout_data(self, batch: Batch, timing_raw: dict[str, float], rollout_data_dir: str) -> None:
        columns = getattr(getattr(self.train_dataset, "dataframe", None), "column_names", ())
        lines = prompts_of(batch, with_sources="sources" in columns)
        self._prompts = dict(zip(batch.keys, lines, strict=True))
        try:
            super()._log_rollout_data(batch, timing_raw, rollout_data_dir)
        finally:
            self._prompts = None

    def _dump_generations(
        self,
        inputs: list[str],
        outputs: list[str],
        gts: list[Any],
        scores: list[float],
        reward_extra_infos_dict: dict[str, list[Any]],
        dump_path: str,
    ) -> None:
        extra = reward_extra_infos_dict
        if self._prompts is not None:
            lines = [self._prompts[key] for key in extra["uid"]]
            extra = {**{name: [line[name] for line in lines] for name in lines[0]}, **extra} if lines else extra
        super()._dump_generations(inputs, outputs, gts, scores, extra, dump_path)
