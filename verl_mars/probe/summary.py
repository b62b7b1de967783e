"""The files that a probe ends with: ``summary.json``, ``leaderboard.csv``, ``report.html``."""

import csv
import importlib.metadata
import json
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timezone

from verl_mars.data.files import whole_file
from verl_mars.data.view_rows import ViewedRows
from verl_mars.fields import FieldDict, Fields
from verl_mars.probe.figures import Figures
from verl_mars.probe.folder import LEADERBOARD, REPORT, SUMMARY
from verl_mars.probe.options import Options, identity
from verl_mars.probe.pictures import Pictures
from verl_mars.probe.questions import Slot
from verl_mars.probe.scoring import ScoredLine
from verl_mars.probe.verdict import leaderboard, verdict
from verl_mars.views import Message


def summarize(
    options: Options,
    figures: Figures,
    scored: Sequence[ScoredLine],
    slots: Sequence[Slot],
    missing: Counter[str],
    reasons: Counter[str],
    viewed: ViewedRows,
    rows: int,
) -> FieldDict:
    """What ``summary.json`` holds."""

    def of_view(view: str, value: str) -> float | None:
        found = [getattr(each, value) for each in scored if each.line.view == view]
        known = [float(bool(v)) if isinstance(v, str) else v for v in found if v is not None]
        return sum(known) / len(known) if known else None

    views = list(dict.fromkeys(slot.view for slot in slots))
    return {
        **identity(options),
        "verdict": verdict(figures),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": {name: _version(name) for name in ("verl-mars", "verl", "transformers", "torch", "scipy")},
        "reward": options.reward.model_dump(),
        "rows": rows,
        "scenes": figures.scenes,
        "asked": {view: sum(slot.view == view for slot in slots) for view in views},
        "missing": dict(missing),
        "missing_because": dict(reasons.most_common(10)),
        "left_out": dict(viewed.left_out),
        "format": {view: of_view(view, "format") for view in views},
        "without_an_answer": {view: of_view(view, "error") for view in views},
        "prompts": _prompts(viewed),
        **{
            name: {key: e.as_dict() for key, e in getattr(figures, name).items()}
            for name in ("accuracy", "gains", "leave_one_out", "shapley", "own_prompt", "shares")
        },
        "mcnemar": figures.mcnemar,
        "rows_needed": {"gain": options.power, "rows": figures.needed} if options.power is not None else None,
    }


def _prompts(viewed: ViewedRows) -> FieldDict:
    """How the first row is asked under each view, ``<image>`` for an image."""

    def text(content: str | list[Message]) -> str:
        if isinstance(content, str):
            return content
        return "".join("<image>" if part["type"] == "image" else part["text"] for part in content)

    return {
        view.name: [{"role": message["role"], "content": text(message["content"])} for message in view.messages]
        for view in viewed.views(0)
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def write_files(
    options: Options,
    summary: Fields,
    figures: Figures,
    numbered: Sequence[tuple[int, Fields]],
    viewed: ViewedRows,
    pictures: Pictures,
    scored: Sequence[ScoredLine],
) -> None:
    """Write summary, leaderboard line and report into the probe\'s folder."""
    from verl_mars.probe.report import page

    with whole_file(options.out / SUMMARY, text=True) as file:
        json.dump(summary, file, indent=2, ensure_ascii=False, allow_nan=False)
    fixed = {
        "model": options.model,
        "data": "+".join(file.name for file in options.data),
        "sha256": summary["data"][0]["sha256"][:12],
        "rows": len(numbered),
        "missing": sum(summary["missing"].values()),
        "verl_mars": summary["versions"]["verl-mars"],
    }
    with whole_file(options.out / LEADERBOARD, text=True) as file:
        csv.writer(file).writerows(leaderboard(figures, fixed))
    with whole_file(options.out / REPORT, text=True) as file:
        file.write(page(summary, figures, numbered, viewed, pictures, scored, options.report_rows))
