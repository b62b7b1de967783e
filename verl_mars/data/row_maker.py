"""From a sample to a row: images opened, odd ones rendered, boxes moved along, prompts written, lengths computed."""

from collections import Counter
from dataclasses import dataclass, field

from verl_mars.data.paths import Root
from verl_mars.data.prompt_length import PromptLength
from verl_mars.data.prompts import MonoStyle, Style, fused_prompt, mono_prompt
from verl_mars.data.render import PreparedImage, Renderer
from verl_mars.data.row_checks import RowRules
from verl_mars.data.sample import Boxes, Sample
from verl_mars.data.schema import notes_json
from verl_mars.errors import SampleError
from verl_mars.fields import FieldDict
from verl_mars.tasks import TASKS
from verl_mars.tasks.base import Truth
from verl_mars.tasks.grounding import GroundingTruth
from verl_mars.vision.resize import Size, seen_size

_RULES = RowRules()


@dataclass(frozen=True)
class BuiltRow:
    """A row, and what the manifest counts of it."""

    record: FieldDict
    answer: str
    fused_tokens: int
    mono_tokens: int
    changed: Counter[str] = field(default_factory=Counter)
    """Images rendered, by how, and boxes cut at the image's edge."""


@dataclass(frozen=True)
class PixelLimits:
    """Bounds for the area that the processor scales each image to."""

    min_pixels: int | None = None
    max_pixels: int | None = None

    @property
    def given(self) -> bool:
        """Whether rows carry them."""
        return self.min_pixels is not None or self.max_pixels is not None


class RowMaker:
    """Makes rows; holds no state between them, so any number may work side by side."""

    def __init__(
        self,
        name: str,
        root: Root,
        renderer: Renderer,
        length: PromptLength,
        *,
        style: Style,
        mono: MonoStyle,
        limits: PixelLimits,
        max_prompt_length: int | None,
    ) -> None:
        self.name = name
        self.root = root
        self.renderer = renderer
        self.length = length
        self.style = style
        self.mono: MonoStyle = mono
        self.limits = limits
        self.max_prompt_length = max_prompt_length

    def make(self, sample: Sample, split: str, index: int) -> BuiltRow:
        """The row of a sample.

        Raises:
            SampleError: the sample cannot become a row.
        """
        if not sample.sources or any(not source.images for source in sample.sources):
            raise SampleError("source_images", "every source needs at least one image", "sources")
        _check_texts(sample)
        if sample.task not in TASKS:
            raise SampleError("task", f"{sample.task!r}, but one of {', '.join(TASKS)} is needed", "task")
        images = [
            self.renderer.prepare(ref.path if ref.content else self.root.file(ref.path), ref, source.name)
            for source in sample.sources
            for ref in source.images
        ]
        sizes = [image.size for image in images]
        changed: Counter[str] = Counter(str(image.note.get("encoding", "ordinary")) for image in images if image.note)
        truth = _truth(sample.truth, images, changed)
        _check_alignment(sample, images)
        prompt = [{"role": "user", "content": fused_prompt(sample, self.style)}]
        fused_tokens = self._tokens(prompt, sizes)
        mono_tokens = 0
        sources: list[FieldDict] = []
        first = 0
        for source in sample.sources:
            own = list(range(first, first + len(source.images)))
            first += len(source.images)
            text = mono_prompt(sample, source, self.style, self.mono)
            own_truth = None if source.truth is None else _truth(source.truth, images, changed).to_json()
            sources.append({"name": source.name, "images": own, "prompt": text, "ground_truth": own_truth})
            shown = [sizes[i] for i in own] if text is not None else _repeated([sizes[i] for i in own], len(sizes))
            chat = prompt if text is None else [{"role": "user", "content": text}]
            mono_tokens = max(mono_tokens, self._tokens(chat, shown))
        longest = max(fused_tokens, mono_tokens)
        if self.max_prompt_length is not None and longest > self.max_prompt_length:
            bound = "" if self.length.exact else "at most "
            raise SampleError("too_long", f"{bound}{longest} tokens, {self.max_prompt_length} are allowed", "prompt")
        record = {
            "data_source": sample.data_source or self.name,
            "prompt": prompt,
            "images": [self._entry(image) for image in images],
            "ability": sample.ability,
            "reward_model": {"style": "rule", "ground_truth": truth.to_json()},
            "extra_info": {
                "index": index,
                "split": split,
                "sample_id": sample.sample_id,
                "task": sample.task,
                "sources": [source.name for source in sample.sources],
                "image_sizes": [list(size) for size in sizes],
                "question": sample.question,
                "group": sample.group,
                "notes": _notes(sample, images),
            },
            "sources": sources,
        }
        if self.limits.given:
            record["extra_info"]["seen_sizes"] = [list(self._seen(size)) for size in sizes]  # type: ignore[index]
        # The types are right by construction; what must hold beyond them is checked as for anybody's row
        problem = next(_RULES.problems(record), None)
        if problem is not None:
            raise SampleError(problem.code, problem.message, problem.key)
        return BuiltRow(record, truth.in_words(), fused_tokens, mono_tokens, changed)

    def _entry(self, image: PreparedImage) -> FieldDict:
        entry: FieldDict = {"image": image.path}
        if self.limits.given:
            entry |= {"min_pixels": self.limits.min_pixels, "max_pixels": self.limits.max_pixels}
        return entry

    def _tokens(self, messages: list[dict[str, str]], sizes: list[Size]) -> int:
        return self.length(messages, sizes, self.limits.min_pixels, self.limits.max_pixels)

    def _seen(self, size: Size) -> Size:
        return seen_size(size, self.length.limits, self.limits.min_pixels, self.limits.max_pixels)


