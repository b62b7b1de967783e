"""Rows that refer to the visual inputs of their prompt instead of holding a copy.

A training row's ``multi_modal_inputs`` is a :class:`StoredInputs`. The tensors lie once in a separate partition of the
data plane, under a name made of the prompt's uid and the digest of their content. verl reads ``multi_modal_inputs``
where it assembles a micro-batch, in each training process; there the reference fetches the tensors, together with
those of all other rows that the process holds: one request a batch.

The storage processes of the data plane unpickle references too, so this module imports nothing when it is loaded and
nothing is fetched on unpickling.
"""

import itertools
import weakref
from collections import Counter
from collections.abc import ItemsView, Iterator, KeysView, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from verl_mars.fields import FieldDict, Fields

PARTITION = "mars_images"
"""Of the data plane; nobody else writes to it."""

_references: "weakref.WeakValueDictionary[int, StoredInputs]" = weakref.WeakValueDictionary()
"""The references that came to this process, in the order of their arrival, as long as somebody holds them."""
_numbers = itertools.count()
_fetched: dict[str, FieldDict] = {}
"""Tensors by name that this process has fetched."""


class LostImages(RuntimeError):
    """The visual inputs of a row are not in the data plane any more, or are not those that were stored."""


class StoredInputs:
    """The visual inputs of a row, its tensors fetched when they are read.

    Not a dict and no dataclass: the data plane would write those out field by field. Two references are equal only if
    they are one object: comparing contents would fetch them.
    """

    def __init__(self, name: str, size: int, limit: int, own: Fields, tensors: Fields | None = None) -> None:
        """
        Args:
            name: :func:`name_of` the stored tensors.
            size: of the stored tensors in bytes.
            limit: bytes that a process may hold at a time.
            own: entries that only this row has; they travel with it.
            tensors: the stored tensors themselves, where they are at hand. They do not travel.
        """
        self.name, self.size, self.limit, self.own, self._tensors = name, size, limit, dict(own), tensors

    def __reduce__(self) -> tuple[object, ...]:
        return _arrived, (self.name, self.size, self.limit, self.own)

    def __repr__(self) -> str:
        return f"StoredInputs({self.name!r}, {self.size} bytes)"

    def _all(self) -> FieldDict:
        return {**(fetch(self) if self._tensors is None else self._tensors), **self.own}

    def items(self) -> ItemsView[str, object]:
        """Names and values, as of the dict that verl expects."""
        return self._all().items()

    def keys(self) -> KeysView[str]:
        """Names of the inputs."""
        return self._all().keys()

    def get(self, key: str, default: object = None) -> object:
        """An input by name."""
        return self._all().get(key, default)

    def pop(self, key: str, default: object = None) -> object:
        """Take out an entry that only this row has; stored tensors stay."""
        return self.own.pop(key, default)

    def __getitem__(self, key: str) -> object:
        return self._all()[key]

    def __contains__(self, key: str) -> bool:
        return key in self._all()

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def __bool__(self) -> bool:
        return True  # without a look at the contents


VisualInputs = FieldDict | StoredInputs
"""The visual inputs of a row, there or stored."""


def _arrived(name: str, size: int, limit: int, own: Fields) -> StoredInputs:
    """An unpickled reference, known to this process."""
    reference = StoredInputs(name, size, limit, own)
    _references[next(_numbers)] = reference
    return reference


def size_of(tensors: Fields) -> int:
    """Bytes of the tensors."""
    return sum(tensor.nbytes for tensor in tensors.values())


def name_of(uid: str, tensors: Fields) -> str:
    """The name under which a prompt's tensors are stored: ``{uid}_{digest of names, types, shapes and values}``."""
    import torch
    import xxhash

    digest = xxhash.xxh3_128(uid.encode())
    for key, tensor in sorted(tensors.items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)};".encode())
        flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        digest.update(memoryview(flat.numpy()))
    return f"{uid}_{digest.hexdigest()}"


def uid_of(name: str) -> str:
    """The uid of the prompt whose tensors are stored under a name."""
    return name.rpartition("_")[0]


@contextmanager
def stored_once(inputs: Sequence[object], limit: int) -> Iterator[list[Any]]:
    """Visual inputs of rows that are written for one pass: what several rows share is stored once while it lasts.

    Args:
        inputs: of each row. Mappings of tensors that are one object are shared; references stay as they are.
        limit: as of :class:`StoredInputs`; 0: each row keeps its copy.
    """
    from verl_mars import store

    uses = Counter(id(one) for one in inputs if isinstance(one, dict) and one)
    shared = {
        id(one): one
        for one in inputs
        if limit
        and uses[id(one)] > 1
        and isinstance(one, Mapping)
        and all(hasattr(value, "nbytes") for value in one.values())
    }
    names = {number: name_of("view", one) for number, one in shared.items()}
    try:
        store.keep_all(PARTITION, {names[number]: one for number, one in shared.items()})
        yield [
            StoredInputs(names[id(one)], size_of(shared[id(one)]), limit, {}) if id(one) in shared else one
            for one in inputs
        ]
    finally:
        store.drop(PARTITION, list(dict.fromkeys(names.values())))


def fetch(wanted: StoredInputs) -> FieldDict:
    """The stored tensors of a reference.

    What no reference of this process names any more is dropped first. Then the tensors of all that it does name come in
    one request, or as many as fit below the limit.

    Raises:
        LostImages: something is missing, or is not what was stored under its name.
    """
    if wanted.name in _fetched:
        return _fetched[wanted.name]
    sizes = {reference.name: reference.size for reference in [*_references.values(), wanted]}
    for name in _fetched.keys() - sizes.keys():
        del _fetched[name]
    held = sum(sizes[name] for name in _fetched)
    if held + wanted.size > wanted.limit:
        _fetched.clear()
        held = 0
    names = list(sizes)
    place = names.index(wanted.name)
    missing: list[str] = []
    for name in (*names[place:], *names[:place]):  # those after the wanted one are read next, if not all fit
        if not missing or (name not in _fetched and held + sizes[name] <= wanted.limit):
            missing.append(name)
            held += sizes[name]
    _fetched.update(_read(missing))
    return _fetched[wanted.name]


def _read(names: list[str]) -> dict[str, FieldDict]:
    """Stored tensors by name, each compared with the digest in its name."""
    from verl_mars import store

    try:
        found = store.objects(PARTITION, names)
    except Exception as error:  # whatever the data plane raises: the run must end with a sentence
        raise LostImages(
            f"the visual inputs of {len(names)} prompts ({names[0]}, ...) cannot be read from the data plane. A "
            "storage process may have died: resume from the last checkpoint, or set data.images_once.enable=false to "
            f"keep a copy in every row. The data plane says: {error}"
        ) from error
    tensors = {name: dict(inputs) for name, inputs in zip(names, found, strict=True)}
    for name, inputs in tensors.items():
        if name_of(uid_of(name), inputs) != name:
            raise LostImages(
                f"the data plane returned visual inputs under the name {name} that are not those stored under it; "
                "training on them would be wrong. Resume from the last checkpoint, or set "
                "data.images_once.enable=false"
            )
    return tensors
