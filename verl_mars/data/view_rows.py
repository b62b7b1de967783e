"""The views of a data set: each view of each row as a conversation, and as an ordinary row.

================  =========================================================  ==============================
kind              the model is shown                                         name of a view
================  =========================================================  ==============================
fused             every source                                               ``fused``
mono              one source alone, as MARS's anchor is asked                the source's name
blind             no source                                                  ``blind``
leave_one_out     every source but one (rows of two sources or more)         ``without_<source>``
shuffled          the images of another row with the same sources            ``shuffled``
repeat            one source, its images in every placeholder of the fused   ``repeat_<source>``
                  text: MARS's anchor without a prompt of the source's own
subsets           every further subset of sources (rows of 4 to 6 sources)   ``<source>+<source>...``
================  =========================================================  ==============================
"""

import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import get_args

import pyarrow as pa
import pyarrow.parquet as pq

from verl_mars.data.files import whole_file
from verl_mars.data.readers import as_files, open_parquet, row_batches
from verl_mars.data.schema import to_table
from verl_mars.errors import DataError, UsageError
from verl_mars.fields import FieldDict, Fields
from verl_mars.views import Fused, Message, Mono, MonoPrompt, RolloutView, Shuffled, Source, Subset, sources_of_row

KINDS = ("fused", "mono", "blind", "leave_one_out", "shuffled", "repeat", "subsets")
MOST_SUBSET_SOURCES = 6

_IMAGE_TAG = re.compile("(<image>)")
_RESERVED = ("fused", "blind", "shuffled")
_PREFIXES = ("without_", "repeat_")
_TRIES = 200  # other rows looked at before a row is said to have no partner of another scene


@dataclass(frozen=True)
class AskedView:
    """One view of one row."""

    name: str
    kind: str
    sources: tuple[str, ...]
    """Names of the sources that are shown; of another row's images for ``shuffled``."""
    messages: list[Message]
    ground_truth: str


def parse_kinds(text: str) -> tuple[str, ...]:
    """Kinds from a comma-separated list, in the order of :data:`KINDS`.

    Raises:
        UsageError: an unknown kind, or none.
    """
    asked = [kind.strip() for kind in text.split(",") if kind.strip()]
    unknown = [kind for kind in asked if kind not in KINDS]
    if unknown or not asked:
        wrong = f"view {unknown[0]!r} is unknown" if unknown else "no view is given"
        raise UsageError(f"--views {text}: {wrong}, allowed: {', '.join(KINDS)}")
    return tuple(kind for kind in KINDS if kind in asked)


def read_mono_prompt(text: str) -> MonoPrompt:
    """``repeat`` or ``drop``.

    Raises:
        UsageError: anything else.
    """
    for allowed in get_args(MonoPrompt):
        if text == allowed:
            return allowed
    raise UsageError(f"--mono-prompt {text}: allowed are {', '.join(get_args(MonoPrompt))}")


def messages_of_row(row: Fields) -> list[Message]:
    """A row's prompt with an image part for each ``<image>``, as verl's data set builds it.

    Raises:
        DataError: another number of ``<image>`` than of images.
    """
    images = list(row.get("images") or [])
    supply = iter(images)
    tags = sum(message["content"].count("<image>") for message in row["prompt"])
    if tags != len(images):
        raise DataError(f"the prompt has {tags} <image>, but the row has {len(images)} images")
    messages = []
    for message in row["prompt"]:
        content = message["content"]
        if "<image>" in content:
            pieces = [piece for piece in _IMAGE_TAG.split(content) if piece]
            content = [_part(next(supply)) if piece == "<image>" else _text(piece) for piece in pieces]
        messages.append({"role": message["role"], "content": content})
    return messages


def _part(image: Fields | str) -> Message:
    entry = {"image": image} if isinstance(image, str) else {k: v for k, v in image.items() if v is not None}
    return {"type": "image", **entry}


def _text(piece: str) -> Message:
    return {"type": "text", "text": piece}


