"""The end of a step for images that are handled once: their metrics, and the stored copies that are freed."""

from collections.abc import Iterable, Mapping

from omegaconf import DictConfig

from verl_mars import store
from verl_mars.fields import Fields
from verl_mars.images.reference import PARTITION, uid_of
from verl_mars.images.settings import ImagesOnce
from verl_mars.rows import IMAGE_COSTS, Key, as_list, counted_rows
from verl_mars.store import Batch
from verl_mars.trainer.trainer import ViewTrainer


class FreesImages(ViewTrainer):
    """Counts what a step's images cost, and frees them once the step has used them."""

    def __init__(self, config: DictConfig) -> None:
        super().__init__(config)
        self._images_once = ImagesOnce.of(config).enable

    def step(self, metrics: dict, timing_raw: dict) -> Batch:
        """Run verl's step. Whatever it stores of images, its passes over the batch are the last to read it."""
        batch = super().step(metrics, timing_raw)
        if self._images_once:
            # In this order: a prompt is in `train` before its images are stored.
            stored = store.keys_of(PARTITION)
            in_use = {key.partition("_")[0] for key in store.keys_of("train")}
            metrics.update(image_metrics(batch, stored))
            in_use -= {Key.parse(key).uid for key in batch.keys}
            store.drop(PARTITION, [name for name in stored if uid_of(name) not in in_use])
        return batch


def image_metrics(batch: Batch, stored: Iterable[str]) -> dict[str, float]:
    """:func:`metrics_of` the batch's sessions whose prompts have stored images."""
    uids = {uid_of(name) for name in stored}
    counted = counted_rows(batch.keys, batch.tags).tolist()
    keys = [key for key, counts in zip(batch.keys, counted, strict=True) if counts and Key.parse(key).uid in uids]
    if not keys:
        return metrics_of({})
    costs = as_list(store.read_keys(keys, batch.partition_id, [IMAGE_COSTS])[IMAGE_COSTS])
    return metrics_of({key: getattr(cost, "data", cost) for key, cost in zip(keys, costs, strict=True)})


def metrics_of(costs: Mapping[str, Fields]) -> dict[str, float]:
    """Metrics of a step from the costs that its sessions carry, by the key of a row of each.

    ``perf/image_seconds``: over the prompts, the largest number of CPU seconds that a session of it has seen.
    ``perf/image_bytes``: stored. ``perf/image_bytes_saved``: what copies in every row would hold beyond that.
    """
    seconds: dict[str, float] = {}
    sizes: dict[str, int] = {}
    copies = 0
    for key, cost in costs.items():
        uid = Key.parse(key).uid
        seconds[uid] = max(seconds.get(uid, 0.0), cost["seconds"])
        for name, size in cost["references"]:
            sizes[name] = size
            copies += size
    stored = sum(sizes.values())
    return {
        "perf/image_seconds": float(sum(seconds.values())),
        "perf/image_bytes": float(stored),
        "perf/image_bytes_saved": float(copies - stored),
    }
