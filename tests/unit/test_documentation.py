"""Commands, code blocks, navigation and generated pages of the documentation agree with the code."""

import ast
import json
import re

import pytest
import yaml
from pydantic import BaseModel
from repository_files import (
    IDS,
    ROOT,
    cli_commands,
    code_blocks,
    commands_in,
    commands_in_source,
    fault_of,
    load,
    shell_commands,
)

READMES = [ROOT / "README.md", ROOT / "README_zh.md"]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
# ---------------------------------------------------------------- commands and code blocks


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        ("make demo", None),
        ("make dmeo", "no make target dmeo"),
        ("FOO=1 make test ARGS='-k x'", None),
        ("verl-mars doctor --config-name mars_grpo dataset=llvip  # a comment", None),
        ("verl-mars doctor --config mars_grpo", "verl-mars doctor has no option --config"),
        ("verl-mars data covnert llvip", "verl-mars data has no command covnert"),
        ("verl-mars docter", "verl-mars has no command docter"),
        ("for x in a b; do\n  make nothing && verl-mars doctor\ndone", "no make target nothing"),
        ("python benchmarks/nothing.py", "no file benchmarks/nothing.py"),
    ],
)
def test_faults_of_commands_are_found(command, fault):
    faults = [found for words in shell_commands(command) if (found := fault_of(words))]
    assert faults == ([fault] if fault else [])


@pytest.mark.parametrize("page", PAGES, **IDS)
def test_commands_of_the_documentation_exist(page):
    faults = [f"{' '.join(words)}: {fault}" for words in commands_in(page) if (fault := fault_of(words))]
    assert not faults, "\n".join(faults)


FAULTY_SOURCE = '''
def cure(name):
    """As ``verl-mars data validate`` does."""
    # `make nothing`
    return f"see `verl-mars data check " f"{name} --fast`" + "`verl-mars score {name} --fast`"
'''


def test_faults_of_commands_in_messages_are_found():
    faults = {found for words in commands_in_source(FAULTY_SOURCE) if (found := fault_of(words))}
    assert faults == {
        "verl-mars data has no command check",
        "verl-mars score has no option --fast",
        "no make target nothing",
    }


def test_commands_of_messages_exist():
    files = [
        path
        for folder in ("verl_mars", "data_prep", "recipes", "hydra_plugins")
        for path in (ROOT / folder).rglob("*.py")
    ]
    found = [(path, words) for path in files for words in commands_in_source(path.read_text(encoding="utf-8"))]
    assert len(found) > 20
    faults = [f"{path}: {' '.join(words)}: {fault}" for path, words in found if (fault := fault_of(words))]
    assert not faults, "\n".join(faults)


def parse_block(language, text):
    if language == "python":
        ast.parse(text)
    elif language == "json":
        decoder, rest = json.JSONDecoder(), text.strip()
        while rest:  # one value or several
            rest = rest[decoder.raw_decode(rest)[1] :].lstrip()
    elif language == "yaml":
        list(yaml.safe_load_all(text))
    elif language == "toml":
        pytest.importorskip("tomllib", reason="Python 3.11 brings it").loads(text)
    elif language in ("bash", "sh"):
        list(shell_commands(text))
    elif language not in ("text", "bibtex", "", "diff", "make", "console"):
        raise ValueError(f"unknown language {language!r}")


@pytest.mark.parametrize("page", PAGES, **IDS)
def test_code_blocks_parse(page):
    for language, text, line in code_blocks(page):
        try:
            parse_block(language, text)
        except (ValueError, SyntaxError, yaml.YAMLError) as error:
            pytest.fail(f"{page.name}:{line}: {error}")


# ---------------------------------------------------------------- the README in two languages


