"""Shards of rows on disk: streamed, renamed into place when whole, and resumable after any kind of end.

While a conversion runs, ``<out>/.progress/`` holds one small JSON file for each finished shard: which samples went in,
what was rejected, counts, and the shard's hash. A shard without such a file is written again. At the end all of them
become ``manifest.json`` and ``rejects.jsonl``. Nothing in these files depends on the time or on how often the
conversion was interrupted.
"""

import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from verl_mars.data.faults import DataError
from verl_mars.data.files import TEMPORARY, file_hash, sync_folder, whole_file
from verl_mars.errors import UsageError

PROGRESS = ".progress"
MANIFEST = "manifest.json"
REJECTS = "rejects.jsonl"


@dataclass
class Shard:
    """One finished shard; also the content of its progress file."""

    file: str
    split: str
    first: int
    """The first sample of its split that belongs to it."""
    samples: int
    """Samples that belong to it, rejected ones too."""
    rows: int
    bytes: int
    xxh128: str
    inputs: str
    """Digest of the samples and of their image files' sizes and times."""
    tally: dict[str, Any] = field(default_factory=dict)
    rejects: list[dict[str, Any]] = field(default_factory=list)

    @property
    def end(self) -> int:
        """The first sample after it."""
        return self.first + self.samples


class Output:
    """The folder of one conversion.

    Raises:
        DataError: the folder holds something else, or a conversion with other settings.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self.folder = folder
        self.config = dict(config)
        self.config_hash = config_hash(config)
        self.progress = folder / PROGRESS

    def open(self, overwrite: bool) -> dict[str, list[Shard]]:
        """Make the folder ready. Returns the finished shards by split, in order."""
        self.folder.mkdir(parents=True, exist_ok=True)
        found = self._previous()
        if found is not None and found != self.config:
            if not overwrite and self._has_shards():
                raise DataError(
                    f"{self.folder} holds a conversion with other settings ({_difference(found, self.config)}); "
                    "choose another --out, or pass --overwrite"
                )
            self._clear()
        elif found is None:
            foreign = sorted(path.name for path in self.folder.iterdir() if path.suffix == ".parquet")
            if foreign:
                raise DataError(
                    f"{self.folder} holds files of something else ({', '.join(foreign[:3])}); choose another --out"
                )
        elif overwrite:
            self._clear()
        self.progress.mkdir(exist_ok=True)
        write_json(self.progress / "config.json", self.config)
        for part in ("", "images/", f"{PROGRESS}/"):
            for partial in self.folder.glob(f"{part}*{TEMPORARY}"):
                partial.unlink(missing_ok=True)
        return self._finished()

    def note(self, shard: Shard) -> None:
        """A shard is whole: remember it."""
        write_json(self.progress / f"{Path(shard.file).stem}.json", asdict(shard))

    def forget(self, shard: Shard) -> None:
        """A finished shard is not what the raw data give now."""
        (self.progress / f"{Path(shard.file).stem}.json").unlink(missing_ok=True)
        (self.folder / shard.file).unlink(missing_ok=True)

    def close(self, manifest: Mapping[str, Any], rejects: Iterator[Mapping[str, Any]]) -> None:
        """Write rejects and manifest, then drop the progress files."""
        with whole_file(self.folder / REJECTS, text=True) as file:
            for reject in rejects:
                file.write(json.dumps(reject, ensure_ascii=False) + "\n")
        write_json(self.folder / MANIFEST, manifest)
        sync_folder(self.folder)
        self._drop_progress()

    def manifest(self) -> dict[str, Any] | None:
        """The manifest of a finished conversion."""
        path = self.folder / MANIFEST
        return read_json(path) if path.exists() else None

    def _previous(self) -> dict[str, Any] | None:
        for path, key in ((self.folder / MANIFEST, "config"), (self.progress / "config.json", None)):
            if path.exists():
                content = read_json(path)
                return content.get(key) if key else content
        return None

    def _finished(self) -> dict[str, list[Shard]]:
        """Shards of the progress files, or of the manifest; only those whose files are what they were."""
        manifest = self.manifest()
        if manifest is not None:
            # From here on it is a conversion that was interrupted after its last shard
            rejects: dict[str | None, list[dict[str, Any]]] = {}
            for reject in self._rejects():
                rejects.setdefault(reject.pop("shard"), []).append(reject)
            for split in manifest["splits"].values():
                for entry in split["shards"]:
                    self.note(Shard(**entry, rejects=rejects.get(entry["file"], [])))
            (self.folder / MANIFEST).unlink()
        shards: dict[str, list[Shard]] = {}
        for path in sorted(self.progress.glob("*-[0-9]*.json")):
            shard = Shard(**read_json(path))
            file = self.folder / shard.file
            if file.exists() and file.stat().st_size == shard.bytes and file_hash(file) == shard.xxh128:
                shards.setdefault(shard.split, []).append(shard)
            else:
                self.forget(shard)
        for split, found in shards.items():
            found.sort(key=lambda shard: shard.first)
            shards[split] = _unbroken(found)
            for shard in found[len(shards[split]) :]:
                self.forget(shard)
        return shards

    def _rejects(self) -> Iterator[dict[str, Any]]:
        path = self.folder / REJECTS
        if path.exists():
            with open(path, encoding="utf-8") as lines:
                yield from map(json.loads, lines)

    def _has_shards(self) -> bool:
        """Whether anything would be lost: a conversion that found nothing, or was stopped at once, holds no shard."""
        manifest = self.manifest()
        return bool(manifest and manifest["splits"]) or any(self.progress.glob("*-[0-9]*.json"))

    def _clear(self) -> None:
        manifest = self.manifest()
        for split in (manifest or {"splits": {}})["splits"].values():
            for entry in split["shards"]:
                (self.folder / Path(entry["file"]).name).unlink(missing_ok=True)
        for path in self.progress.glob("*-[0-9]*.json"):
            (self.folder / Path(read_json(path)["file"]).name).unlink(missing_ok=True)
        for name in (MANIFEST, REJECTS):
            (self.folder / name).unlink(missing_ok=True)
        self._drop_progress()

    def _drop_progress(self) -> None:
        if self.progress.exists():
            # config.json goes last: without it the folder would look like somebody else's
            for path in sorted(self.progress.iterdir(), key=lambda path: path.name == "config.json"):
                path.unlink()
            self.progress.rmdir()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder against a second conversion into it; the lock goes with the process.

    Raises:
        DataError: another conversion holds it, or it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {folder} cannot be made: {error.strerror}") from error
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(f"another conversion is writing to {folder}") from error
        yield
    finally:
        os.close(handle)


@contextmanager
def clear_disk_errors(folder: Path) -> Iterator[None]:
    """Say what a full disk means for a conversion.

    Raises:
        DataError: the disk, the quota or the largest allowed file is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise DataError(
            f"no space left for {folder} ({error.strerror}); finished shards are kept: "
            "make room and give the same command again to go on"
        ) from error


def config_hash(config: Mapping[str, Any]) -> str:
    """Hash of everything that decides the bytes of a conversion."""
    text = json.dumps(config, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file that is there whole or not at all."""
    with whole_file(path, text=True) as file:
        json.dump(content, file, ensure_ascii=False, indent=1)
        file.write("\n")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that verl-mars wrote.

    Raises:
        DataError: it was changed by somebody else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is damaged ({error}); remove it and convert again") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is damaged; remove it and convert again")
    return content


def _unbroken(shards: list[Shard]) -> list[Shard]:
    """The shards up to the first gap."""
    expected = 0
    for count, shard in enumerate(shards):
        if shard.first != expected:
            return shards[:count]
        expected = shard.end
    return shards


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    keys = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
    return ", ".join(f"{key}: {before.get(key)!r} then, {now.get(key)!r} now" for key in keys[:4])
