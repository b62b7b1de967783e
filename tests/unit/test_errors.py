"""Every command ends a user's error with a sentence on stderr and an exit code, never with a traceback."""

import os

import pytest
from pydantic import BaseModel, Field, ValidationError
from typer.testing import CliRunner

from verl_mars.cli import app
from verl_mars.config import Settings, faults
from verl_mars.errors import UsageError, UserError, errors_printed


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ("demo --algorithm nope", 2, "error: unknown algorithm 'nope'; allowed: ["),
        ("demo --track nope", 2, "error: unknown toy track 'nope'; allowed: ['broken_form'"),
        ("demo --steps 0", 2, "--steps"),
        ("data list nope", 2, "error: data set 'nope' is unknown, allowed: "),
        ("data stats /no.parquet", 1, "error: /no.parquet does not exist"),
        ("data convert llvip --root /tmp --out /tmp/o --images x --shard-rows 0", 2, "--shard-rows = 0: "),
        ("score /no.jsonl", 1, "error: /no.jsonl: No such file"),
        ("show-tokens /no.jsonl", 1, "error: /no.jsonl"),
        ("nope", 2, "No such command 'nope'"),
    ],
)
def test_a_users_error_is_a_sentence(arguments, code, says):
    result = CliRunner().invoke(app, arguments.split())
    assert (result.exit_code, isinstance(result.exception, SystemExit)) == (code, True), result.output
    assert says in result.stderr and "Traceback" not in result.output and result.stdout == ""


@pytest.mark.parametrize(
    ("error", "code", "printed"),
    [
        (UserError("a"), 1, "error: a\n"),
        (UsageError("a"), 2, "error: a\n"),
        (ValueError("a"), 1, "error: a\n"),
        (ModuleNotFoundError("No module named 'x'"), 1, "error: No module named 'x'\n"),
        (PermissionError(13, "Permission denied", "/a"), 1, "error: /a: Permission denied\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
    ],
)
def test_what_is_printed(capsys, error, code, printed):
    with pytest.raises(SystemExit) as exited, errors_printed():
        raise error
    assert exited.value.code == code
    assert capsys.readouterr().err == printed


@pytest.mark.parametrize("bug", [KeyError("a"), TypeError("a"), BrokenPipeError(32, os.strerror(32))])
def test_a_bug_keeps_its_traceback(bug):
    with pytest.raises(type(bug)), errors_printed():
        raise bug


class Inner(Settings):
    share: float = Field(default=0.5, ge=0, le=1)


class Outer(Settings):
    inner: Inner = Inner()
    items: tuple[Inner, ...] = Field(default=(), strict=False)
    word: str | int = "a"


def test_all_faults_are_named_with_their_dotted_key_unknown_ones_first():
    values = {"inner": {"share": 2}, "items": [{}, {"shar": 1}], "word": 1.5, "colour": 1}
    with pytest.raises(UserError) as caught:
        Outer.from_mapping(values, "a.b")
    assert str(caught.value).split("\n") == [
        "a.b.items[1].shar: unknown key; did you mean 'share'?; allowed: share",
        "a.b.colour: unknown key; allowed: inner, items, word",
        "a.b.inner.share = 2: Input should be less than or equal to 1",
        "a.b.word = 1.5: Input should be a valid string or a valid integer",
    ]


def test_no_section_is_the_defaults_and_a_value_is_no_section():
    assert Outer.from_mapping(None, "a") == Outer() == Outer.from_mapping({}, "a")
    with pytest.raises(UserError, match="a must be a mapping of settings, got 7"):
        Outer.from_mapping(7, "a")


def test_long_values_are_shortened():
    class Record(BaseModel):
        number: int

    with pytest.raises(ValidationError) as caught:
        Record.model_validate({"number": "x" * 1000})
    (fault,) = faults(caught.value, Record)
    assert len(fault.value) == 80 and fault.sentence.startswith("number = 'xxx")
