"""ms-swift JSONL: ``messages``, ``images``, ``solution``, and ``objects`` for grounding."""

from collections.abc import Mapping

from verl_mars.data.box_forms import BoxUnit
from verl_mars.data.sample import Findings
from verl_mars.data.tables import Line
from verl_mars.data_prep._records import Record, RecordConverter, RecordOptions, as_list, first_of, needed
from verl_mars.errors import SampleError

KEYS = frozenset(["id", "messages", "images", "solution", "objects", "channel"])
UNITS: dict[object, BoxUnit] = {None: "pixels", "real": "pixels", "norm1000": "thousandths", "norm1": "fractions"}
"""``objects.bbox_type`` -> unit of the boxes."""


class MsSwift(RecordConverter):
    """The question is the user's message; the answer ``solution``, ``objects``, or the assistant's message."""

    name = "ms_swift"
    title = "ms-swift: messages, images, solution"
    url = "https://swift.readthedocs.io/en/latest/Customization/Custom-dataset.html"
    layout = (
        "  train.jsonl, each line like\n"
        '  {"messages": [{"role": "user", "content": "<image><image>Is it safe?"}], "images": ["1.jpg", "2.jpg"],\n'
        '   "solution": "yes"}'
    )

    def record(self, line: Line, options: RecordOptions, findings: Findings) -> Record:
        """See :class:`RecordConverter`."""
        content = line.content
        self.unread(line, KEYS, findings)
        said: dict[str, list[str]] = {}
        for message in as_list(needed(content, "messages")):
            if not isinstance(message, Mapping) or not isinstance(message.get("content"), str):
                raise SampleError("prompt", f"{str(message)[:60]!r}, but {{role, content}} is needed", "messages")
            said.setdefault(str(message.get("role")), []).append(message["content"])
        if not said.get("user"):
            raise SampleError("prompt", "no message of the user", "messages")
        if len(said["user"]) > 1:
            raise SampleError("record", f"{len(said['user'])} turns, one is read", "messages")
        findings.counts["system messages left out"] += "system" in said
        question = said["user"][0]
        answer = first_of(content, "solution")
        if answer is None and said.get("assistant"):
            answer = said["assistant"][-1]
        labels, unit = None, None
        objects = content.get("objects")
        if isinstance(objects, Mapping) and objects.get("bbox"):
            answer, labels = as_list(objects["bbox"]), [str(label) for label in as_list(objects.get("ref"))]
            if len(labels) == 1:
                labels *= len(answer)
            if objects.get("bbox_type") not in UNITS:
                raise SampleError(
                    "box", f"{objects['bbox_type']!r}, allowed: real, norm1000, norm1", "objects.bbox_type"
                )
            unit = UNITS[objects.get("bbox_type")]
            for label in labels:
                question = question.replace("<ref-object>", label, 1)
            question = question.replace("<bbox>", "")
        return Record(
            origin=line.origin,
            sample_id=str(first_of(content, "id") or f"{line.split or 'row'}-{line.number}"),
            question=question,
            answer=answer,
            images=as_list(content.get("images")),
            labels=labels,
            units=unit,
        )


CONVERTER = MsSwift()
