"""What answers a probe's questions: the part that a server and a model on this machine have in common."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from verl_mars.errors import UserError
from verl_mars.probe.questions import Question


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model wrote."""

    text: str
    cut_off: bool
    """The answer reached the largest number of tokens."""
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Missing:
    """Why there is no answer. Never a wrong answer: the model was not heard."""

    reason: str


Record = Callable[[Question, "Answer | Missing"], None]
"""Called once for each question, in any order, in one thread."""


class Engine(Protocol):
    """Asks a model."""

    def check(self, question: Question) -> None:
        """Ask one question with images, so that what cannot work is said before thousands are asked.

        Raises:
            ProbeError: no server, no such model, no access, or a model without vision.
        """

    def ask(self, questions: Iterator[Question], record: Record) -> None:
        """Ask them all.

        Raises:
            ProbeError: nothing answers any more; what was recorded stays.
        """


class ProbeError(UserError):
    """A probe cannot be made; the message says why and what to do."""
