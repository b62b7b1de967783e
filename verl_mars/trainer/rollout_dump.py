"""Images, advantages and anchors in verl's dump of training responses (``trainer.rollout_data_dir``)."""

import math
from typing import Any

from verl_mars import store
from verl_mars.rows import ANCHOR_RESPONSES, as_list, as_rows
from verl_mars.store import Batch
from verl_mars.trainer.token_dump import image_paths
from verl_mars.trainer.trainer import ViewTrainer


def prompts_of(batch: Batch, *, anchored: bool) -> list[dict[str, Any]]:
    """What a dumped line gets, in the order of the batch's keys; ``verl-mars show-rollouts`` reads it.

    ``images``: the path of each image, null for one without; ``advantage``: the mean over the sampled tokens, null
    without any. With anchors also ``image_sources``, the names of each image's sources, and ``anchors``: {source,
    reward, response} each, where a reward of null is a missing anchor and a response of null one of an earlier epoch.

    Args:
        batch: as its advantages were computed.
        anchored: the rows have anchors.
    """
    names = ["raw_prompt", "advantages", "response_mask"]
    names += ["sources", "anchor_sources", "anchor_scores", ANCHOR_RESPONSES] if anchored else []
    data = store.read(batch, names)
    lines = []
    advantages, masks = as_rows(data["advantages"]), as_rows(data["response_mask"])
    for prompt, advantage, mask in zip(as_list(data["raw_prompt"]), advantages, masks, strict=True):
        sampled = advantage[: len(mask)][mask.bool()[: len(advantage)]]
        mean = float(sampled.double().mean()) if len(sampled) else None
        lines.append({"images": image_paths(_plain(prompt)), "advantage": mean})
    if anchored:
        columns = [as_list(data[name]) for name in ("sources", "anchor_sources", ANCHOR_RESPONSES)]
        for line, sources, of_anchor, texts, scores in zip(
            lines, *columns, as_rows(data["anchor_scores"]), strict=True
        ):
            line["image_sources"] = _source_names(_plain(sources), len(line["images"]))
            line["anchors"] = [
                {"source": source, "reward": None if math.isnan(score) else score, "response": text or None}
                for source, score, text in zip(_plain(of_anchor), scores.tolist(), _plain(texts), strict=False)
            ]
    return lines


def _plain(value: Any) -> Any:
    """A value of the data plane without its wrapper."""
    return getattr(value, "data", value)


def _source_names(sources: Any, images: int) -> list[str]:
    """The names of each image's sources."""
    names: list[list[str]] = [[] for _ in range(images)]
    for source in sources or []:
        for index in source["images"]:
            names[int(index)].append(str(source["name"]))
    return [" + ".join(of_image) for of_image in names]


class DumpsPrompts(ViewTrainer):
    """Adds :func:`prompts_of` to each line of a step's dump."""

    _prompts: dict[str, dict[str, Any]] | None = None

    def _log_rollout_data(self, batch: Batch, *args: Any, **kwargs: Any) -> None:
        lines = prompts_of(batch, anchored=self.method.anchoring is not None)
        self._prompts = dict(zip(batch.keys, lines, strict=True))
        try:
            super()._log_rollout_data(batch, *args, **kwargs)
        finally:
            self._prompts = None

    def _dump_generations(
        self, inputs: Any, outputs: Any, gts: Any, scores: Any, reward_extra_infos_dict: Any, dump_path: Any
    ) -> None:
        extra = reward_extra_infos_dict
        if self._prompts is not None:
            lines = [self._prompts[key] for key in extra["uid"]]
            extra = {**{name: [line[name] for line in lines] for name in lines[0]}, **extra}
        super()._dump_generations(inputs, outputs, gts, scores, extra, dump_path)
