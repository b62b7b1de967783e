"""What must hold for one row, whoever wrote it: rules on plain dicts, as they come out of Parquet or JSON.

Each rule guards against something that verl 0.9.1 answers with a failed rollout or, worse, with silence.
The row model of :mod:`verl_mars.data.schema` and the file checks of :mod:`verl_mars.data.check` both apply them.
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from verl_mars.errors import Problem, SampleError
from verl_mars.fields import Fields
from verl_mars.row_tools import TOOL_KEYS, given_to_tools
from verl_mars.tasks import task_of_row
from verl_mars.tasks.base import AnyTask
from verl_mars.vision.families import frame_named

IMAGE_TAG = "<image>"
MEDIA_TAG = re.compile(r"<(?:image|video|audio)>")
MODEL_TOKEN = re.compile(
    r"<\|[A-Za-z0-9_]{1,64}\|>|<(?:start|end)_of_(?:turn|image)>|<image_soft_token>|<IMG_CONTEXT>|</?img>"
)
"""Tokens that chat templates and processors write; in a text they would end a message or stand for an image."""

KNOWN_COLUMNS = frozenset(
    ["data_source", "prompt", "images", "ability", "reward_model", "extra_info", "sources", "agent_name"]
)
"""The row's own columns, and the one that picks an agent loop for it."""

RESERVED_COLUMNS = frozenset(
    # verl passes each column to its agent loop by name, beside its own arguments: "multiple values for argument"
    ["self", "sampling_params", "trajectory", "trace", "session_id"]
    # verl's data set, trainer and loader write these into every row themselves
    + ["raw_prompt", "index", "tools_kwargs", "interaction_kwargs", "dummy_tensor", "uid", "global_steps", "validate"]
    # a trajectory is stored with these fields, and the row's columns are written over them
    + ["prompts", "responses", "response_mask", "loss_mask", "input_ids", "attention_mask", "position_ids"]
    + ["rm_scores", "rollout_log_probs", "multi_modal_inputs", "multi_modal_data", "num_turns", "metrics"]
    + ["extra_fields", "routed_experts", "teacher_ids", "teacher_logprobs", "mm_processor_kwargs"]
    + ["mm_processor_output", "prompt_ids", "response_ids", "response_logprobs", "reward_score"]
    # the trainer computes these for every trajectory
    + ["old_log_probs", "ref_log_prob", "advantages", "returns", "values", "token_level_scores", "token_level_rewards"]
    # the reward workers read or add these
    + ["tool_extra_fields", "reward_scores", "prompt_len", "response_len", "__num_turns__"]
    # verl-mars: verl_mars.rows.FIELDS, which is not imported, as it brings torch along
    + ["anchor_scores", "anchor_sources", "anchor_versions", "anchor_tokens", "anchor_seconds", "known_anchors"]
    + ["mars_view", "mars_noisy", "mars_look", "other_visual_inputs", "image_costs"]
)
"""Names that a column of a row must not have."""


