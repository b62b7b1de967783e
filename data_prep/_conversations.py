"""Records in LLaVA's form: a list of images and turns of ``human`` and ``gpt``."""

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from verl_mars.errors import SampleError
from verl_mars.fields import FieldDict

IMAGE_TAG = re.compile(r"<image(?: \d{1,3})?>")
MultiTurn = Literal["reject", "first"]
Text = Annotated[str, StringConstraints(max_length=100_000)]


class Turn(BaseModel):
    """One side of a turn."""

    model_config = ConfigDict(extra="ignore")

    speaker: Literal["human", "gpt"] = Field(alias="from")
    value: Text


class Conversation(BaseModel):
    """One record; what else it holds is left out."""

    model_config = ConfigDict(extra="ignore")

    image: list[Text] | Text
    conversations: list[Turn] = Field(min_length=2, max_length=1000)
    metadata: FieldDict = Field(default_factory=dict)

    @property
    def images(self) -> list[str]:
        """The image files."""
        return [self.image] if isinstance(self.image, str) else self.image

    def question_and_answer(self, multi_turn: MultiTurn) -> tuple[str, str]:
        """The first turn, tags and all.

        Raises:
            SampleError: more turns, though ``multi_turn`` is ``reject``; turns in another order; or a number of image
                tags that is not the number of images.
        """
        if [turn.speaker for turn in self.conversations[:2]] != ["human", "gpt"]:
            raise SampleError("record", "the first turn is not human, gpt", "conversations")
        if len(self.conversations) > 2 and multi_turn == "reject":
            turns = len(self.conversations) // 2
            raise SampleError("record", f"{turns} turns; --set multi_turn=first keeps the first", "conversations")
        asked, answer = self.conversations[0].value, self.conversations[1].value
        tags = len(IMAGE_TAG.findall(asked))
        if tags != len(self.images):
            message = f"{tags} image tags in the question, but {len(self.images)} images"
            raise SampleError("image_count", message, "conversations")
        return asked, answer.strip()


def without_tags(text: str) -> str:
    """The text without image tags."""
    return IMAGE_TAG.sub("", text).strip()
