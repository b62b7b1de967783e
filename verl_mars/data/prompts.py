"""The wording of prompts: one place for all converters.

| style | fused | one source alone |
|---|---|---|
| ``labelled`` | a line ``Infrared: <image>`` for each source, the question, how to answer | the same with one line |
| ``plain`` | the images, then the question | the source's images, then its question |
| ``official`` | the images, then the published wording | the published wording made fit for one source |

The text of a mono prompt is written here, when the data are converted: a fused text that says "two images of the same
scene" is wrong for one image. ``mono="repeat"`` writes none; then the fused text is asked with the source's images
repeated, as the authors' code does.
"""

from typing import Literal

from verl_mars.data.row_checks import IMAGE_TAG, MEDIA_TAG
from verl_mars.data.sample import Sample, SourceSample
from verl_mars.errors import SampleError
from verl_mars.tasks import TASKS

Style = Literal["labelled", "plain", "official"]
MonoStyle = Literal["own", "repeat"]
VERSION = 1
"""Raised when the wording changes, so that a conversion is not resumed with another one."""

_ACRONYMS = frozenset(["rgb", "ir", "sar", "ct", "mri"])
_THINK = "Reason between <think> and </think>, then give the answer between <answer> and </answer>."


def fused_prompt(sample: Sample, style: Style) -> str:
    """What the policy is asked with all sources.

    Raises:
        SampleError: a placeholder such as ``<image>`` inside the question or a label, or nothing to ask.
    """
    tags = IMAGE_TAG * len(sample.images)
    if style == "official":
        return tags + _clean(sample.text if sample.text is not None else sample.question, "question")
    question = _clean(sample.question, "question")
    if style == "plain":
        return tags + question
    return "\n".join([*map(_line, sample.sources), question, _instruction(sample)])


def mono_prompt(sample: Sample, source: SourceSample, style: Style, mono: MonoStyle) -> str | None:
    """What the policy is asked with this source alone; ``None``: the fused text."""
    if mono == "repeat":
        return None
    tags = IMAGE_TAG * len(source.images)
    question = _clean(source.question if source.question is not None else sample.question, "question")
    if style == "official":
        return tags + _clean(source.text if source.text is not None else question, "question")
    if style == "plain":
        return tags + question
    return "\n".join([_line(source), question, _instruction(sample)])


def _line(source: SourceSample) -> str:
    label = source.label if source.label is not None else source.name.replace("_", " ")
    label = label.upper() if label.lower() in _ACRONYMS else label[:1].upper() + label[1:]
    return f"{_clean(label, 'label')}: {IMAGE_TAG * len(source.images)}"


def _instruction(sample: Sample) -> str:
    return f"{_THINK} {TASKS[sample.task].instruction}"


def _clean(text: str, key: str) -> str:
    found = MEDIA_TAG.search(text)
    if found:
        raise SampleError("media_tag", f"{found.group()} in {text[:80]!r}: verl would put an image there", key)
    if not text.strip():
        raise SampleError("record", "empty", key)
    return text.strip()
