"""``verl-mars show-rollouts``: what each prompt of a training step was answered, with rewards and advantages.

Reads verl's dumps of training responses (``trainer.rollout_data_dir``). A trainer mode of verl-mars adds the images,
the advantage of each response and the answers of mono sessions; a dump of verl's own mode is shown without them.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from verl_mars.errors import DataError
from verl_mars.fields import FieldDict, Fields
from verl_mars.reports.dumps import dumped_lines, dumped_picture
from verl_mars.reports.page import write_page

LONGEST_TEXT = 4000
"""Characters of a prompt or an answer that are shown."""
SIDE = 140


def write_rollouts_page(dump: Path, path: Path, count: int = 24) -> Path:
    """Write the first prompts of a dump as an HTML page.

    Args:
        dump: a file of ``trainer.rollout_data_dir``.
        path: the page.
        count: prompts to show.

    Raises:
        DataError: no such file, or a line that is no dumped response.
    """
    groups = read_groups(dump, count)
    return write_page(path, "rollouts.html", title=f"Rollouts of {dump.name}", groups=groups, side=SIDE)


def read_groups(dump: Path, count: int) -> list[FieldDict]:
    """What the template shows of each of the first ``count`` prompts.

    Raises:
        DataError: as :func:`write_rollouts_page`.
    """
    groups: dict[str, list[FieldDict]] = {}
    for number, entry in dumped_lines(dump):
        if "output" not in entry:
            raise DataError(f"{dump}, line {number}: no key `output`; a file of trainer.rollout_data_dir is needed")
        # verl's key of a row is {uid}_{session}_{output}; a dump without keys is grouped by its prompts.
        uid = str(entry.get("uid", entry.get("input", f"line {number}"))).rsplit("_", 2)[0]
        if uid in groups or len(groups) < count:
            groups.setdefault(uid, []).append(entry)
    if not groups:
        raise DataError(f"{dump}: no response in it")
    return [_group(entries) for entries in groups.values()]


def _group(entries: Sequence[Fields]) -> FieldDict:
    first = entries[0]
    rewards = [reward for entry in entries if (reward := _number(entry.get("score"))) is not None]
    anchors = [_anchor(anchor) for anchor in _list(first.get("anchors")) if isinstance(anchor, Mapping)]
    known = [anchor["reward"] for anchor in anchors if anchor["reward"] is not None]
    fused = sum(rewards) / len(rewards) if rewards else None
    gain = None if fused is None or not known else fused - sum(known) / len(known)
    return {
        "prompt": _text(first.get("input")),
        "truth": _text(first.get("gts")),
        "images": list(_images(_pictured(entries))),
        "fused": _shown(fused),
        "gain": _shown(gain, "+.3f"),
        "sign": _sign(gain),
        "answers": [
            {
                "text": _text(entry["output"]),
                "reward": _shown(_number(entry.get("score"))),
                "advantage": _shown(_number(entry.get("advantage")), "+.3f"),
                "sign": _sign(_number(entry.get("advantage"))),
            }
            for entry in entries
        ],
        "anchors": [{**anchor, "reward": _shown(anchor["reward"])} for anchor in anchors],
    }


def _pictured(entries: Sequence[Fields]) -> Fields:
    """The line whose images can be shown: pictures of embedded images are in one line of a prompt."""
    return max(entries, key=lambda entry: sum(image is not None for image in _list(entry.get("images"))))


def _images(entry: Fields) -> Iterator[FieldDict]:
    """Each image with the names of its sources; without a picture if the file is not there."""
    of_source = entry.get("image_sources")
    for index, image in enumerate(_list(entry.get("images"))):
        names = _list(of_source)[index] if index < len(_list(of_source)) else ""
        yield {"name": str(names), "picture": dumped_picture(image, SIDE)}


def _anchor(anchor: Fields) -> FieldDict:
    text = anchor.get("response")
    return {
        "source": str(anchor.get("source")),
        "reward": _number(anchor.get("reward")),
        "text": _text(text) if isinstance(text, str) else None,
    }


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _text(value: object) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]} \u2026 ({len(text) - LONGEST_TEXT:,} more)"


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _shown(value: float | None, form: str = ".3f") -> str:
    return "" if value is None else format(value, form).replace("-", "\u2212")


def _sign(value: float | None) -> str:
    return "none" if not value else "up" if value > 0 else "down"
