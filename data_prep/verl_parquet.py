"""verl's own Parquet rows, as its examples write them: ``prompt``, ``images``, ``reward_model``, ``extra_info``."""

import json
from collections.abc import Mapping

from verl_mars.data.sample import Findings
from verl_mars.data.tables import Line
from verl_mars.data_prep._records import Record, RecordConverter, RecordOptions, as_list, first_of, needed
from verl_mars.errors import SampleError

KEYS = frozenset(["data_source", "prompt", "images", "reward_model", "extra_info", "ability", "agent_name"])


class VerlParquet(RecordConverter):
    """The question is ``extra_info.question`` if there is one, else the last message of the user."""

    name = "verl_parquet"
    title = "verl's own rows, geo3k style: prompt, images, reward_model"
    url = "https://verl.readthedocs.io/en/latest/preparation/prepare_data.html"
    layout = "  train.parquet and test.parquet, as verl's examples/data_preprocess/geo3k.py writes them"

    def record(self, line: Line, options: RecordOptions, findings: Findings) -> Record:
        """See :class:`RecordConverter`."""
        content = line.content
        self.unread(line, KEYS, findings)
        extra = content.get("extra_info")
        extra = extra if isinstance(extra, Mapping) else {}
        question = extra.get("question")
        if not isinstance(question, str):
            question = _asked(needed(content, "prompt"))
        reward = needed(content, "reward_model")
        if not isinstance(reward, Mapping):
            raise SampleError("record", "a mapping with ground_truth is needed", "reward_model")
        index = extra.get("index")
        return Record(
            origin=line.origin,
            sample_id=f"{extra.get('split') or line.split or 'row'}-{line.number if index is None else index}",
            question=question,
            answer=_plain(needed(reward, "ground_truth")),
            images=as_list(first_of(content, "images")),
            split=extra.get("split"),
            data_source=content.get("data_source"),
        )


def _asked(prompt: object) -> str:
    """The text of the last message of the user."""
    messages = [message for message in as_list(prompt) if isinstance(message, Mapping)]
    asked = [message.get("content") for message in messages if message.get("role") == "user"]
    if not asked or not isinstance(asked[-1], str):
        raise SampleError("prompt", "no message of the user with a text in it", "prompt")
    return asked[-1]


def _plain(truth: object) -> object:
    """A ground truth without the mapping that some tools put it into as JSON text."""
    if isinstance(truth, str) and truth.lstrip().startswith("{"):
        try:
            value = json.loads(truth)
        except ValueError:
            return truth
        return first_of(value, "answer", "ground_truth", "target") or truth
    return truth


CONVERTER = VerlParquet()