@dataclass(frozen=True)
class RowRules:
    """Which rules apply, and the names of the columns they look at."""

    prompt_key: str = "prompt"
    image_key: str = "images"
    need_sources: bool = True
    check_truth: bool = True
    """Off: a reward function of the user's own scores the rows, so tasks and ground truths are its business."""
    max_images: int | None = None
    join_sources: bool = False
    """Whether sessions show all sources of a row but one."""

    def problems(self, row: Fields) -> Iterator[Problem]:
        """Everything wrong with the row but its image files. Never raises, whatever the row holds."""
        images = row.get(self.image_key)
        count = len(images) if isinstance(images, list) else 0
        yield from self._images(images)
        media = {IMAGE_TAG, *(f"<{kind}>" for kind in ("video", "audio") if row.get(f"{kind}s"))}
        yield from self._prompt(row.get(self.prompt_key), count, media, blind=not images)
        yield from self._extra_info(row.get("extra_info"), images if isinstance(images, list) else [])
        yield from self._sources(row, count)
        yield from self._data_source(row)
        if self.check_truth:
            yield from _truths(row, count)

    def _images(self, images: object) -> Iterator[Problem]:
        if images is None:
            return
        if not isinstance(images, list):
            message = f"{type(images).__name__} {str(images)[:60]!r}, but a list of {{image: path}} is needed"
            yield Problem("images_type", self.image_key, message)
            return
        if self.max_images is not None and len(images) > self.max_images:
            message = f"{len(images)} images, but the engine takes {self.max_images} a prompt (limit_images)"
            yield Problem("too_many_images", self.image_key, message)
        for position, image in enumerate(images):
            problem = image_entry_problem(image, f"{self.image_key}[{position}]")
            if problem is not None:
                yield problem

    def _prompt(self, prompt: object, images: int, media: set[str], *, blind: bool) -> Iterator[Problem]:
        key = self.prompt_key
        if not isinstance(prompt, list) or not prompt:
            yield Problem("prompt", key, f"{str(prompt)[:60]!r}, but a list of {{role, content}} is needed")
            return
        placeholders = 0
        for number, message in enumerate(prompt):
            at = f"{key}[{number}]"
            if not isinstance(message, dict) or not isinstance(message.get("role"), str):
                yield Problem("prompt", at, f"{str(message)[:60]!r}, but {{role, content}} is needed")
                return
            content = message.get("content")
            if not isinstance(content, str):
                found = type(content).__name__
                yield Problem("prompt", at, f"content is {found}, but a string with {IMAGE_TAG} in it is needed")
                return
            placeholders += content.count(IMAGE_TAG)
            yield from _no_other_media(content, f"{at}.content", media)
        if blind and placeholders:
            text = f"{placeholders} {IMAGE_TAG}, but the row has no images: verl would train on the text alone"
            yield Problem("blind", key, text)
        elif placeholders != images:
            message = f"{placeholders} {IMAGE_TAG}, but {images} images: one {IMAGE_TAG} an image is needed"
            yield Problem("image_count", key, message)

    def _extra_info(self, extra: object, images: Sequence[object]) -> Iterator[Problem]:
        if not isinstance(extra, dict) or not _is_int(extra.get("index")):
            found = extra.get("index") if isinstance(extra, dict) else None
            message = f"{found!r}, but an integer is needed: verl takes 0 for every row without one, so traces merge"
            yield Problem("index", "extra_info.index", message)
            return
        if extra.get("coordinates") is not None:
            try:
                frame_named(extra["coordinates"])
            except SampleError as error:
                yield Problem(error.code, "extra_info.coordinates", error.problem.message)
        sizes = extra.get("image_sizes")
        if sizes is None:
            return
        if not isinstance(sizes, list) or any(not _is_size(size) for size in sizes):
            message = f"{str(sizes)[:60]}, but a list of [width, height] is needed"
            yield Problem("image_sizes", "extra_info.image_sizes", message)
        elif len(sizes) != len(images):
            message = f"{len(sizes)} sizes for {len(images)} images"
            yield Problem("image_sizes", "extra_info.image_sizes", message)

    def _sources(self, row: Fields, images: int) -> Iterator[Problem]:
        sources = row.get("sources")
        if not sources:
            if self.need_sources:
                message = "missing or empty: without sources there are no mono views, so no anchors"
                yield Problem("no_sources", "sources", message)
            return
        if not isinstance(sources, list) or any(not isinstance(source, dict) for source in sources):
            message = f"{str(sources)[:60]!r}, but a list of {{name, images, prompt, ground_truth}} is needed"
            yield Problem("no_sources", "sources", message)
            return
        names = [source.get("name") for source in sources]
        extra = row.get("extra_info")
        for position, source in enumerate(sources):
            yield from _source(source, f"sources[{position}]", names, images)
            yield from _tools(source, f"sources[{position}]", extra if isinstance(extra, dict) else {})
        if self.join_sources and len(sources) > 2:
            for name in TOOL_KEYS:
                if isinstance(extra, dict) and given_to_tools(extra.get(name)):
                    message = (
                        "given, but anchors=leave_one_out shows all sources but one, and sources say only what tools "
                        "get that see one: use anchors=mono for these rows"
                    )
                    yield Problem("tools", f"extra_info.{name}", message)
        media = [key for key in ("videos", "audios") if row.get(key)]
        if media and images and self.need_sources and any(source.get("prompt") is None for source in sources):
            message = (
                f"in the row beside images: a session of one source would still be shown the {' and '.join(media)}"
            )
            yield Problem("videos", media[0], message)
        listed = extra.get("sources") if isinstance(extra, dict) else None
        if isinstance(listed, list) and listed != names:
            message = f"{listed}, but `sources` has {names}: the same names in the same order are needed"
            yield Problem("source_name", "extra_info.sources", message)

    def _data_source(self, row: Fields) -> Iterator[Problem]:
        value = row.get("data_source")
        if not isinstance(value, str) or not value:
            message = f"{value!r}, but a text is needed: verl groups validation scores by it"
            yield Problem("missing_column", "data_source", message)


