"""What an estimator found out about each token, in verl's dump of training responses (``trainer.rollout_data_dir``)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import transfer_queue as tq
from transfer_queue import KVBatchMeta

from verl_mars import _compat
from verl_mars.trainer.scoring import rows_of

DIGITS = 6
"""Significant digits of a dumped value; most dependencies are small."""


class TokenDump:
    """Keeps the tokens of a step's responses and their values until verl dumps them.

    A dumped line gets ``tokens`` (the text of each response token), ``sampled`` (whether the policy said it),
    ``images`` (the path of each image of the prompt, null for one without) and a list of numbers for each value that
    the estimator left: ``dependency`` and ``weight``, or ``uncertainty``. ``verl-mars show-tokens`` reads these.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._text = tokenizer.decode
        self._lines: dict[str, dict[str, Any]] = {}

    def add(self, batch: KVBatchMeta, values: Mapping[str, torch.Tensor]) -> None:
        """Keep the rows of a batch; ``values`` by name, (B, T)."""
        fields = ["responses", "response_mask", "raw_prompt"]
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=fields)
        responses, masks = rows_of(data["responses"]), rows_of(data["response_mask"])
        for i, prompt in enumerate(_compat.as_list(data["raw_prompt"])):
            self._lines[batch.keys[i]] = {
                "tokens": [self._text([token]) for token in responses[i].tolist()],
                "sampled": masks[i].tolist(),
                "images": image_paths(getattr(prompt, "data", prompt)),
                **{
                    name: [float(f"{number:.{DIGITS}g}") for number in value[i, : len(responses[i])].tolist()]
                    for name, value in values.items()
                },
            }

    def has(self, keys: Sequence[str]) -> bool:
        """Whether these rows, as verl dumps them, are the ones kept; a dump of a validation has others."""
        return len(keys) > 0 and all(key in self._lines for key in keys)

    def take(self, keys: Sequence[str]) -> dict[str, list[Any]]:
        """One list for each field of a dumped line, in the order of the keys; nothing is kept after."""
        lines, self._lines = [self._lines[key] for key in keys], {}
        return {name: [line[name] for line in lines] for name in lines[0]}


def image_paths(messages: Sequence[Mapping[str, Any]]) -> list[str | None]:
    """Where each image of a conversation lies; None where it is not a file."""
    parts = [
        part
        for message in messages
        if not isinstance(message["content"], str)
        for part in message["content"]
        if part["type"] == "image"
    ]
    return [part["image"] if isinstance(part.get("image"), str) else None for part in parts]