def _check_texts(sample: Sample) -> None:
    """JSON can name halves of characters (``\\ud800``), which neither a tokenizer nor a file takes."""
    texts = [sample.sample_id, sample.question, sample.group, sample.ability, sample.data_source, sample.text]
    for note in sample.notes:
        texts += note
    for source in sample.sources:
        texts += source.name, source.label, source.question, source.text
    try:
        "".join(filter(None, texts)).encode()
    except UnicodeEncodeError as error:
        raise SampleError("record", f"a text holds half a character: {error.object[error.start :][:60]!r}") from error
    except TypeError as error:
        raise SampleError("record", f"texts are needed: {error}, among {texts}") from error


def _repeated(own: list[Size], count: int) -> list[Size]:
    """The source's images in every placeholder of the fused text, in turn."""
    return [own[i % len(own)] for i in range(count)]


def _truth(truth: Boxes | Truth, images: list[PreparedImage], changed: Counter[str]) -> Truth:
    if not isinstance(truth, Boxes):
        return truth
    if not 0 <= truth.frame < len(images):
        raise SampleError("box", f"image {truth.frame} is the boxes' frame, but there are {len(images)} images")
    frame = images[truth.frame]
    width, height = truth.size or frame.stored.size
    if truth.boxes and not truth.fractions and max(max(box) for box in truth.boxes) <= 1:
        message = f"box {list(truth.boxes[0])} lies between 0 and 1: these are fractions of the image, not pixels"
        raise SampleError("box", message + "; --set units=fractions reads them, where the converter has it", "boxes")
    boxes = []
    for number, (x1, y1, x2, y2) in enumerate(truth.boxes):
        box = (x1 * width, y1 * height, x2 * width, y2 * height) if truth.fractions else (x1, y1, x2, y2)
        if box[0] == box[2] or box[1] == box[3]:
            raise SampleError("zero_area", f"box {number} {list(box)} has no area")
        if truth.clip:
            inside = _clipped(box, width, height)
            changed["boxes cut at the edge"] += inside != box
            box = inside
        moved = frame.move_box(box, truth.size)
        boxes.append(tuple(round(value, 3) for value in moved))
    if not truth.boxes and truth.size is not None:
        frame.move_box((0, 0, 1, 1), truth.size)  # no box to move, but the size must still be this image's
    return GroundingTruth.model_validate(
        {"boxes": boxes, "labels": truth.labels, "frame": truth.frame, "size": frame.size}
    )


def _check_alignment(sample: Sample, images: list[PreparedImage]) -> None:
    """Boxes hold for the sources of their image's size; a source of another size needs its own boxes.

    Raises:
        SampleError: such a source has none, so that its mono answers would be scored against another image's boxes.
    """
    if not isinstance(sample.truth, Boxes) or not 0 <= sample.truth.frame < len(images):
        return
    size = images[sample.truth.frame].size
    first = 0
    for source in sample.sources:
        own = images[first : first + len(source.images)]
        first += len(source.images)
        other = next((image.size for image in own if image.size != size), None)
        if source.truth is None and other is not None:
            message = f"source {source.name!r} has another size ({other[0]} x {other[1]}) than the boxes' image "
            message += f"({size[0]} x {size[1]}) and no ground truth: give it its own boxes and frame"
            raise SampleError("size_mismatch", message, "sources")


def _clipped(box: tuple[float, float, float, float], width: int, height: int) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = box
    return min(max(x1, 0), width), min(max(y1, 0), height), min(max(x2, 0), width), min(max(y2, 0), height)


def _notes(sample: Sample, images: list[PreparedImage]) -> str | None:
    notes: FieldDict = dict(sample.notes)
    rendered = {str(number): image.note for number, image in enumerate(images) if image.note}
    if rendered:
        notes["rendered"] = rendered
    return notes_json(notes)
