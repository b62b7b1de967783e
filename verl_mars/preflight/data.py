"""Checks of a run's training data, before any model is loaded."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from verl_mars.methods.base import Method

if TYPE_CHECKING:
    from transformers import ProcessorMixin


def training_files(config: DictConfig) -> Sequence[str]:
    """``data.train_files`` as a list of paths."""
    files = config.data.train_files
    return [files] if isinstance(files, str) else [str(file) for file in files or ()]


def data_faults(config: DictConfig, method: Method, progress: bool = False) -> list[str]:
    """A sentence for each faulty row or image of the training files (the first 20), if the method rolls out sources."""
    from verl_mars.data.check import check_files

    if method.anchoring is None or not method.check_data:
        return []
    files = training_files(config)
    if not files:
        return ["data.train_files names no file"]
    limit = config.actor_rollout_ref.rollout.get("limit_images")
    try:
        report = check_files(
            files,
            max_images=limit,
            need_sources=True,
            join_sources=method.anchoring.joins_sources,
            progress=progress,
        )
    except ValueError as error:  # a file that cannot be read at all
        return [str(error)]
    return [str(fault) for fault in report.faults]


def frame_faults(config: DictConfig) -> list[str]:
    """A sentence if rows ask for boxes and nothing says in which frame the model answers.

    Asked of the reward manager ``mars`` only: another manager or a reward function of the user reads boxes as it likes.
    """
    from verl_mars.data.readers import row_batches
    from verl_mars.tasks.grounding import Grounding
    from verl_mars.vision.checkpoint import read_family

    name = OmegaConf.select(config, "reward.reward_manager.name")
    theirs = OmegaConf.select(config, "reward.custom_reward_function.path")
    settings = OmegaConf.select(config, "reward.reward_kwargs") or {}
    path = OmegaConf.select(config, "actor_rollout_ref.model.path")
    known = settings.get("coordinates") or settings.get("variant", "mars") != "mars"
    if name != "mars" or theirs or known or path is None or "://" in str(path):
        return []
    try:
        read_family(str(path))
        return []
    except ValueError as error:
        sentence = str(error)
    for file in training_files(config):
        try:
            for batch in row_batches(file, ("extra_info",)):
                infos = [row.get("extra_info") or {} for row in batch]
                if any(info.get("task") == Grounding.name and not info.get("coordinates") for info in infos):
                    return [f"{file} has rows of the task {Grounding.name}, but {sentence}"]
        except ValueError:  # a file that cannot be read, or has no such column: for data_faults to report
            continue
    return []


def processor_faults(config: DictConfig, method: Method, processor: "ProcessorMixin | None") -> list[str]:
    """A sentence where verl found no processor for a run that needs images: it would train on text alone.

    ``verl.utils.tokenizer.hf_processor`` returns None, with a warning, for a processor class that it does not know and
    for a model without one; prompts then go to the model without their images.
    """
    if processor is not None or not (method.anchoring or method.rescores):
        return []
    path, estimator = config.actor_rollout_ref.model.path, config.algorithm.adv_estimator
    return [
        f"actor_rollout_ref.model.path = {path}: verl knows no processor for this model and would train it without its "
        f"images, but algorithm.adv_estimator={estimator} compares views of them. Take a model whose processor verl "
        "knows: Qwen2-VL, Qwen2.5-VL, Qwen3-VL, Qwen3.5, GLM-4.1V, GLM-4.6V, Gemma 4"
    ]


def length_faults(config: DictConfig, method: Method, processor: "ProcessorMixin") -> list[str]:
    """A sentence for each prompt that is longer than ``data.max_prompt_length`` (the first 20), and the cure.

    Args:
        config: of a run whose data :func:`data_faults` has accepted.
        method: of the run; without further sessions nothing is checked.
        processor: the model's.
    """
    from verl_mars.data.overlong import find_long_prompts
    from verl_mars.vision.resize import limits_of

    if method.anchoring is None or not method.check_data or why_lengths_are_unknown(config, processor) is not None:
        return []
    report = find_long_prompts(
        training_files(config),
        limits_of(processor.image_processor.to_dict()),
        processor.tokenizer,
        config.data.max_prompt_length,
        mono=method.mono_prompt,
        filters=bool(config.data.get("filter_overlong_prompts", False)),
    )
    return report.sentences()


def why_lengths_are_unknown(config: DictConfig, processor: "ProcessorMixin") -> str | None:
    """Why the tokens of prompts cannot be counted as verl's agent loop would; ``None``: they can."""
    if any(not hasattr(getattr(processor, "image_processor", None), name) for name in ("patch_size", "merge_size")):
        return "only the image processors of the Qwen-VL family are known"
    keys = (
        *("actor_rollout_ref.model.custom_chat_template", "data.custom_cls.path"),
        *("data.apply_chat_template_kwargs", "data.mm_processor_kwargs"),
    )
    changed = [key for key in keys if OmegaConf.select(config, key)]
    return f"{', '.join(changed)} changes them" if changed else None
