"""The tasks: one file each, and the one table of them."""

from verl_mars.errors import SampleError
from verl_mars.fields import Fields
from verl_mars.tasks.base import AnyTask
from verl_mars.tasks.count import Count
from verl_mars.tasks.grounding import Grounding
from verl_mars.tasks.math import Math
from verl_mars.tasks.mcq import Mcq
from verl_mars.tasks.ocr import Ocr
from verl_mars.tasks.vqa import Vqa

TASKS: dict[str, AnyTask] = {task.name: task for task in (Grounding(), Vqa(), Mcq(), Count(), Math(), Ocr())}
"""``extra_info.task`` -> the task."""


def task_named(name: object) -> AnyTask:
    """The task called ``name``.

    Raises:
        SampleError: there is none.
    """
    task = TASKS.get(name) if isinstance(name, str) else None
    if task is None:
        raise SampleError("task", f"{name!r} is no task; allowed: {', '.join(TASKS)}")
    return task


def task_of_row(extra_info: Fields) -> AnyTask:
    """The task of a row.

    Raises:
        SampleError: ``extra_info.task`` is missing or unknown.
    """
    try:
        return task_named(extra_info.get("task"))
    except SampleError as error:
        raise SampleError(error.code, error.problem.message, "extra_info.task") from None


__all__ = ["TASKS", "task_named", "task_of_row"]
