"""Samples in the order of the raw data, each with its split; images and groups that are in two splits."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice

from verl_mars.data.paths import Root
from verl_mars.data.sample import Converter, Findings, Options, Reject, Sample
from verl_mars.data.settings import ConvertSettings
from verl_mars.errors import DataError
from verl_mars.fields import FieldDict

_SPLIT = re.compile(r"[A-Za-z0-9_]{1,64}")


@dataclass(frozen=True)
class Job:
    """A sample on its way to a row."""

    sample: Sample
    split: str
    index: int
    """Position among all samples; becomes ``extra_info.index``."""


class SampleStream:
    """The samples of a data set with their splits."""

    def __init__(self, converter: Converter, settings: ConvertSettings, root: Root, options: Options) -> None:
        self.converter = converter
        self.settings = settings
        self.root = root
        self.options = options
        self.findings = Findings(list(converter.caveats))
        self.splits: set[str] = set()
        """All splits so far, those that were not asked for too."""

    def jobs(self) -> Iterator[Job | FieldDict]:
        """Samples with their splits, and rejects of the converter as lines of ``rejects.jsonl``."""
        ids: set[str] = set()
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
            yield Job(item, split, index)
        for text, count in sorted(homes.leaks.items()):
            self.findings.add(f"{count} {text}")

    def _split_of(self, group: str) -> str:
        """``train`` or ``val``, by a hash of the group: a group stays together, and no other group moves it."""
        key = hashlib.blake2b(f"{self.settings.seed}|{group}".encode(errors="backslashreplace"), digest_size=8).digest()
        return "val" if int.from_bytes(key, "big") < self.settings.val_fraction * 2**64 else "train"


class _Homes:
    """The split of each image and group, to find those that are in two."""

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
