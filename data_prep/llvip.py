"""LLVIP: aligned visible and infrared street scenes at night, with boxes of persons."""

from collections.abc import Iterator

from verl_mars.data.paths import Root
from verl_mars.data.sample import Converter, Findings, Options, Reject, Sample, attempt
from verl_mars.data.voc import read_voc

from ._aligned import OFFICIAL, SAME_SCENE, pairs, question, relabelled, visible_and_infrared

_NAMES = {"person": "person"}


class Llvip(Converter):
    """One row a pair. The official split; scenes are the first two digits of a file's name."""

    name = "llvip"
    title = "LLVIP (visible + infrared, persons at night)"
    licence = "own licence, non-commercial"
    url = "https://github.com/bupt-ai-cz/LLVIP"
    layout = "  visible/{train,test}/NNNNNN.jpg\n  infrared/{train,test}/NNNNNN.jpg\n  Annotations/NNNNNN.xml"
    caveats = (
        "LLVIP: persons are bright in infrared at night, so the infrared image alone answers most rows.",
        "LLVIP: frames of one scene follow each other in time; do not draw a validation set from train by row.",
    )

    def samples(self, root: Root, options: Options, findings: Findings) -> Iterator[Sample | Reject]:
        """See :class:`Converter`."""
        for folder in ("visible", "infrared", "Annotations"):
            root.need(folder, self.layout)
        splits = [split for split in ("train", "test") if root.has(f"visible/{split}")]
        if not splits:
            root.need("visible/train", self.layout)
        for split in splits:
            for item in pairs(root, f"visible/{split}", f"infrared/{split}"):
                if isinstance(item, Reject):
                    yield item
                else:
                    yield self._sample(root, split, *item, findings)

    def _sample(
        self, root: Root, split: str, stem: str, visible: str, infrared: str, findings: Findings
    ) -> Sample | Reject:
        xml = f"Annotations/{stem}.xml"

        def make() -> Sample:
            path = root.path / xml
            truth = relabelled(read_voc(path).as_boxes(), _NAMES, path)
            if not truth.boxes:
                findings.counts["frames without a person"] += 1
            asked = question(stem, "person")
            return Sample(
                sample_id=stem,
                task="grounding",
                question=f"{SAME_SCENE} {asked}",
                truth=truth,
                sources=visible_and_infrared(visible, infrared, asked),
                origin=xml,
                split=split,
                group=stem[:2],
                ability="grounding",
                text=OFFICIAL,
            )

        return attempt(make, xml, stem)


CONVERTER = Llvip()
