"""``compute_score``: one response, its ground truth, its row; out comes a dictionary with fixed keys."""

from verl_mars.errors import RowError, SampleError
from verl_mars.fields import FieldDict, Fields
from verl_mars.reward.response import read_response, untagged_answer
from verl_mars.reward.settings import RewardSettings, from_kwargs
from verl_mars.tasks import TASKS, task_of_row

KEYS = (
    *("score", "acc", "format", "error", "pred", "answered", "truncated"),
    *(key for task in TASKS.values() for key in task.keys),
)
"""Every result has all of them; those of another task are None, which verl leaves out of its means. verl takes the
keys of a batch's first row for all, so rows of different tasks must have the same."""

_FROM_VERL = ("reward_router_address", "reward_model_tokenizer")  # what verl's managers pass when a reward model runs
_MAX_TEXT = 200


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: object,
    extra_info: Fields | None = None,
    *,
    truncated: bool = False,
    **settings: object,
) -> FieldDict:
    """Score one response.

    Args:
        data_source: the row's data source; used in errors only.
        solution_str: the decoded response.
        ground_truth: JSON string (or the mapping itself) of the task's form, see :mod:`verl_mars.tasks`.
        extra_info: the row's; ``task`` is needed. ``coordinates`` (frame of the boxes of answers: ``pixel``, the
            default, or a key of :data:`verl_mars.vision.families.FAMILIES`), ``image_sizes`` and ``seen_sizes`` (the
            images as the model saw them, where the usual path of verl was not taken) serve ``grounding``.
        truncated: the response was cut off at its largest length; its form is then not kept.
        settings: fields of :class:`~verl_mars.reward.settings.RewardSettings`.

    Returns:
        The keys :data:`KEYS`. ``score = accuracy_weight * acc + format_weight * format``; ``acc`` and ``format`` in
        [0, 1]; ``error`` says why there was nothing to score, "" otherwise; ``answered`` is 1 where there was;
        ``pred`` is the answer as it was understood. ``variant="authors"``: see :mod:`verl_mars.reward.authors`.

    Raises:
        RowError: the row is at fault: no or an unknown task, a bad ground truth, a missing size. Never for what a
            model wrote.
        ValueError: an unknown setting or an impossible value.
    """
    chosen = from_kwargs({key: value for key, value in settings.items() if key not in _FROM_VERL})
    return score_response(data_source, solution_str, ground_truth, extra_info, chosen, truncated=truncated)


def score_response(
    data_source: object,
    text: str,
    ground_truth: object,
    extra_info: Fields | None,
    settings: RewardSettings,
    *,
    truncated: bool = False,
) -> FieldDict:
    """:func:`compute_score` with settings that were read before."""
    info = extra_info or {}
    try:
        return _score(text if isinstance(text, str) else "", ground_truth, info, settings, truncated)
    except SampleError as error:
        parts = [f"data source {str(data_source)!r}"]
        parts += [f"{key} {info[key]!r}" for key in ("split", "index", "sample_id") if info.get(key) is not None]
        if info.get("index") is None:
            parts.append("no index")
        raise RowError(f"row ({', '.join(parts)}): {error}") from None


def _score(text: str, ground_truth: object, info: Fields, settings: RewardSettings, truncated: bool) -> FieldDict:
    task = task_of_row(info)
    truth = task.read_for_row(ground_truth, "reward_model.ground_truth", info.get("image_sizes"))
    result: FieldDict = dict.fromkeys(KEYS)
    result["truncated"] = float(truncated)
    if settings.variant == "authors":
        from verl_mars.reward import authors

        return result | authors.score(text, task, truth)

    response = read_response(text, settings.think_in_prompt)
    answer, answer_ok = response.answer, response.answer_ok
    if answer is None and settings.answer_tags == "optional":
        answer = untagged_answer(text, response)
    if answer is None and response.thought_end >= 0:
        answer, answer_ok = task.untagged(text[response.thought_end :])
    verdict = task.score(answer or "", truth, info, settings)
    parts = (response.think_ok, answer_ok, *verdict.form)
    form = 0.0 if truncated else sum(parts) / len(parts)
    error = verdict.error
    if answer is None:
        error = "the thought is never closed" if response.thought_end < 0 else "no <answer>...</answer>"
    elif not answer:
        error = "the answer is blank"
    accuracy_weight, format_weight = settings.weights or task.weights
    result.update(verdict.details)
    return result | {
        "score": accuracy_weight * verdict.acc + format_weight * form,
        "acc": verdict.acc,
        "format": form,
        "error": _clean(error),
        "pred": verdict.pred if verdict.pred is None else _clean(verdict.pred),
        "answered": float(not error),
    }


def _clean(text: str) -> str:
    """Short, and writable as UTF-8: verl dumps these texts as JSON."""
    return text[:_MAX_TEXT].encode("utf-8", "replace").decode("utf-8").replace("\x00", "\ufffd")