def column_problems(names: Sequence[str], prompt_key: str = "prompt") -> Iterator[Problem]:
    """Columns with names that verl or verl-mars uses itself, and columns that every row needs."""
    for name in names:
        if name in RESERVED_COLUMNS:
            message = "this name is taken by verl or verl-mars; a column of yours may be called mars_..., for instance"
            yield Problem("column", name, message)
    for name in (prompt_key, "data_source", "reward_model", "extra_info"):
        if name not in names:
            yield Problem("missing_column", name, f"no such column; the file has {', '.join(names)}")


def image_entry_problem(image: object, key: str) -> Problem | None:
    """Why an entry of ``images`` is none that verl's data set takes."""
    if isinstance(image, str):
        return _path_problem(image, key)
    if isinstance(image, bytes) or not isinstance(image, dict):
        return Problem("images_type", key, f"{type(image).__name__}, but {{image: path}} or {{bytes, path}} is needed")
    if "bytes" in image:
        if not image["bytes"]:
            return Problem("images_type", key, "bytes is null or empty: verl opens the bytes and never the path")
        return None
    path = image.get("image")
    if not isinstance(path, str) or not path:
        keys = ", ".join(map(str, image)) or "nothing"
        return Problem("images_type", key, f"has {keys}, but `image` with a path, or `bytes`, is needed")
    if ("resized_height" in image or "resized_width" in image) and not (
        _is_int(image.get("resized_height")) and _is_int(image.get("resized_width"))
    ):
        return Problem("images_type", key, "resized_height and resized_width must both be integers, in every row")
    return _path_problem(path, key)


def _path_problem(path: str, key: str) -> Problem | None:
    if path.startswith(("http://", "https://", "data:image", "file://")) or os.path.isabs(path):
        return None
    return Problem("relative_path", key, f"{path!r} is relative: a Ray worker has another working directory")


def _no_other_media(text: str, key: str, allowed: set[str]) -> Iterator[Problem]:
    tokens = set(MODEL_TOKEN.findall(text))
    if tokens:
        yield Problem(
            "media_tag", key, f"{', '.join(sorted(tokens))} in it: the tokenizer takes it for a model's token"
        )
    tags = set(MEDIA_TAG.findall(text)) - allowed
    if tags:
        message = f"{', '.join(sorted(tags))} in it, but the row has no such media: verl takes it for a placeholder"
        yield Problem("media_tag", key, message)


