"""M3FD: aligned visible and infrared road scenes, with boxes of six classes."""

from collections.abc import Iterator

from pydantic import Field

from verl_mars.data.paths import Root
from verl_mars.data.sample import Converter, Findings, Options, Reject, Sample, attempt
from verl_mars.data.voc import read_voc
from verl_mars.errors import DataError

from ._aligned import SAME_SCENE, pairs, question, relabelled, visible_and_infrared

_NAMES = {
    "People": "person",
    "Car": "car",
    "Bus": "bus",
    "Lamp": "lamp",
    "Motorcycle": "motorcycle",
    "Truck": "truck",
}
_THINGS = "person, car, bus, lamp, motorcycle and truck"


class M3fdOptions(Options):
    """Options of the converter."""

    split: str = Field(default="blocks", description="`blocks` of consecutive frames, or `meta`: meta/{train,val}.txt.")
    block: int = Field(default=50, gt=0, description="Frames of one block.")


class M3fd(Converter):
    """One row a pair; labels in lower case, ``People`` is ``person``."""

    name = "m3fd"
    title = "M3FD (visible + infrared, road scenes)"
    licence = "none stated for the data (code: GPL-3.0)"
    url = "https://github.com/JinyuanLiu-CV/TarDAL"
    layout = "  Vis/NNNNN.png\n  Ir/NNNNN.png\n  Annotation/NNNNN.xml\n  meta/train.txt, meta/val.txt (only split=meta)"
    caveats = (
        "M3FD has no official split. Neighbouring frames are nearly the same picture, so blocks of frames are split.",
        "M3FD: its separate Fusion archive has frames of this one; do not test on it after training here.",
    )
    options = M3fdOptions

    def samples(self, root: Root, options: M3fdOptions, findings: Findings) -> Iterator[Sample | Reject]:
        """See :class:`Converter`."""
        for folder in ("Vis", "Ir", "Annotation"):
            root.need(folder, self.layout)
        lists = self._lists(root, options, findings)
        for item in pairs(root, "Vis", "Ir"):
            if isinstance(item, Reject):
                yield item
                continue
            stem = item[0]
            if lists is not None and stem not in lists:
                findings.counts["pairs in no list of meta/"] += 1
                continue
            yield self._sample(root, item, None if lists is None else lists[stem], options)

    def _lists(self, root: Root, options: M3fdOptions, findings: Findings) -> dict[str, str] | None:
        if options.split == "blocks":
            return None
        if options.split != "meta":
            raise DataError(f"--set split={options.split}: allowed are blocks and meta")
        lists: dict[str, str] = {}
        for split in ("train", "val"):
            for line in root.need(f"meta/{split}.txt", self.layout).read_text(encoding="utf-8").splitlines():
                if line.strip():
                    lists[line.strip().rsplit(".", 1)[0]] = split
        findings.add("M3FD: meta/{train,val}.txt split by frame, so nearly equal frames are in train and in val.")
        return lists

    def _sample(
        self, root: Root, pair: tuple[str, str, str], split: str | None, options: M3fdOptions
    ) -> Sample | Reject:
        stem, visible, infrared = pair
        xml = f"Annotation/{stem}.xml"

        def make() -> Sample:
            path = root.path / xml
            asked = question(stem, _THINGS)
            number = int(stem) // options.block if stem.isdigit() else stem
            return Sample(
                sample_id=stem,
                task="grounding",
                question=f"{SAME_SCENE} {asked}",
                truth=relabelled(read_voc(path).as_boxes(), _NAMES, path),
                sources=visible_and_infrared(visible, infrared, asked),
                origin=xml,
                split=split,
                group=f"block-{number}",
                ability="grounding",
            )

        return attempt(make, xml, stem)


CONVERTER = M3fd()
