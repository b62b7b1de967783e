"""``summary.json`` of a conversion: counts, lengths, rejects by reason, licence, known shortcuts and leaks."""

import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from verl_mars import __version__
from verl_mars.data.row_maker import BuiltRow
from verl_mars.data.sample import Converter, Findings
from verl_mars.data.settings import ConvertSettings
from verl_mars.data.shards import Shard
from verl_mars.fields import FieldDict, Fields

TOKEN_BIN = 256
MAX_ANSWERS = 1000
OTHER_ANSWERS = "(others)"
TRAINING_SPLITS = ("train", "training")
VALIDATION_SPLITS = ("val", "validation", "valid", "dev", "development", "eval", "evaluation", "test", "testing")
"""Names of splits, in any case, that are offered as ``data.train_files`` and ``data.val_files``, best first."""
MAJORITY = 0.5
"""Share of one answer above which a blind guess is reported."""


@dataclass
class Tally:
    """Counts over the rows of one split."""

    rows: int = 0
    tasks: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    """Rows in which a source of this name is."""
    images_per_row: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    """Rows by prompt length of the fused view, in bins of 256 tokens, named by their lower end."""
    max_fused_tokens: int = 0
    max_mono_tokens: int = 0
    changed: Counter[str] = field(default_factory=Counter)
    answers: dict[str, Counter[str]] = field(default_factory=dict)
    """Task -> how often each answer is right; at most 1,000 different ones."""

    def add(self, made: BuiltRow) -> None:
        """Count a row."""
        info = made.record["extra_info"]
        self.rows += 1
        self.tasks[info["task"]] += 1
        self.sources.update(info["sources"])
        self.images_per_row[str(len(made.record["images"]))] += 1
        self.tokens[str(made.fused_tokens // TOKEN_BIN * TOKEN_BIN)] += 1
        self.max_fused_tokens = max(self.max_fused_tokens, made.fused_tokens)
        self.max_mono_tokens = max(self.max_mono_tokens, made.mono_tokens)
        self.changed.update(made.changed)
        answers = self.answers.setdefault(info["task"], Counter())
        known = made.answer in answers or len(answers) < MAX_ANSWERS
        answers[made.answer if known else OTHER_ANSWERS] += 1

    def as_dict(self) -> FieldDict:
        """Plain data, keys in a fixed order."""
        return {
            "rows": self.rows,
            "tasks": _by_name(self.tasks),
            "sources": _by_name(self.sources),
            "images_per_row": _by_number(self.images_per_row),
            "tokens": _by_number(self.tokens),
            "max_fused_tokens": self.max_fused_tokens,
            "max_mono_tokens": self.max_mono_tokens,
            "changed": _by_name(self.changed),
            "answers": {task: _by_count(counts) for task, counts in sorted(self.answers.items())},
        }

    @property
    def max_images(self) -> int:
        """Most images in one row."""
        return max(map(int, self.images_per_row), default=0)

    @property
    def max_tokens(self) -> int:
        """Longest prompt of any view."""
        return max(self.max_fused_tokens, self.max_mono_tokens)

    def blind_guesses(self) -> list[str]:
        """Tasks in which one answer is right more often than not."""
        texts = []
        for task, counts in sorted(self.answers.items()):
            answer, count = max(counts.items(), key=lambda item: (item[1], item[0]))
            total = counts.total()
            if task != "grounding" and total >= 10 and answer != OTHER_ANSWERS and count / total > MAJORITY:
                texts.append(f"always answering {answer!r} is right in {count / total:.0%} of the {total} {task} rows.")
        return texts


def build_summary(
    converter: Converter,
    folder: Path,
    decisive: Fields,
    shards: Mapping[str, Sequence[Shard]],
    tallies: Mapping[str, Tally],
    rejects: Sequence[Fields],
    findings: Findings,
    settings: ConvertSettings,
) -> FieldDict:
    """The content of ``summary.json``, a function of the raw data and the settings alone."""
    splits: FieldDict = {}
    for name, part in shards.items():
        for text in tallies[name].blind_guesses():
            findings.add(f"{name}: {text}")
        splits[name] = {**tallies[name].as_dict(), "shards": [asdict(shard) for shard in part]}
    rows = sum(tally.rows for tally in tallies.values())
    images = max((tally.max_images for tally in tallies.values()), default=0)
    tokens = max((tally.max_tokens for tally in tallies.values()), default=0)
    share = len(rejects) / (rows + len(rejects)) if rejects else 0.0
    reasons = Counter(str(reject["code"]) for reject in rejects)
    return {
        "verl_mars": __version__,
        "data_set": converter.name,
        "title": converter.title,
        "licence": converter.licence,
        "source": converter.url,
        "settings": decisive,
        "complete": rows > 0 and share <= settings.max_reject,
        "rows": rows,
        "max_images_per_row": images,
        "max_prompt_tokens": tokens,
        "prompt_tokens_are": "exact" if settings.tokenizer is not None else "an upper bound (no --tokenizer given)",
        "counts": {text: count for text, count in sorted(findings.counts.items()) if count},
        "findings": findings.texts,
        "rejects": {"total": len(rejects), "share": round(share, 6), "by_reason": _by_count(reasons)},
        "recipe": recipe_lines(folder, shards, images, tokens, settings.model),
        "splits": splits,
    }


def recipe_lines(
    folder: Path, shards: Mapping[str, Sequence[Shard]], images: int, tokens: int, model: str
) -> list[str]:
    """Hydra overrides that train on these files."""
    lines = []
    given = {name.lower(): name for name in shards}
    for key, names in (("data.train_files", TRAINING_SPLITS), ("data.val_files", VALIDATION_SPLITS)):
        split = next((given[name] for name in names if name in given), None)
        if split is not None:
            files = ",".join(_hydra_text(str(folder / shard.file)) for shard in shards[split])
            lines.append(shlex.quote(f"{key}=[{files}]"))
    # ++: verl knows the key, but its YAML does not list it
    lines.append(f"++actor_rollout_ref.rollout.limit_images={images}")
    lines.append(f"data.max_prompt_length={-(-tokens // 64) * 64}")
    if model == "qwen3_vl":
        lines.append("data.image_patch_size=16")
    return lines


def _hydra_text(path: str) -> str:
    """A path as an item of a list in a Hydra override: in quotes where it holds more than plain letters."""
    if re.fullmatch(r"[A-Za-z0-9_./-]+", path):
        return path
    return '"' + re.sub(r'(\\*)("|$)', lambda m: m[1] * 2 + ("\\" + m[2] if m[2] else ""), path) + '"'


def _by_name(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items()))


def _by_number(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: int(item[0])))


def _by_count(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
