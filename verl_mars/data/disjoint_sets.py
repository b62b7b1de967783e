"""Groups of samples that share something and must not be split."""

from collections.abc import Hashable, Iterable


class SharedGroups:
    """Samples that share a key, directly or through others, form one group (disjoint sets)."""

    def __init__(self) -> None:
        self._parent: dict[Hashable, Hashable] = {}

    def join(self, keys: Iterable[Hashable]) -> None:
        """All these keys belong together."""
        roots = [self.find(key) for key in keys]
        for root in roots[1:]:
            self._parent[root] = roots[0]

    def find(self, key: Hashable) -> Hashable:
        """The key that stands for the group of ``key``: the first that was seen of it."""
        parent = self._parent.setdefault(key, key)
        while parent != self._parent[parent]:
            self._parent[parent] = self._parent[self._parent[parent]]
            parent = self._parent[parent]
        self._parent[key] = parent
        return parent