def _source(source: Fields, key: str, names: Sequence[object], images: int) -> Iterator[Problem]:
    name, own = source.get("name"), source.get("images")
    if not isinstance(name, str) or not name.strip():
        yield Problem("source_name", f"{key}.name", f"{name!r}, but a text is needed")
    elif MODEL_TOKEN.search(name) or MEDIA_TAG.search(name):
        yield from _no_other_media(name, f"{key}.name", set())
    elif names.count(name) > 1:
        yield Problem("source_name", f"{key}.name", f"{name!r} is listed {names.count(name)} times; names must differ")
    if not isinstance(own, list) or not own or not all(_is_int(index) for index in own):
        yield Problem("source_images", f"{key}.images", f"{own!r}, but a list of image positions is needed")
        return
    for index in own:
        if not 0 <= index < images:
            allowed = f"0 to {images - 1} are allowed" if images else "the row has no images"
            yield Problem("source_images", f"{key}.images", f"source {name!r} names image {index}, {allowed}")
    if len(set(own)) != len(own):
        yield Problem("source_images", f"{key}.images", f"source {name!r} names an image twice: {own}")
    prompt = source.get("prompt")
    if prompt is None:
        return
    if not isinstance(prompt, str):
        yield Problem("source_prompt", f"{key}.prompt", f"{type(prompt).__name__}, but a string or null is needed")
    else:
        if prompt.count(IMAGE_TAG) != len(own):
            message = f"{prompt.count(IMAGE_TAG)} {IMAGE_TAG}, but source {name!r} has {len(own)} images"
            yield Problem("source_prompt", f"{key}.prompt", message)
        yield from _no_other_media(prompt, f"{key}.prompt", {IMAGE_TAG})


def _tools(source: Fields, key: str, extra: Fields) -> Iterator[Problem]:
    for name in TOOL_KEYS:
        own = source.get(name)
        if own is None and given_to_tools(extra.get(name)):
            message = f"missing, but extra_info.{name} is given: a tool could show a session of this source the others"
            yield Problem("tools", f"{key}.{name}", message)
        elif own is not None and not _is_json_object(own):
            yield Problem("tools", f"{key}.{name}", f"{str(own)[:60]!r}, but the JSON text of an object is needed")


def _is_json_object(text: object) -> bool:
    try:
        return isinstance(text, str) and isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _truths(row: Fields, images: int) -> Iterator[Problem]:
    """The fused ground truth, and those of the sources."""
    reward, extra = row.get("reward_model"), row.get("extra_info")
    extra = extra if isinstance(extra, dict) else {}
    try:
        task = task_of_row(extra)
    except SampleError as error:
        yield error.problem
        return
    text = reward.get("ground_truth") if isinstance(reward, dict) else None
    yield from _truth(task, text, "reward_model.ground_truth", extra, range(images))
    sources = row.get("sources")
    for position, source in enumerate(sources if isinstance(sources, list) else []):
        if isinstance(source, dict) and source.get("ground_truth") is not None:
            own = source.get("images")
            frames = own if isinstance(own, list) else range(images)
            yield from _truth(task, source["ground_truth"], f"sources[{position}].ground_truth", extra, frames)


def _truth(task: AnyTask, text: object, key: str, extra: Fields, images: Sequence[int]) -> Iterator[Problem]:
    if not isinstance(text, str):
        yield Problem("ground_truth", key, f"{type(text).__name__}, but a JSON text is needed")
        return
    yield from _no_other_media(text, key, set())
    sizes = extra.get("image_sizes")
    if not isinstance(sizes, list) or len(sizes) < len(images) or not all(map(_is_size, sizes)):
        sizes = None  # the rules of extra_info name what is wrong with them
    try:
        task.read_for_row(text, key, sizes, images)
    except SampleError as error:
        yield error.problem


def _is_int(value: object) -> bool:
    return type(value) is int  # and no bool


def _is_size(value: object) -> bool:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        return False
    width, height = value
    return _is_int(width) and _is_int(height) and width > 0 and height > 0
