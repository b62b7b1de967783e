"""ShareGPT and LLaVA conversations: ``image`` or ``images`` and turns of ``human`` and ``gpt``."""

from pydantic import Field

from verl_mars.config import parsed
from verl_mars.data.sample import Findings
from verl_mars.data.tables import Line
from verl_mars.data_prep._conversations import Conversation, MultiTurn
from verl_mars.data_prep._records import Record, RecordConverter, RecordOptions, first_of

KEYS = frozenset(["id", "image", "images", "conversations"])


class LlavaOptions(RecordOptions):
    """What becomes of long conversations."""

    multi_turn: MultiTurn = Field(default="reject", description="first: the first turn of a longer conversation.")


class Llava(RecordConverter):
    """The first turn is question and answer."""

    name = "llava"
    title = "ShareGPT or LLaVA conversations"
    url = "https://github.com/haotian-liu/LLaVA/blob/main/docs/Finetune_Custom_Data.md"
    layout = (
        "  train.json, a list of records like\n"
        '  {"id": "1", "image": ["rgb/1.jpg", "ir/1.jpg"], "conversations": [\n'
        '    {"from": "human", "value": "<image><image>Is it safe?"}, {"from": "gpt", "value": "yes"}]}'
    )
    options = LlavaOptions

    def record(self, line: Line, options: LlavaOptions, findings: Findings) -> Record:
        """See :class:`RecordConverter`."""
        self.unread(line, KEYS, findings)
        content = dict(line.content)
        content["image"] = first_of(content, "image", "images")
        turns = parsed(Conversation, content)
        findings.counts["records with more than one turn, of which the first was taken"] += len(turns.conversations) > 2
        question, answer = turns.question_and_answer(options.multi_turn)
        return Record(
            origin=line.origin,
            sample_id=str(first_of(content, "id") or f"{line.split or 'row'}-{line.number}"),
            question=question,
            answer=answer,
            images=list(turns.images),
        )


CONVERTER = Llava()