class ViewedRows:
    """Renders the views of a data set's rows; rows are numbered by their position.

    Args:
        rows: all rows, since a shuffled view needs another row's images.
        kinds: of :data:`KINDS`.
        mono_prompt: as ``algorithm.mars.mono_prompt``, for sources without a prompt of their own.
        seed: of the choice of other rows.

    Raises:
        DataError: a row without sources or images, or a source whose name is that of a view; the row is named.
    """

    def __init__(
        self,
        rows: Sequence[Fields],
        kinds: Sequence[str],
        *,
        mono_prompt: MonoPrompt = "repeat",
        seed: int = 0,
    ) -> None:
        self.rows = rows
        self.kinds = kinds
        self.mono_prompt: MonoPrompt = mono_prompt
        self.sources = [_sources(number, row) for number, row in enumerate(rows)]
        self.donors = _donors(rows, self.sources, seed) if "shuffled" in kinds else {}
        self.left_out: Counter[str] = Counter()
        """Views that a row cannot have, by kind; filled while views are rendered."""

    def views(self, number: int) -> Iterator[AskedView]:
        """The views of one row, fused first.

        Raises:
            DataError: the row cannot be rendered.
        """
        row, sources = self.rows[number], self.sources[number]
        truth = row["reward_model"]["ground_truth"]
        fed = {"raw_prompt": messages_of_row(row), "reward_model": {"ground_truth": truth}}
        try:
            for name, kind, shown, view in self._views(number, sources):
                rendered = view.render(fed)
                names = tuple(source.name for source in shown)
                own = rendered["reward_model"]["ground_truth"]
                yield AskedView(name, kind, names, rendered["raw_prompt"], own)
        except ValueError as error:
            raise DataError(f"{_where(number, row)}: {error}") from None

    def _views(
        self, number: int, sources: tuple[Source, ...]
    ) -> Iterator[tuple[str, str, Sequence[Source], RolloutView]]:
        for kind in self.kinds:
            if kind == "fused":
                yield "fused", kind, sources, Fused()
            elif kind == "mono":
                for source in sources:
                    yield source.name, kind, (source,), Mono(source, self.mono_prompt)
            elif kind == "blind":
                yield "blind", kind, (), Subset("blind", ())
            elif kind == "leave_one_out" and len(sources) > 1:
                for source in sources:
                    others = tuple(other for other in sources if other is not source)
                    name = f"without_{source.name}"
                    yield name, kind, others, Subset(name, others)
            elif kind == "shuffled" and number in self.donors:
                donor = messages_of_row(self.rows[self.donors[number]])
                images = [part for m in donor if isinstance(m["content"], list) for part in m["content"]]
                parts = tuple(part for part in images if part["type"] == "image")
                yield "shuffled", kind, sources, Shuffled(parts)
            elif kind == "repeat":
                for source in sources:
                    bare = replace(source, prompt=None)
                    yield f"repeat_{source.name}", kind, (source,), Mono(bare, "repeat")
            elif kind == "subsets" and len(sources) <= MOST_SUBSET_SOURCES:
                for size in range(2, len(sources) - 1):
                    for some in combinations(sources, size):
                        name = "+".join(source.name for source in some)
                        yield name, kind, some, Subset(name, some)
            else:
                self.left_out[kind] += 1


def view_row(row: Fields, view: AskedView, index: int) -> FieldDict:
    """A view as a row that stock verl loads: ``data_source`` is ``set@view``, ``extra_info`` says where it comes from.

    All its images are one source with the view's name. Sizes of images are dropped, since they belong to the fused row;
    a grounding truth holds the size that its boxes are in.
    """
    images: list[FieldDict] = []
    prompt = []
    for message in view.messages:
        content = message["content"]
        if not isinstance(content, str):
            parts = [part for part in content if part["type"] == "image"]
            images += [{key: value for key, value in part.items() if key != "type"} for part in parts]
            content = "".join("<image>" if part["type"] == "image" else part["text"] for part in content)
        prompt.append({"role": message["role"], "content": content})
    extra = dict(row["extra_info"])
    extra |= {
        "row": extra["index"],
        "view": view.name,
        "index": index,
        "sample_id": f"{extra.get('sample_id', extra['index'])}@{view.name}",
    }
    sources: list[FieldDict] = row["sources"]
    if view.kind != "fused":
        own = {"name": view.name, "images": list(range(len(images))), "prompt": None, "ground_truth": None}
        sources = [own] if images else []
        extra |= {"sources": [source["name"] for source in sources], "image_sizes": None}
        extra |= {"seen_sizes": None} if "seen_sizes" in extra else {}
    return {
        **row,
        "data_source": f"{row['data_source']}@{view.name}",
        "prompt": prompt,
        "images": images,
        "sources": sources,
        "reward_model": {**row["reward_model"], "ground_truth": _in_frame(view.ground_truth, len(images))},
        "extra_info": extra,
    }


