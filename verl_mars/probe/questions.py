"""What a probe asks: each view of each row, some times over, each with a key made of everything the answer hangs on."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from verl_mars.data.view_rows import AskedView, ViewedRows
from verl_mars.fields import Fields
from verl_mars.probe.pictures import Pictures
from verl_mars.views import Message


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn."""

    temperature: float = 0.0
    max_tokens: int = 1024
    samples: int = 1
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Slot:
    """One answer that is wanted. Slots with one key are one question: it is asked once."""

    row: int
    view: str
    sample: int
    key: str


@dataclass(frozen=True, slots=True)
class Question:
    """What is sent to a model: messages whose image parts are still references to files."""

    key: str
    messages: list[Message]
    seed: int


class Questions:
    """The questions about a data set's rows, rendered when they are asked and not before."""

    def __init__(self, viewed: ViewedRows, pictures: Pictures, sampling: Sampling, model: str) -> None:
        self.viewed = viewed
        self.pictures = pictures
        self.sampling = sampling
        self.model = model
        self._row = -1
        self._views: dict[str, AskedView] = {}

    def slots(self) -> Iterator[Slot]:
        """Every answer wanted, row by row; reads each image once.

        Raises:
            DataError: a row that cannot be rendered or an image that cannot be read.
        """
        for row in range(len(self.viewed.rows)):
            for name, view in self.views(row).items():
                content = self._content(view.messages)
                for sample in range(self.sampling.samples):
                    yield Slot(row, name, sample, self._key(content, sample))

    def views(self, row: int) -> dict[str, AskedView]:
        """The views of a row by name."""
        if row != self._row:
            self._row, self._views = row, {view.name: view for view in self.viewed.views(row)}
        return self._views

    def question(self, slot: Slot) -> Question:
        """The question that a slot is answered by."""
        return Question(slot.key, self.views(slot.row)[slot.view].messages, self.sampling.seed + slot.sample)

    def _content(self, messages: Sequence[Message]) -> object:
        """Messages with each image as the digest of its content."""
        return [
            [message["role"], [self._digest(part) for part in parts] if isinstance(parts, list) else parts]
            for message in messages
            for parts in (message["content"],)
        ]

    def _digest(self, part: Fields) -> list[str]:
        if part["type"] == "text":
            return ["text", part["text"]]
        return ["image", self.pictures.load(part).digest]

    def _key(self, content: object, sample: int) -> str:
        sampling = self.sampling
        asked = [self.model, sampling.temperature, sampling.max_tokens, sampling.seed + sample, content]
        return hashlib.sha256(json.dumps(asked, ensure_ascii=True).encode()).hexdigest()[:32]
