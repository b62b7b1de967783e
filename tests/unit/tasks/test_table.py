"""A task is one file and one line of the table: everything else reads the table."""

import ast
from pathlib import Path

import pytest

import verl_mars
from verl_mars.data.row_checks import RowRules
from verl_mars.reward.score import KEYS
from verl_mars.tasks import TASKS

PACKAGE = Path(verl_mars.__file__).parent
FILES = [path for path in PACKAGE.rglob("*.py") if "tasks" not in path.relative_to(PACKAGE).parts]


def lists_of_constants(tree):
    """The texts of each list, tuple, set, dict and Literal in a source file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.List | ast.Tuple | ast.Set):
            yield {item.value for item in node.elts if isinstance(item, ast.Constant)}
        elif isinstance(node, ast.Dict):
            yield {item.value for item in node.keys if isinstance(item, ast.Constant)}


@pytest.mark.parametrize("file", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_other_file_lists_the_tasks(file):
    for texts in lists_of_constants(ast.parse(file.read_text())):
        assert len(texts & set(TASKS)) < 3, f"{file} lists tasks: {texts}; read verl_mars.tasks.TASKS"


def test_each_task_stands_in_a_file_of_its_name():
    for name, task in TASKS.items():
        assert type(task).__module__ == f"verl_mars.tasks.{name}"
        assert task.name == name


@pytest.mark.parametrize("name", TASKS)
def test_each_task_says_what_the_table_is_read_for(name):
    task = TASKS[name]
    assert task.instruction.endswith(".") and task.example.startswith("{")
    assert sum(task.weights) == pytest.approx(1.0)
    assert set(task.keys) <= set(KEYS)
    with pytest.raises(ValueError, match=f"{name} needs"):
        task.read("[]")


def test_the_data_check_offers_every_task():
    row = {"extra_info": {"task": "x", "index": 0}, "images": ["/a.png"]}
    (problem,) = (found for found in RowRules().problems(row) if found.code == "task")
    assert all(name in problem.message for name in TASKS)
