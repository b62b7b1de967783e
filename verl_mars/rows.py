"""The contents of a training row besides verl's own fields: key, anchors, branch, and which rows count.

A row is one output of one fused session. verl stores it under the key ``{uid}_{session}_{output}`` with a mapping of
tags; our fields travel with it. Shapes: B rows, K anchors of a prompt.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch

from verl_mars.fields import FieldDict, Fields

if TYPE_CHECKING:
    from tensordict import TensorDict

T = TypeVar("T")
Tags = Sequence[Fields]
"""verl's tags of each row: ``is_padding``, ``response_len``, ``max_global_steps``, ..."""

VIEW = "mars_view"
"""Marks a session of a view other than the fused one: it is scored and never stored."""

KNOWN_ANCHORS = "known_anchors"
"""Anchors of an earlier epoch that a prompt brings along (``algorithm.mars.anchor_every``), as JSON. Empty: none."""

NOISY = "mars_noisy"
"""Whether the row's group is of the noisy branch, in a method that has one."""

OTHER_VISUAL_INPUTS = "other_visual_inputs"
"""Visual inputs of the view that a row is rescored under; empty where it has none."""

LOOK = "mars_look"
"""Marks a prompt that is rolled out to see whether its images matter: ``fused`` or ``blank``."""

ANCHOR_FIELDS = ("anchor_scores", "anchor_sources", "anchor_versions", "anchor_tokens", "anchor_seconds")
"""Fields of a row about the mono sessions of its prompt, if its method rolls any out."""

IMAGE_COSTS = "image_costs"
"""What the images of a row's prompt have cost, where they are handled once: ``seconds`` of CPU so far, and
``references``, [name, bytes] of all that the rows of the session refer to."""

ANCHOR_DETAILS = "anchors"
"""Among the reward manager's details of a fused session: the mono sessions of its prompt, for dumps and validation."""

FIELDS = (VIEW, KNOWN_ANCHORS, NOISY, OTHER_VISUAL_INPUTS, LOOK, IMAGE_COSTS, *ANCHOR_FIELDS)
"""Names that no column of a data set may have."""


class Key(NamedTuple):
    """verl's key of a row."""

    uid: str
    """The prompt's uid; verl draws a new one each time the prompt is sampled."""
    session: int
    output: int
    """A session has several outputs if its agent loop rewrites the conversation; all others have one."""

    @classmethod
    def parse(cls, key: str) -> "Key":
        """The key's parts.

        Raises:
            ValueError: the key has another form.
        """
        parts = key.rsplit("_", 2)
        if len(parts) != 3 or not (parts[1].isdecimal() and parts[2].isdecimal()):
            raise ValueError(f"the key {key!r} of a row does not have the form uid_session_output")
        return cls(parts[0], int(parts[1]), int(parts[2]))


def last_outputs(keys: Sequence[str]) -> torch.Tensor:
    """(B,) long: for each row, the row with the last output of its session; the row itself if there is one output."""
    last: dict[tuple[str, int], tuple[int, int]] = {}
    parsed = [Key.parse(key) for key in keys]
    for row, (uid, session, output) in enumerate(parsed):
        last[uid, session] = max(last.get((uid, session), (-1, -1)), (output, row))
    return torch.tensor([last[uid, session][1] for uid, session, _ in parsed], dtype=torch.long)


def real_rows(tags: Tags) -> torch.Tensor:
    """(B,) bool: the rows that are not padding.

    verl fills a batch with rows under new uids that copy all other fields of a real row.
    """
    return torch.tensor([not tag.get("is_padding", False) for tag in tags], dtype=torch.bool)


def counted_rows(keys: Sequence[str], tags: Tags) -> torch.Tensor:
    """(B,) bool: the rows that enter group statistics: the last output of each session, and no padding."""
    counted = torch.zeros(len(keys), dtype=torch.bool)
    counted[last_outputs(keys)] = True
    return counted & real_rows(tags)


def as_list(column: Iterable[T]) -> list[T]:
    """The values of a non-tensor field from the data plane: a numpy array, a NonTensorStack or a LinkedList."""
    return column.tolist() if hasattr(column, "tolist") else list(column)


def as_rows(column: torch.Tensor) -> list[torch.Tensor]:
    """The rows of a tensor field: nested, or stacked if all rows have the same length."""
    return list(column.unbind())


