"""M4-Instruct's multi-image parts that MARS trains on: nuScenes' six cameras and OCR-VQA's two book covers."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Literal

from pydantic import Field, ValidationError

from verl_mars.config import parsed
from verl_mars.data.answers import choice_truth, list_choices, split_aliases, split_choices
from verl_mars.data.disjoint_sets import SharedGroups
from verl_mars.data.paths import Root
from verl_mars.data.readers import json_records
from verl_mars.data.sample import Converter, Findings, ImageRef, Options, Reject, Sample, SourceSample, attempt
from verl_mars.errors import DataError, SampleError
from verl_mars.fields import Fields
from verl_mars.tasks.mcq import McqTruth

from ._conversations import Conversation, MultiTurn, without_tags

Subset = Literal["nuscenes", "ocr_vqa"]
IMAGES_OF: dict[Subset, int] = {"nuscenes": 6, "ocr_vqa": 2}
NOT_THE_SAME = "not the same"
_FEW = 20


class M4Options(Options):
    """Options of the converter."""

    file: str = Field(default="m4_instruct_annotations.json", description="The annotation file under --root.")
    subset: Literal["both", "nuscenes", "ocr_vqa"] = Field(default="both", description="both, nuscenes or ocr_vqa.")
    holdout: str = Field(
        default="", description="Published evaluation files, separated by commas; what has their images becomes test."
    )
    multi_turn: MultiTurn = Field(default="reject", description="Records of several turns: reject, or keep the first.")


class M4Instruct(Converter):
    """One row a record. Rows that share an image go to one split."""

    name = "m4_instruct"
    title = "M4-Instruct: nuScenes six views, OCR-VQA two covers"
    licence = "CC BY 4.0 with OpenAI's terms; nuScenes images CC BY-NC-SA 4.0"
    url = "https://huggingface.co/datasets/lmms-lab/M4-Instruct-Data"
    layout = "  m4_instruct_annotations.json\n  nuscenes/full/images/N.jpg\n  OCR-VQA/full/images/N.jpg"
    caveats = (
        "M4-Instruct renumbers nuScenes' frames, so scenes are not known: neighbouring frames may be in two splits.",
        "M4-Instruct does not say which camera is which: sources are view_1 to view_6.",
    )
    options = M4Options

    def samples(self, root: Root, options: M4Options, findings: Findings) -> Iterator[Sample | Reject]:
        """See :class:`Converter`. Reads the file twice: groups first, samples then."""
        path = root.need(options.file, self.layout)
        held_out = _held_out(root, options.holdout)
        if held_out is None:
            findings.add("The authors' evaluation rows come from here: --set holdout=FILES keeps them out of training.")
        groups = SharedGroups()
        for record in json_records(path):
            if _subset(record) is not None and isinstance(record.get("image"), list):
                groups.join(str(image) for image in record["image"])
        never, asked_both = 0, 0
        for number, record in enumerate(json_records(path)):
            subset = _subset(record)
            if subset is None or options.subset not in ("both", subset):
                findings.counts["records of other data sets"] += 1
                continue
            sample_id = f"{subset}-{record.get('sample_id', record.get('id', number))}"
            origin = f"{options.file}, record {number}"
            make = partial(_sample, record, subset, sample_id, origin, options, groups, held_out or set())
            item = attempt(make, origin, sample_id)
            if isinstance(item, Sample) and isinstance(item.truth, McqTruth) and NOT_THE_SAME in item.truth.choices:
                asked_both += 1
                never += item.truth.text != NOT_THE_SAME
            yield item
        if asked_both >= _FEW and never == asked_both:
            findings.add(
                f"OCR-VQA: {NOT_THE_SAME!r} is a choice in {asked_both} rows and right in none, so one cover alone "
                "gives the answer: mono scores are high by construction."
            )


def _subset(record: object) -> Subset | None:
    """Which of the two parts a record belongs to, by its metadata or by its images' folder."""
    if not isinstance(record, Mapping):
        return None
    metadata = record.get("metadata")
    named = str(metadata.get("dataset", "")) if isinstance(metadata, Mapping) else ""
    images = record.get("image")
    folder = str(images[0]).split("/")[0] if isinstance(images, list) and images else ""
    for text in (named.lower(), folder.lower()):
        if text.startswith("nuscenes"):
            return "nuscenes"
        if text.startswith(("ocr-vqa", "ocr_vqa", "ocrvqa")):
            return "ocr_vqa"
    return None


def _sample(
    record: Fields,
    subset: Subset,
    sample_id: str,
    origin: str,
    options: M4Options,
    groups: SharedGroups,
    held_out: set[tuple[str, ...]],
) -> Sample:
    conversation = parsed(Conversation, record)
    images = conversation.images
    if len(images) != IMAGES_OF[subset]:
        raise SampleError("image_count", f"{len(images)} images, {subset} has {IMAGES_OF[subset]}", "image")
    asked, answer = conversation.question_and_answer(options.multi_turn)
    text = without_tags(asked)
    held = _key(images) in held_out
    shared = {
        "sample_id": sample_id,
        "origin": origin,
        "split": "test" if held else None,
        "group": f"{subset}-{groups.find(images[0])}",
        "data_source": f"m4_{subset}",
        "text": text,
    }
    make = six_views if subset == "nuscenes" else two_covers
    return make(text, answer, images, shared)


def six_views(text: str, answer: str, images: list[str], shared: Fields) -> Sample:
    """A question about six cameras; ``text`` is instruction and question."""
    question = text.rpartition("Question:")[2].strip()
    alone = f"This is the view of one of six cameras. {question}"
    sources = tuple(
        SourceSample(f"view_{number}", (ImageRef(image),), f"View {number}", alone)
        for number, image in enumerate(images, start=1)
    )
    return Sample(task="vqa", question=question, truth=split_aliases(answer), sources=sources, **shared)


def two_covers(text: str, answer: str, images: list[str], shared: Fields) -> Sample:
    """A question about two book covers with choices by letter."""
    asked, choices = split_choices(text)
    question = f"{asked.rpartition('Question:')[2].strip()}\n{list_choices(choices)}"
    alone = f"Only one of the two books is shown. {question}"
    sources = tuple(
        SourceSample(f"cover_{number}", (ImageRef(image),), f"Cover of book {number}", alone)
        for number, image in enumerate(images, start=1)
    )
    return Sample(task="mcq", question=question, truth=choice_truth(answer, choices), sources=sources, **shared)


def _key(images: list[str]) -> tuple[str, ...]:
    """Images by folder and number, whatever comes before them."""
    return tuple("/".join(image.split("/")[-4:]) for image in images)


def _held_out(root: Root, files: str) -> set[tuple[str, ...]] | None:
    names = [name.strip() for name in files.split(",") if name.strip()]
    if not names:
        return None
    keys = set()
    for name in names:
        try:
            path = root.file(name)
            for record in json_records(path):
                keys.add(_key([str(part["image"]) for part in record["content"] if part.get("type") == "image"]))
        except SampleError as error:
            raise DataError(f"--set holdout: {error}; allow its folder with --allow-root") from error
        except (KeyError, TypeError, AttributeError, ValidationError) as error:
            raise DataError(f"--set holdout: {name} is not in the form of the published evaluation files") from error
    return keys


CONVERTER = M4Instruct()
