"""The identity of a run in its checkpoints, and checks of a checkpoint before a run resumes from it.

verl resumes from any checkpoint in ``trainer.default_local_dir``. One of another model or number of ranks ends the run
after all models were loaded; one of another recipe does not, and the second arm of a comparison would start with the
weights of the first.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import DictConfig

from verl_mars.methods.table import method_of
from verl_mars.preflight.data import training_files
from verl_mars.register import TRAINER_MODES

FILE = "recipe.json"
"""Beside verl's own files in the folder of a checkpoint."""

_STEP = re.compile(r"global_step_\d+$")
_TRACKER = "latest_checkpointed_iteration.txt"
_SHAPES = frozenset(
    ("model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    + ("num_key_value_heads", "depth", "num_heads", "out_hidden_size", "patch_size")
)
"""Keys of a model's configuration, at any depth, in which two models with the same weights agree."""


@dataclass(frozen=True)
class Identity:
    """Identity of a run. A checkpoint with a different identity is not resumed; other settings may change."""

    estimator: str
    base: str
    """The estimator below a method that reshapes advantages; the same as ``estimator`` for others."""
    model: str
    """Last part of the model's path: its folder may be moved."""
    rows: int | None
    """Rows of the training files; ``None``: unknown, as files other than Parquet would have to be read."""

    @classmethod
    def of(cls, config: DictConfig) -> "Identity":
        """Build the identity from a run's configuration."""
        estimator = str(config.algorithm.adv_estimator)
        base = method_of(config.algorithm).base_name or estimator
        model = str(config.actor_rollout_ref.model.path).rstrip("/").rpartition("/")[2]
        return cls(estimator, base, model, _count_rows(config))

    def save(self, folder: Path) -> None:
        """Write it into a checkpoint's folder."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE).write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")


def last_checkpoint(config: DictConfig) -> Path | None:
    """The newest whole checkpoint of the run's own folder."""
    folder = Path(os.path.abspath(config.trainer.default_local_dir))
    try:
        step = int((folder / _TRACKER).read_text())
    except (OSError, ValueError):
        return None
    found = folder / f"global_step_{step}"
    return found if found.is_dir() else None


def how_to_continue(config: DictConfig) -> str:
    """How to resume a run that ended too early, as a sentence."""
    last = last_checkpoint(config)
    if last is None:
        return (
            "No checkpoint was saved, so the run must start from the beginning; trainer.save_freq = "
            f"{config.trainer.save_freq} saves {'none' if config.trainer.save_freq < 1 else 'one every so many steps'}."
        )
    cure = "Give the same command again"
    if config.trainer.resume_mode == "disable":
        cure += " with trainer.resume_mode=auto"
    elif config.trainer.resume_mode == "resume_path":
        cure += f" with trainer.resume_from_path={last}"
    return f"{cure}: it goes on from {last}, and nothing before it is lost."


def checkpoint_faults(config: DictConfig) -> Iterator[str]:
    """A sentence for each reason why the checkpoint that verl would resume from does not fit the run."""
    trainer = config.trainer
    if trainer.resume_mode == "resume_path":
        folder = Path(os.path.abspath(str(trainer.resume_from_path)))
        if not _STEP.search(str(trainer.resume_from_path)) or not folder.is_dir():
            yield (
                f"trainer.resume_from_path = {trainer.resume_from_path}: no such folder; name one called global_step_N "
                "of an earlier run"
            )
            return
    elif trainer.resume_mode == "auto":
        found = last_checkpoint(config)
        if found is None:
            return
        folder = found
    elif trainer.resume_mode == "disable":
        return
    else:
        yield f"trainer.resume_mode = {trainer.resume_mode!r}; allowed: auto, disable, resume_path"
        return
    yield from _rank_faults(folder, config)
    yield from _model_faults(folder, config)
    if trainer.resume_mode == "auto":  # a folder that is named is meant
        yield from _identity_faults(folder, config)


def _rank_faults(folder: Path, config: DictConfig) -> Iterator[str]:
    saved = _read(folder / "actor" / "fsdp_config.json").get("world_size")
    ranks = config.trainer.nnodes * config.trainer.n_gpus_per_node
    if saved is not None and config.actor_rollout_ref.actor.strategy in ("fsdp", "fsdp2") and saved != ranks:
        yield (
            f"trainer.nnodes x n_gpus_per_node = {ranks}: the checkpoint {folder} was saved by {saved} ranks, and FSDP "
            f"reads it with {saved} only; use as many, or merge it (python -m verl.model_merger merge --backend fsdp "
            f"--local_dir {folder}/actor --target_dir MODEL) and begin a run from actor_rollout_ref.model.path=MODEL"
        )


def _model_faults(folder: Path, config: DictConfig) -> Iterator[str]:
    path = config.actor_rollout_ref.model.path
    saved, ours = _shapes(folder / "actor" / "huggingface"), _shapes(path)
    for key in sorted(saved.keys() & ours.keys()):
        if saved[key] != ours[key]:
            yield (
                f"actor_rollout_ref.model.path = {path} has {key} {ours[key]}, the model of the checkpoint {folder} "
                f"has {saved[key]}: its weights do not fit; {_another_folder(config)}"
            )
            return


def _identity_faults(folder: Path, config: DictConfig) -> Iterator[str]:
    saved, ours = _read(folder / FILE), Identity.of(config)
    cure = (
        f"{_another_folder(config)}, or trainer.resume_mode=resume_path trainer.resume_from_path={folder} to go on "
        "from it all the same"
    )
    if not saved:
        if config.trainer.v1.trainer_mode in TRAINER_MODES:  # verl's own modes save no such file
            yield f"trainer.resume_mode = 'auto': {folder} has no {FILE}, so no mars_* trainer mode saved it; {cure}"
        return
    keys = {
        "estimator": "algorithm.adv_estimator",
        "base": f"algorithm.{ours.estimator}.base",
        "model": "actor_rollout_ref.model.path",
        "rows": "rows of data.train_files",
    }
    for name, key in keys.items():
        before, now = saved.get(name), getattr(ours, name)
        if None not in (before, now) and before != now:
            yield (
                f"{key} = {now!r}: the checkpoint that the run would go on from, {folder}, was trained with "
                f"{before!r}; {cure}"
            )
            return


def _count_rows(config: DictConfig) -> int | None:
    files = training_files(config)
    try:
        return sum(pq.read_metadata(Path(file).expanduser()).num_rows for file in files) if files else None
    except (OSError, pa.ArrowInvalid):
        return None


def _another_folder(config: DictConfig) -> str:
    return f"give the run its own folder (trainer.default_local_dir, now {config.trainer.default_local_dir})"


def _read(file: Path) -> Mapping[str, object]:
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}


def _shapes(path: Path | str) -> dict[str, object]:
    """The shapes of a model's weights, from its configuration on this machine; empty if there is none."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(str(path), local_files_only=True).to_dict()
    except (OSError, ValueError):
        return {}
    return dict(_flat(config))


def _flat(config: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif key in _SHAPES:
            yield f"{prefix}{key}", value
