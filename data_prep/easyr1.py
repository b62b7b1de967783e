"""EasyR1, R1-V, VLM-R1 and their kin: ``problem``, ``answer`` or ``solution``, ``images`` or ``image``."""

from verl_mars.data.sample import Findings
from verl_mars.data.tables import Line
from verl_mars.data_prep._records import Record, RecordConverter, RecordOptions, as_list, first_of, needed

KEYS = frozenset(["id", "problem", "question", "answer", "solution", "images", "image", "choices", "options", "split"])


class EasyR1(RecordConverter):
    """One record is one problem with its images."""

    name = "easyr1"
    title = "EasyR1, R1-V and kin: problem, answer, images"
    url = "https://github.com/hiyouga/EasyR1"
    layout = (
        "  train.jsonl, .json or .parquet (or a folder of them), each record like\n"
        '  {"problem": "<image><image>Is it safe?", "answer": "yes", "images": ["rgb/1.jpg", "ir/1.jpg"]}'
    )

    def record(self, line: Line, options: RecordOptions, findings: Findings) -> Record:
        """See :class:`RecordConverter`."""
        content = line.content
        self.unread(line, KEYS, findings)
        return Record(
            origin=line.origin,
            sample_id=str(first_of(content, "id") or f"{line.split or 'row'}-{line.number}"),
            question=needed(content, "problem", "question"),
            answer=needed(content, "answer", "solution"),
            images=as_list(first_of(content, "images", "image")),
            choices=first_of(content, "choices", "options"),
            split=first_of(content, "split"),
        )


CONVERTER = EasyR1()
