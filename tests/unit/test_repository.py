"""Files that no code imports agree with the code: workflows, documentation, citation, release files."""

import ast
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path

import pytest
import typer.main
import yaml

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
IDS = {"ids": lambda value: value.name if isinstance(value, Path) else None}


def load(path):
    """A module that belongs to no package."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---------------------------------------------------------------- commands


@cache
def make_targets():
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@cache
def cli_commands():
    """Words of a command, as ("verl-mars", "data", "list") -> (its options, whether it is only a group)."""

    def walk(command, words):
        options = {flag for parameter in command.params for flag in [*parameter.opts, *parameter.secondary_opts]}
        inner = getattr(command, "commands", {})
        yield words, ({flag for flag in options if flag.startswith("-")} | {"--help"}, bool(inner))
        for name, child in inner.items():
            yield from walk(child, (*words, name))

    from verl_mars.cli import app

    return dict(walk(typer.main.get_command(app), ("verl-mars",)))


def shell_commands(text):
    """The commands of a shell text as lists of words: comments, loops and assignments left out."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";|&()<>")
        lexer.wordchars += "~=*$,:@%+-./[]{}"  # words of a command line
        words = []
        for word in [*lexer, ";"]:
            if set(word) <= set(";|&()<>"):
                while words and (words[0] in ("do", "then") or re.match(r"[A-Z_]+=", words[0])):
                    words = words[1:]
                if words:
                    yield words
                words = []
            else:
                words.append(word)


def fault_of(words):
    """Why a command of the documentation cannot be run; None if nothing is known against it."""
    if words[0] == "make":
        targets = [word for word in words[1:] if "=" not in word and not word.startswith("-")]
        unknown = set(targets) - make_targets()
        return f"no make target {', '.join(sorted(unknown))}" if unknown else None
    if words[0] == "verl-mars":
        known = cli_commands()
        depth = max(n for n in range(1, len(words) + 1) if tuple(words[:n]) in known)
        options, is_group = known[tuple(words[:depth])]
        following = words[depth] if depth < len(words) else "--help"
        if is_group and not following.startswith("-"):
            return f"{' '.join(words[:depth])} has no command {following}"
        used = {word.split("=")[0] for word in words[depth:] if re.match(r"--?[a-z]", word)}
        return (
            f"{' '.join(words[:depth])} has no option {', '.join(sorted(used - options))}" if used - options else None
        )
    if words[0].startswith("python") and len(words) > 1 and words[1].endswith(".py"):
        return None if (ROOT / words[1]).exists() else f"no file {words[1]}"
    return None


def code_blocks(path):
    """(language, text, line number) of the fenced code blocks of a page."""
    language, start, lines = None, 0, []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.lstrip().startswith("```"):
            if language is None:
                language, start, lines = line.strip().removeprefix("```"), number, []
            else:
                yield language, "\n".join(lines) + "\n", start
                language = None
        elif language is not None:
            lines.append(line)
    assert language is None, f"{path.name}:{start}: the code block is not closed"


def commands_in(path):
    for language, text, _ in code_blocks(path):
        if language in ("bash", "sh"):
            yield from shell_commands(text)
    prose = re.sub(r"^#.*$", "", path.read_text(), flags=re.MULTILINE)  # headings of the page of errors quote messages
    for text in re.findall(r"`((?:make|verl-mars|python) [^`]+)`", prose):
        yield from shell_commands(text)


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


def parse_block(language, text):
    if language == "python":
        ast.parse(text)
    elif language == "json":
        decoder, rest = json.JSONDecoder(), text.strip()
        while rest:  # one value or several
            rest = rest[decoder.raw_decode(rest)[1] :].lstrip()
    elif language == "yaml":
        list(yaml.safe_load_all(text))
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


# ---------------------------------------------------------------- workflows


def steps(workflow):
    for name, job in yaml.safe_load(workflow.read_text())["jobs"].items():
        for step in job["steps"]:
            yield name, step


@pytest.mark.parametrize("workflow", WORKFLOWS, **IDS)
def test_workflows_call_make_targets_that_exist(workflow):
    """What is checked is said once, in the Makefile; a workflow only chooses targets."""
    for job, step in steps(workflow):
        for words in shell_commands(step.get("run", "")):
            assert words[0] in ("make", "bash", "test"), f"{job}: {' '.join(words)}"
            assert fault_of(words) is None, f"{job}: {fault_of(words)}"
            if words[0] == "bash":
                assert (ROOT / words[1]).exists(), f"{job}: no file {words[1]}"


def test_workflows_cover_what_ci_runs():
    """Every target of .ci/run is in a workflow, by name or because the workflow runs .ci/run itself."""
    called = [words for file in WORKFLOWS for _, step in steps(file) for words in shell_commands(step.get("run", ""))]
    assert ["bash", ".ci/run"] in called
    quick = {words[1] for words in called if words[0] == "make"}
    assert {"lint", "test", "docs", "release"} <= quick


def test_workflows_try_every_python_that_is_promised():
    promised = set(re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text()))
    unit = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]["unit"]
    assert {entry["python"] for entry in unit["strategy"]["matrix"]["include"]} == promised


@pytest.mark.parametrize("workflow", WORKFLOWS, **IDS)
def test_workflows_ask_for_no_more_than_they_need(workflow):
    content = yaml.safe_load(workflow.read_text())
    assert content["permissions"] == {"contents": "read"}
    assert all("timeout-minutes" in job for job in content["jobs"].values())


