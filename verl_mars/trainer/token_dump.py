"""A method's values of each token in verl's dump of training responses (``trainer.rollout_data_dir``)."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from verl_mars import store
from verl_mars.fields import FieldDict
from verl_mars.methods.base import TokenValues
from verl_mars.methods.estimator import Handover
from verl_mars.rows import as_rows
from verl_mars.store import Batch
from verl_mars.trainer.dump import DumpsColumns
from verl_mars.trainer.trainer import ViewTrainer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DIGITS = 6
"""Significant digits of a dumped value; most dependencies are small."""


class TokenDump:
    """Keeps the tokens of a step's responses and their values until verl dumps them.

    A dumped line gets ``tokens`` (the text of each response token), ``sampled`` (whether the policy sampled it),
    ``token_values`` (the label of each column of values) and these columns, a list of numbers each. ``verl-mars
    show-tokens`` reads them.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self._text = tokenizer.decode
        self._lines: dict[str, FieldDict] = {}

    def add(self, batch: Batch, values: Mapping[str, TokenValues]) -> None:
        """Keep the rows of a batch; ``values`` by the name of their column, (B, T) each."""
        data = store.read(batch, ["responses", "response_mask"])
        responses, masks = as_rows(data["responses"]), as_rows(data["response_mask"])
        for i, key in enumerate(batch.keys):
            self._lines[key] = {
                "tokens": [self._text([token]) for token in responses[i].tolist()],
                "sampled": masks[i].tolist(),
                "token_values": {name: value.label for name, value in values.items()},
                **{
                    name: [float(f"{number:.{DIGITS}g}") for number in value.values[i, : len(responses[i])].tolist()]
                    for name, value in values.items()
                },
            }

    def take(self, keys: Sequence[str]) -> list[FieldDict]:
        """What each line gets, in the order of the keys; nothing for a row that was not kept. Clears the dump."""
        lines, self._lines = self._lines, {}
        return [lines.get(key, {}) for key in keys]


class DumpsTokens(DumpsColumns, ViewTrainer):
    """Adds the token values of a step's method to its dump."""

    _tokens: TokenDump | None = None

    def on_advantages(self, batch: Batch, handover: Handover) -> None:
        """Keep the token values for the dump, if there is one."""
        super().on_advantages(batch, handover)
        if handover.result.tokens and self.config.trainer.get("rollout_data_dir"):
            self._tokens = self._tokens or TokenDump(self.tokenizer)
            self._tokens.add(batch, handover.result.tokens)

    def dump_lines(self, batch: Batch) -> list[FieldDict]:
        lines = super().dump_lines(batch)
        if self._tokens is None:
            return lines
        return [{**line, **tokens} for line, tokens in zip(lines, self._tokens.take(batch.keys), strict=True)]