def _in_frame(truth: str, images: int) -> str:
    """A grounding truth whose ``frame`` is an image that the view has; it says only whose pixels the boxes are in."""
    try:
        value = json.loads(truth)
    except ValueError:
        return truth
    if isinstance(value, dict) and isinstance(value.get("frame"), int) and value["frame"] >= images:
        return json.dumps({**value, "frame": 0})
    return truth


def write_views(
    files: Sequence[str], out: Path, kinds: Sequence[str], *, mono_prompt: MonoPrompt = "repeat", seed: int = 0
) -> tuple[Counter[str], Counter[str]]:
    """Write the views of all rows to one Parquet file, with the files' own schema.

    Returns:
        Rows written by view, and views that a row cannot have by kind.

    Raises:
        DataError: a row that cannot be rendered, files whose schemas differ, or a target that is there already.
    """
    if out.exists():
        raise DataError(f"--out {out} is there already; remove it or choose another name")
    listed = as_files(files)
    parquet = [file for file in listed if not file.endswith(".parquet")]
    if parquet:
        raise DataError(f"{parquet[0]} is no Parquet file; views are written with the schema of the rows")
    schema = _with_view(open_parquet(listed[0]).schema_arrow)
    rows = [row for file in listed for batch in row_batches(file) for row in batch]
    viewed = ViewedRows(rows, kinds, mono_prompt=mono_prompt, seed=seed)
    written: Counter[str] = Counter()
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(out) as file, pq.ParquetWriter(file, schema) as writer:
        for number, row in enumerate(rows):
            records = []
            for view in viewed.views(number):
                records.append(view_row(row, view, sum(written.values())))
                written[view.name] += 1
            if records:
                writer.write_table(to_table(records, schema, number))
    return written, viewed.left_out


def _with_view(schema: pa.Schema) -> pa.Schema:
    """The schema with what :func:`view_row` adds to ``extra_info``."""
    place = schema.get_field_index("extra_info")
    if place < 0:
        raise DataError("the files have no column extra_info; see docs/data-format.md")
    own = [field for field in schema.field(place).type if field.name not in ("row", "view")]
    extra = pa.struct([*own, pa.field("row", pa.int64()), pa.field("view", pa.string())])
    return schema.set(place, pa.field("extra_info", extra)).remove_metadata()


def _where(number: int, row: Fields) -> str:
    extra = row.get("extra_info") or {}
    return f"row {number}" + (f" ({extra['sample_id']})" if extra.get("sample_id") else "")


def _sources(number: int, row: Fields) -> tuple[Source, ...]:
    try:
        sources = sources_of_row(row)
    except ValueError as error:
        raise DataError(f"{_where(number, row)}: {error}") from None
    if not row.get("images"):
        raise DataError(f"{_where(number, row)}: no images, so there is nothing to leave out; fill `images`")
    for source in sources:
        if source.name in _RESERVED or source.name.startswith(_PREFIXES) or "+" in source.name or "@" in source.name:
            raise DataError(
                f"{_where(number, row)}: source {source.name!r} has the name of a view ({', '.join(_RESERVED)}, "
                f"{', '.join(_PREFIXES)}..., or with + or @ in it); rename the source"
            )
    return sources


def _donors(rows: Sequence[Fields], sources: Sequence[tuple[Source, ...]], seed: int) -> dict[int, int]:
    """Row -> the row whose images it is shown: the same sources with as many images each, another scene and images."""
    alike: dict[Hashable, list[int]] = defaultdict(list)
    for number, own in enumerate(sources):
        alike[tuple((source.name, source.images) for source in own)].append(number)
    donors = {}
    for numbers in alike.values():
        random.Random(seed).shuffle(numbers)
        for at, number in enumerate(numbers):
            for step in range(1, min(len(numbers), _TRIES)):
                other = numbers[(at + step) % len(numbers)]
                if _differ(rows[number], rows[other]):
                    donors[number] = other
                    break
    return donors


def _differ(one: Fields, other: Fields) -> bool:
    scene, other_scene = (row["extra_info"].get("group") for row in (one, other))
    return (scene is None or scene != other_scene) and one["images"] != other["images"]
