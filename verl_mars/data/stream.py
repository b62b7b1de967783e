"""Samples in the order of the raw data, each with its split, its number, and a digest of what it is made from."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from verl_mars.data.faults import DataError, SampleError
from verl_mars.data.paths import Root
from verl_mars.data.sample import Converter, Findings, Reject, Sample
from verl_mars.data.settings import ConvertSettings
from verl_mars.data.shards import Shard

_SPLIT = re.compile(r"[A-Za-z0-9_]{1,64}")


@dataclass(frozen=True)
class Job:
    """A sample on its way to a row."""

    sample: Sample
    split: str
    number: int
    """Position in its split."""
    index: int
    """Position in the whole stream; becomes ``extra_info.index``."""
    inputs: bytes
    """Digest of the sample, and of size and time of its image files."""


class SampleStream:
    """Reads a data set; may be read any number of times, always the same."""

    def __init__(self, converter: Converter, settings: ConvertSettings, root: Root, options: Any) -> None:
        self.converter = converter
        self.settings = settings
        self.root = root
        self.options = options
        self.findings = Findings()
        """What the last reading found."""
        self.splits: set[str] = set()
        """All splits of the last reading, those that were not asked for too."""

    def jobs(self) -> Iterator[Job | dict[str, Any]]:
        """Samples with their splits, and rejects of the converter."""
        self.findings = Findings(list(self.converter.caveats))
        self.splits.clear()
        ids: set[str] = set()
        numbers: Counter[str] = Counter()
        homes = _Homes()
        items = enumerate(self.converter.samples(self.root, self.options, self.findings))
        for index, item in islice(items, self.settings.limit):
            if isinstance(item, Sample) and item.sample_id in ids:
                item = Reject(item.origin, "duplicate_id", f"{item.sample_id!r} was there before", item.sample_id)
            if isinstance(item, Reject):
                yield {"index": index, **asdict(item)}
                continue
            ids.add(item.sample_id)
            split = item.split or self._split_of(item.group or item.sample_id)
            if not _SPLIT.fullmatch(split):
                raise DataError(f"{item.origin}: split {split!r} cannot be a file's name; letters, digits and _ can")
            self.splits.add(split)
            if self.settings.splits and split not in self.settings.splits:
                continue
            homes.note(item, split)
            yield Job(item, split, numbers[split], index, self._inputs(item))
            numbers[split] += 1
        for text, count in sorted(homes.leaks.items()):
            self.findings.add(f"{count} {text}")

    def still_valid(self, finished: Mapping[str, Sequence[Shard]]) -> dict[str, list[Shard]]:
        """Of the finished shards of each split, the first ones that the raw data would give again."""
        digests = {split: [hashlib.sha256() for _ in shards] for split, shards in finished.items()}
        counts = {split: [0] * len(shards) for split, shards in finished.items()}
        at: Counter[str] = Counter()
        for job in self.jobs():
            if not isinstance(job, Job) or job.split not in finished:
                continue
            shards, position = finished[job.split], at[job.split]
            while position < len(shards) and job.number >= shards[position].end:
                position += 1
            at[job.split] = position
            if position < len(shards):
                digests[job.split][position].update(job.inputs)
                counts[job.split][position] += 1
        valid: dict[str, list[Shard]] = {}
        for split, shards in finished.items():
            for position, shard in enumerate(shards):
                same = digests[split][position].hexdigest() == shard.inputs
                if not same or counts[split][position] != shard.samples:
                    break
                valid.setdefault(split, []).append(shard)
        return valid

    def _split_of(self, group: str) -> str:
        """``train`` or ``val``, by a hash of the group, so that a group stays together and no other moves it."""
        key = hashlib.blake2b(f"{self.settings.seed}|{group}".encode(errors="backslashreplace"), digest_size=8).digest()
        return "val" if int.from_bytes(key, "big") < self.settings.val_fraction * 2**64 else "train"

    def _inputs(self, sample: Sample) -> bytes:
        """What the row is made from: the sample, and size and time of its image files."""
        digest = hashlib.blake2b(repr(sample).encode(), digest_size=16)
        for image in sample.images:
            try:
                state = os.stat(self.root.file(image.path))
                digest.update(f"{state.st_size}|{state.st_mtime_ns}".encode())
            except (OSError, SampleError):
                digest.update(b"missing")
        return digest.digest()


class _Homes:
    """Which split each image and each group is in, to find what is in two."""

    def __init__(self) -> None:
        self.leaks: Counter[str] = Counter()
        self.images: dict[int, str] = {}
        self.groups: dict[str, str] = {}

    def note(self, sample: Sample, split: str) -> None:
        for image in sample.images:
            key = hash(image.path)  # a number instead of the path: memory stays small at a million images
            home = self.images.setdefault(key, split)
            if home != split:
                self.leaks[
                    f"images used in {split} are in {home} too: results on one tell little about the other."
                ] += 1
        if sample.group is not None:
            home = self.groups.setdefault(sample.group, split)
            if home != split:
                self.leaks[f"samples of {split} come from scenes or groups that are in {home} too."] += 1
