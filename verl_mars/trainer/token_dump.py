"""A method's values of each token in verl's dump of training responses (``trainer.rollout_data_dir``)."""

from collections.abc import Mapping, Sequence
from typing import Any

from verl_mars import store
from verl_mars.methods.base import TokenValues
from verl_mars.methods.estimator import Handover
from verl_mars.rows import as_list, as_rows
from verl_mars.store import Batch
from verl_mars.trainer.trainer import ViewTrainer
from verl_mars.views import Message, image_parts

DIGITS = 6
"""Significant digits of a dumped value; most dependencies are small."""


class TokenDump:
    """Keeps the tokens of a step's responses and their values until verl dumps them.

    A dumped line gets ``tokens`` (the text of each response token), ``sampled`` (whether the policy sampled it),
    ``images`` (the path of each image of the prompt, null for one without), ``token_values`` (the label of each column
    of values) and these columns, a list of numbers each. ``verl-mars show-tokens`` reads them.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._text = tokenizer.decode
        self._lines: dict[str, dict[str, Any]] = {}

    def add(self, batch: Batch, values: Mapping[str, TokenValues]) -> None:
        """Keep the rows of a batch; ``values`` by the name of their column, (B, T) each."""
        data = store.read(batch, ["responses", "response_mask", "raw_prompt"])
        responses, masks = as_rows(data["responses"]), as_rows(data["response_mask"])
        for i, prompt in enumerate(as_list(data["raw_prompt"])):
            self._lines[batch.keys[i]] = {
                "tokens": [self._text([token]) for token in responses[i].tolist()],
                "sampled": masks[i].tolist(),
                "images": image_paths(getattr(prompt, "data", prompt)),
                "token_values": {name: value.label for name, value in values.items()},
                **{
                    name: [float(f"{number:.{DIGITS}g}") for number in value.values[i, : len(responses[i])].tolist()]
                    for name, value in values.items()
                },
            }

    def has(self, keys: Sequence[str]) -> bool:
        """Whether all these rows are kept; a validation dump has other rows."""
        return len(keys) > 0 and all(key in self._lines for key in keys)

    def take(self, keys: Sequence[str]) -> dict[str, list[Any]]:
        """One list for each field of a dumped line, in the order of the keys. Clears the dump."""
        lines, self._lines = [self._lines[key] for key in keys], {}
        return {name: [line[name] for line in lines] for name in lines[0]}


class DumpsTokens(ViewTrainer):
    """Adds the token values of a step's method to its dump."""

    _tokens: TokenDump | None = None

    def on_advantages(self, batch: Batch, handover: Handover) -> None:
        """Keep the token values for the dump, if there is one."""
        super().on_advantages(batch, handover)
        if handover.result.tokens and self.config.trainer.get("rollout_data_dir"):
            self._tokens = self._tokens or TokenDump(self.tokenizer)
            self._tokens.add(batch, handover.result.tokens)

    def _dump_generations(
        self,
        inputs: list[str],
        outputs: list[str],
        gts: list[Any],
        scores: list[float],
        reward_extra_infos_dict: dict[str, list[Any]],
        dump_path: str,
    ) -> None:
        extra = reward_extra_infos_dict
        if self._tokens is not None and self._tokens.has(extra.get("uid", [])):
            extra = {**extra, **self._tokens.take(extra["uid"])}
        super()._dump_generations(inputs, outputs, gts, scores, extra, dump_path)


def image_paths(messages: Sequence[Message]) -> list[str | None]:
    """The path of each image of a conversation; None if it is not a file."""
    return [part["image"] if isinstance(part.get("image"), str) else None for part in image_parts(messages)]
