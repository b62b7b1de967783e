"""What counts as a right answer in the toy world: the exact text, in the exact format."""

from __future__ import annotations

import re

_RESPONSE = re.compile(r"<think>[^<]+</think><answer>([^<]+)</answer>")


def parse_answer(response: str) -> str | None:
    """The answer of a response that is `<think>..</think><answer>..</answer>` and nothing else; None of any other."""
    match = _RESPONSE.fullmatch(response)
    return match[1].strip() if match else None