def padded(rows: Iterable[torch.Tensor]) -> torch.Tensor:
    """(B, T) in float64, 0 beyond the end of a row."""
    return torch.nn.utils.rnn.pad_sequence([row.double() for row in rows], batch_first=True)


def anchor_matrix(column: torch.Tensor) -> torch.Tensor:
    """(B, K) of a field of anchors, NaN where a prompt has fewer than K."""
    return column.to_padded_tensor(math.nan) if column.is_nested else column


@dataclass(frozen=True)
class Anchor:
    """The result of one mono session."""

    source: str
    score: float = math.nan
    """Its reward. NaN: no anchor, because the session failed or the prompt has one source only."""
    version: float = math.nan
    """Global step of the weights that sampled its last token. NaN: no session, or unknown."""
    tokens: int = 0
    """Length of its response; 0 for an anchor of an earlier epoch."""
    values: Mapping[str, float] = field(default_factory=dict)
    """Further values that the method asked for (``Method.anchor_values``): ``acc``, ``format``, ``truncated``, ..."""
    response: str | None = None
    """Its text, if rollouts are dumped. None: not kept, or of an earlier epoch."""


@dataclass(frozen=True)
class Anchors:
    """The mono sessions of one prompt."""

    of_session: tuple[Anchor, ...]
    seconds: float = 0.0
    """Wall time from the start of the first mono session to the score of the last."""

    @classmethod
    def missing(cls, sources: Sequence[str]) -> "Anchors":
        """No anchor for any of these sources."""
        return cls(tuple(Anchor(source) for source in sources))

    @classmethod
    def known(cls, text: str) -> "Anchors":
        """Anchors of an earlier epoch, from :data:`KNOWN_ANCHORS`: [source, score, version, values] each."""
        entries = [(*entry, {})[:4] for entry in json.loads(text)]
        return cls(tuple(Anchor(source, score, version, values=values) for source, score, version, values in entries))

    def fields(self, values: Sequence[str] = ()) -> FieldDict:
        """The fields of a row: :data:`ANCHOR_FIELDS`, and ``anchor_<name>`` for each further value by name."""
        return {
            "anchor_scores": torch.tensor([anchor.score for anchor in self.of_session], dtype=torch.float32),
            "anchor_sources": [anchor.source for anchor in self.of_session],
            "anchor_versions": torch.tensor([anchor.version for anchor in self.of_session], dtype=torch.float32),
            "anchor_tokens": sum(anchor.tokens for anchor in self.of_session),
            "anchor_seconds": self.seconds,
            **{
                f"anchor_{name}": torch.tensor([a.values.get(name, math.nan) for a in self.of_session])
                for name in values
            },
        }

    def details(self) -> list[FieldDict]:
        """:data:`ANCHOR_DETAILS`: {source, reward, acc, response} of each session, None for what is missing."""
        return [
            {
                "source": anchor.source,
                "reward": _finite(anchor.score),
                "acc": _finite(anchor.values.get("acc", math.nan)),
                "response": anchor.response,
            }
            for anchor in self.of_session
        ]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


@dataclass(frozen=True)
class AnchorRows:
    """The anchors of B rows: each row has those of its prompt, NaN where a prompt has fewer than K."""

    scores: torch.Tensor  # (B, K)
    versions: torch.Tensor  # (B, K) global step of the weights, NaN = unknown
    sources: list[list[str]]  # (B) the source of each anchor; shorter than K where a prompt has fewer
    tokens: torch.Tensor  # (B,) tokens that all mono sessions of the row's prompt sampled
    seconds: torch.Tensor  # (B,) wall time of these sessions
    values: Mapping[str, torch.Tensor] = field(default_factory=dict)  # (B, K) further values by name

    @classmethod
    def from_columns(cls, data: "TensorDict", values: Sequence[str] = ()) -> "AnchorRows":
        """From the columns that :meth:`Anchors.fields` wrote."""
        return cls(
            anchor_matrix(data["anchor_scores"]),
            anchor_matrix(data["anchor_versions"]),
            [list(names) for names in as_list(data["anchor_sources"])],
            torch.tensor(as_list(data["anchor_tokens"]), dtype=torch.float64),
            torch.tensor(as_list(data["anchor_seconds"]), dtype=torch.float64),
            {name: anchor_matrix(data[f"anchor_{name}"]) for name in values},
        )
