"""Where the answer of a response stands, and how well the response keeps the form.

The form: ``<think>thought</think><answer>answer</answer>``, in this order, once each, nothing else but white space.
"""

import re
from dataclasses import dataclass

_TAG = re.compile(r"</?(?:think|answer)>")


@dataclass(frozen=True, slots=True)
class Response:
    """A response taken apart."""

    answer: str | None
    """The last complete ``<answer>`` outside any thought, stripped; None where there is none."""

    think_ok: bool
    """Exactly one thought, not blank, and nothing before it."""

    answer_ok: bool
    """Exactly one answer, not blank, straight after the thought or at the start, and nothing after it."""

    thought_end: int
    """Where the text after the last thought starts; -1 where a thought is left open."""


def read_response(text: str, think_in_prompt: bool = False) -> Response:
    """Take a response apart in one pass over its tags.

    An answer inside a thought is not an answer: a model may consider one and drop it. A thought that is never closed
    runs to the end. A second ``<answer>`` before the first is closed restarts the answer. The authors take the
    first ``<answer>`` wherever it stands, so one stray tag loses a right answer, and ``<answer>`` before ``<think>``
    keeps full marks.
    """
    inside = "think" if think_in_prompt else ""
    start = 0
    thoughts: list[tuple[int, int, int]] = []  # where the thought's text starts and ends, where its closing tag ends
    answers: list[tuple[int, int, int, int]] = []  # start of the tag, of the text, end of the text, of the tag
    opened = 0
    thoughts_opened = int(think_in_prompt)
    answers_opened = 0
    stray = False
    for tag in _TAG.finditer(text):
        name = tag.group()
        if name == "<think>":
            if inside:
                stray = True
                continue
            inside, start = "think", tag.end()
            thoughts_opened += 1
        elif name == "</think>":
            if inside != "think":
                stray = True
                continue
            thoughts.append((start, tag.start(), tag.end()))
            inside = ""
        elif name == "<answer>":
            answers_opened += 1
            if inside == "think":
                stray = True
                continue
            inside, start, opened = "answer", tag.end(), tag.start()
        elif inside == "answer":
            answers.append((opened, start, tag.start(), tag.end()))
            inside = ""
        else:
            stray = True
    thought_end = -1 if inside == "think" else thoughts[-1][2] if thoughts else 0
    answer = text[answers[-1][1] : answers[-1][2]].strip() if answers else None

    think_ok = False
    if thoughts_opened == len(thoughts) == 1:
        first, last, _ = thoughts[0]
        lead = 0 if think_in_prompt else first - len("<think>")
        think_ok = bool(text[first:last].strip()) and not text[:lead].strip() and not stray
    answer_ok = False
    if answers_opened == len(answers) == 1 and answer and not stray:
        before = text[max(thought_end, 0) : answers[0][0]]
        answer_ok = not before.strip() and not text[answers[0][3] :].strip() and not inside
    return Response(answer, think_ok, answer_ok, thought_end)


def untagged_answer(text: str, response: Response) -> str | None:
    """What follows the thought of a response that has no answer tags; None where the thought never ends.

    For runs whose prompts do not ask for ``<answer>`` (``answer_tags=optional``).
    """
    if response.thought_end < 0:
        return None
    tail = text[response.thought_end :]
    return None if "<answer>" in tail else tail.strip()