def test_pre_commit_hooks_run_what_is_there():
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    for hook in local["hooks"]:
        program, *arguments = hook["entry"].split()
        assert program.startswith(".venv/bin/")
        assert all((ROOT / word).exists() for word in arguments if word.endswith(".py"))


def test_bug_reports_come_with_the_doctors_output():
    for name in ("bug", "result"):
        form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml").read_text())
        (doctor,) = [field for field in form["body"] if field.get("id") == "doctor"]
        assert doctor["validations"]["required"]
        (command,) = re.findall(r"`([^`]+)`", doctor["attributes"]["label"])
        assert fault_of(shlex.split(command)) is None


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


def test_the_page_of_tasks_has_every_task():
    from verl_mars.tasks import TASKS

    text = dict(load("docs/_site/generate.py").pages())["tasks.md"]
    for name, task in TASKS.items():
        section = text.split(f"## {name}\n")[1].split("\n## ")[0]
        assert task.example in section and all(f"`{key}`" in section for key in task.keys)


def test_support_is_claimed_by_tests_that_exist():
    rows = [row for part in yaml.safe_load((ROOT / "docs/_site/support.yaml").read_text()) for row in part["rows"]]
    assert {row["status"] for row in rows} == {"tested", "composed", "refused", "untested"}
    for row in rows:
        assert "by" in row or row["status"] == "untested", row
        assert (ROOT / row.get("by", ".")).exists(), row


# ---------------------------------------------------------------- citation and release


def citation():
    return yaml.safe_load((ROOT / "CITATION.cff").read_text())


def test_the_citation_names_this_version():
    import verl_mars

    assert citation()["version"] == verl_mars.__version__
    assert f"version = {{{verl_mars.__version__}}}" in (ROOT / "docs" / "papers.md").read_text()


def test_bibtex_and_citation_file_have_the_same_papers():
    bibtex = "".join(text for language, text, _ in code_blocks(ROOT / "docs" / "papers.md") if language == "bibtex")
    entries = {}
    for entry in bibtex.split("@article")[1:]:
        fields = dict(re.findall(r"^\s*(\w+)\s*= \{(.*)\},?$", entry, re.MULTILINE))
        arxiv = fields["journal"].removeprefix("arXiv preprint ")
        authors = [tuple(author.split(", ")) for author in fields["author"].split(" and ")]
        entries[arxiv] = (fields["title"], authors, int(fields["year"]))
    references = {
        reference["identifiers"][0]["value"]: (
            reference["title"],
            [(author["family-names"], author["given-names"]) for author in reference["authors"]],
            reference["year"],
        )
        for reference in citation()["references"]
    }
    assert len(references) >= 3
    assert entries == references


def test_required_verl_is_the_supported_one():
    from verl_mars.register import SUPPORTED_VERL

    lines = [line for line in (ROOT / "REQUIRED_VERL.txt").read_text().splitlines() if not line.startswith("#")]
    fields = dict(line.split("=", 1) for line in lines)
    assert {"UPSTREAM", "MODE", "PIP_INSTALL", "NOTES", "REFRESH"} <= fields.keys()
    assert fields["PIP_INSTALL"] == f'pip install "verl{SUPPORTED_VERL}"'
    assert fields["TAG"].removeprefix("v") == SUPPORTED_VERL.split(",")[0].removeprefix(">=")


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_constraints_satisfy_what_the_package_requires(name):
    from packaging.requirements import Requirement

    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 brings it")
    lines = (ROOT / "constraints" / f"{name}.txt").read_text().splitlines()
    pins = dict(line.lower().replace("_", "-").split("==") for line in lines if line and not line.startswith("#"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = {"cpu": "cpu", "gpu": "vllm"}[name]
    for text in [*project["dependencies"], *project["optional-dependencies"][extra]]:
        requirement = Requirement(text)
        pin = pins[requirement.name.lower().replace("_", "-")]
        assert requirement.specifier.contains(pin), f"{text}, but constraints/{name}.txt has {pin}"


DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))


def copied(dockerfile):
    """What a Dockerfile copies from the repository."""
    for arguments in re.findall(r"^COPY (.+)$", dockerfile.read_text(), re.MULTILINE):
        *sources, target = arguments.split()
        yield from sources
        assert target in ("./", *sources), "the checkout is copied as it is"


@pytest.mark.parametrize("dockerfile", DOCKERFILES, **IDS)
def test_images_are_built_from_what_is_sent_to_docker(dockerfile):
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignore
    assert set(copied(dockerfile)) == {line.removeprefix("!") for line in ignore if line.startswith("!")}


@pytest.mark.slow
def test_a_wheel_built_from_what_images_copy_holds_what_it_should(tmp_path):
    """The files that a Dockerfile copies are enough to build the wheel, and the wheel has no file too many."""
    source = tmp_path / "source"
    source.mkdir()
    for name in copied(DOCKERFILES[0]):
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(path, source / name)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        tmp_path,
        source,
    ]
    subprocess.run(command, check=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    contents = load(".ci/wheel_contents.py")
    assert contents.faults(names) == []
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "verl_mars").rglob("*.py")}
    assert modules <= set(names)
    assert len([name for name in names if name.endswith(".yaml")]) == len([*(ROOT / "recipes").rglob("*.yaml")])
    for added in ("tests/unit/test_x.py", "zz.pth", "verl_mars/.venv/x.py", "verl_mars/cpu/vllm_environment.py"):
        assert contents.faults([*names, added]), f"{added} would not be noticed"
    assert contents.faults([name for name in names if name != "verl_mars/py.typed"])
