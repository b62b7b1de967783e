"""Files that no code imports agree with the code: workflows, citation, pins, images, the wheel."""

import re
import shlex
import shutil
import subprocess
import sys
import zipfile

import pytest
import yaml
from repository_files import IDS, ROOT, code_blocks, fault_of, load, shell_commands

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
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
