"""The folder of a probe: what it is a probe of, and the answers so far. An interrupted probe goes on from there."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from verl_mars.data.files import whole_file
from verl_mars.fields import FieldDict, Fields
from verl_mars.probe.engine import Answer, ProbeError

IDENTITY, RESPONSES, SUMMARY = "probe.json", "responses.jsonl", "summary.json"
REPORT, LEADERBOARD = "report.html", "leaderboard.csv"
_LONGEST_LINE = 64 * 2**20


@dataclass(frozen=True)
class Line:
    """One line of ``responses.jsonl``: an answer to one view of one row."""

    key: str
    row: int
    """Position of the row in the data."""
    view: str
    sample: int
    answer: Answer
    fields: Fields
    """As read from the file: ground truth, extra_info, ..."""


class Folder:
    """A probe's folder.

    Args:
        path: of the folder.
        identity: what the probe is of: model, data, settings. Answers are kept only while it stays the same.

    Raises:
        ProbeError: the folder holds another probe, or files that are no probe's; nothing is written then.
    """

    def __init__(self, path: Path, identity: Fields) -> None:
        self.path = path
        if path.exists() and not path.is_dir():
            raise ProbeError(f"--out {path}: a file is there; choose a folder")
        if path.is_dir() and any(path.iterdir()):
            _same(path, identity)
        self.identity = dict(identity)

    def lines(self) -> list[Line]:
        """The answers so far; the end of a line that was being written when a probe ended is cut off.

        Raises:
            ProbeError: any other line that cannot be read.
        """
        file = self.path / RESPONSES
        if not file.exists():
            return []
        _cut_torn_end(file)
        return read_lines(self.path)

    def append(self) -> "Appender":
        """Where new answers are written; makes the folder."""
        self.path.mkdir(parents=True, exist_ok=True)
        with whole_file(self.path / IDENTITY, text=True) as file:
            json.dump(self.identity, file, indent=2, ensure_ascii=False)
        return Appender(self.path / RESPONSES)


class Appender:
    """Writes lines, each whole before the next."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "a", encoding="utf-8", errors="backslashreplace")

    def write(self, entry: Fields) -> None:
        """Write a line, so that it outlives the process."""
        self._file.write(json.dumps(entry, ensure_ascii=True) + "\n")
        self._file.flush()

    def __enter__(self) -> "Appender":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def read_identity(path: Path) -> FieldDict:
    """What the probe in a folder is of.

    Raises:
        ProbeError: there is none.
    """
    try:
        value = json.loads((path / IDENTITY).read_text(encoding="utf-8"))
    except OSError as error:
        raise ProbeError(
            f"{path / IDENTITY}: {error.strerror}; a folder written by `verl-mars probe` is needed"
        ) from None
    except ValueError as error:
        raise ProbeError(f"{path / IDENTITY}: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise ProbeError(f"{path / IDENTITY}: not an object")
    return value


def read_lines(path: Path) -> list[Line]:
    """The answers in a probe's folder.

    Raises:
        ProbeError: no such file, or a line that is none of a probe's.
    """
    file = path / RESPONSES
    lines = []
    try:
        with file.open("rb") as opened:
            number = 0
            while raw := opened.readline(_LONGEST_LINE + 1):
                number += 1
                if raw.strip():
                    lines.append(_line(f"{file}, line {number}", raw))
    except OSError as error:
        raise ProbeError(f"{file}: {error.strerror}") from None
    return lines


def _line(where: str, raw: bytes) -> Line:
    try:
        if len(raw) > _LONGEST_LINE:
            raise ValueError(f"longer than {_LONGEST_LINE} bytes")
        entry = json.loads(raw)
        answer = Answer(str(entry["response"]), bool(entry["cut_off"]), entry.get("tokens"))
        return Line(str(entry["key"]), int(entry["row"]), str(entry["view"]), int(entry["sample"]), answer, entry)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ProbeError(f"{where}: no response of a probe ({type(error).__name__}: {error})") from None


def _same(path: Path, identity: Fields) -> None:
    if not (path / IDENTITY).exists():
        raise ProbeError(f"--out {path}: the folder is not empty and holds no probe; choose another")
    there = read_identity(path)
    differing = [key for key in {**there, **identity} if there.get(key) != identity.get(key)]
    if differing:
        told = "; ".join(
            f"{key} is {_short(there.get(key))} there, {_short(identity.get(key))} now" for key in differing
        )
        raise ProbeError(f"--out {path} holds another probe: {told}. Choose another folder; nothing was overwritten")


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else text[:117] + "..."


def _cut_torn_end(file: Path) -> None:
    """Cut off what follows the last end of line."""
    with file.open("rb+") as opened:
        end = opened.seek(0, os.SEEK_END)
        at = end
        while at > 0:
            start = max(0, at - 2**16)
            opened.seek(start)
            found = opened.read(at - start).rfind(b"\n")
            if found >= 0:
                at = start + found + 1
                break
            at = start
        if at < end:
            opened.truncate(at)