def outline(text):
    """What does not depend on the language: headings, blocks of code, tables, pictures, links, commands, numbers."""
    blocks = re.findall(r"^```.*?^```$", text, re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\(([^)]*)\)", re.sub(r"\]\((#[^)]*|README\w*\.md)\)", "](-)", prose))
    return {
        "headings": re.findall(r"^#+(?= )", prose, re.MULTILINE),
        "code": blocks,
        "links": sorted(links),
        "tables": [line.count("|") for line in prose.splitlines() if line.startswith("|")],
        "list items": len(re.findall(r"^- ", prose, re.MULTILINE)),
        "quoted": sorted(" ".join(words.split()) for words in re.findall(r"`[^`]+`", prose)),
        "figures": sorted(re.findall(r"[+-]?\d+\.\d+", prose)),
    }


@pytest.mark.parametrize("part", outline("").keys())
def test_both_readmes_have_the_same(part):
    english, chinese = (outline(page.read_text()) for page in READMES)
    assert english[part] and english[part] == chinese[part]


@pytest.mark.parametrize("page", READMES, **IDS)
def test_badges_are_true(page):
    from verl_mars.register import SUPPORTED_VERL

    badges = dict(re.findall(r"img\.shields\.io/badge/(\w+)-(.+)-\w+\)", page.read_text()))
    project = (ROOT / "pyproject.toml").read_text()
    assert badges["verl"] == SUPPORTED_VERL.split(",")[0].removeprefix(">=")
    assert badges["python"].split("%20to%20") == ["3.10", "3.12"] and 'requires-python = ">=3.10,<3.13"' in project
    assert f'license = "{badges["licence"].replace("--", "-")}"' in project


# ---------------------------------------------------------------- documentation site


def navigation(entry):
    """The pages of a navigation, in order."""
    if isinstance(entry, str):
        return [entry]
    inner = entry.values() if isinstance(entry, dict) else entry
    return [page for item in inner for page in navigation(item)]


def test_every_page_is_in_the_navigation_once():
    """mkdocs is strict about this as well, but takes half a minute and an environment."""
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    written = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    generated = {f"reference/{page}" for page, _ in load("docs/_site/generate.py").pages()}
    root_pages = dict(re.findall(r'"(\w+\.md)": "(project/[\w-]+\.md)"', (ROOT / "docs/_site/hooks.py").read_text()))
    assert root_pages and all((ROOT / name).exists() for name in root_pages)
    assert sorted(navigation(config["nav"])) == sorted(written | generated | set(root_pages.values()))


def test_the_command_line_page_has_every_command_and_option():
    text = dict(load("docs/_site/generate.py").pages())["cli.md"]
    for words, (options, is_group) in cli_commands().items():
        if not is_group:
            section = text.split(f"## {' '.join(words)}\n")[1].split("\n## ")[0]
            assert all(f"`{flag}`" in section for flag in options - {"--help"}), words


def settings_of(model, prefix=""):
    """Dotted keys of a settings class and their docstrings' first words, nested classes included."""
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if isinstance(default, BaseModel):
            yield from settings_of(type(default), f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def test_the_page_of_configuration_has_every_setting_with_its_meaning():
    from verl_mars.methods import METHODS

    text = dict(load("docs/_site/generate.py").pages())["configuration.md"]
    for name in METHODS:
        section = text.split(f"## algorithm.{name}\n")[1].split("\n## ")[0]
        rows = dict(re.findall(r"^\| `([\w.]+)` \| `.*?` \| .+? \| (.*) \|$", section, re.MULTILINE))
        assert list(rows) == list(settings_of(METHODS[name].Settings))
        assert all(rows.values()), f"a setting of {name} has no docstring: {rows}"


def test_the_page_of_overridden_methods_has_every_hook():
    from verl_mars._compat import HOOKS

    text = dict(load("docs/_site/generate.py").pages())["hooks.md"]
    assert HOOKS and all(f"| `{method}` |" in text for method in HOOKS)


def test_the_page_of_tasks_has_every_task():
    from verl_mars.tasks import TASKS

    text = dict(load("docs/_site/generate.py").pages())["tasks.md"]
    for name, task in TASKS.items():
        section = text.split(f"## {name}\n")[1].split("\n## ")[0]
        assert task.example in section and all(f"`{key}`" in section for key in task.keys)


def test_the_picture_of_a_step_is_what_its_script_draws():
    drawn = load("docs/_site/step_figure.py").draw()
    assert (ROOT / "docs/images/step.svg").read_text() == drawn, (
        "python docs/_site/step_figure.py > docs/images/step.svg"
    )


def test_the_picture_of_a_step_shows_true_advantages():
    import torch

    from verl_mars.algos.mars import mono_anchored_advantage

    figure = load("docs/_site/step_figure.py")
    rewards, anchors = torch.tensor(figure.FUSED_REWARDS), torch.tensor([*figure.ANCHORS.values()])
    for name, of_prompt in (("MARS", anchors), ("GRPO", anchors[:0])):
        expected = mono_anchored_advantage(rewards, ["a"] * len(rewards), of_prompt.expand(len(rewards), -1))
        right, wrong = figure.advantages()[name]
        assert torch.allclose(expected, torch.where(rewards == 1, right, wrong).float(), atol=1e-5)


def test_support_is_claimed_by_tests_that_exist():
    rows = [row for part in yaml.safe_load((ROOT / "docs/_site/support.yaml").read_text()) for row in part["rows"]]
    assert {row["status"] for row in rows} == {"tested", "composed", "refused", "fails", "untested"}
    for row in rows:
        assert "by" in row or row["status"] == "untested", row
        assert (ROOT / row.get("by", ".")).exists(), row
