"""What a row hands to tools and interactions beside its images, and what a session of one source may hand to them.

verl's agent loops take both from ``extra_info``. A zoom tool that gets every image there would show them to a session
that must see one source, so a source says what its tools get, or the row is refused.
"""

import json
from collections.abc import Mapping

from verl_mars.fields import FieldDict, Fields

TOOL_KEYS = ("tools_kwargs", "interaction_kwargs")
"""Keys of ``extra_info``, which verl's data set copies into the row."""


def given_to_tools(kwargs: object) -> bool:
    """Whether ``tools_kwargs`` or ``interaction_kwargs`` of a row hold anything; Parquet fills structs with nulls."""
    return isinstance(kwargs, Mapping) and any(value is not None for value in kwargs.values())


def tools_of_session(row: Fields, source: object, view: str) -> FieldDict:
    """The fields of a session's row that tools and interactions get, as the source has them.

    Args:
        row: the fused row.
        source: with a JSON text or None under each of :data:`TOOL_KEYS`; None: the view shows several sources.
        view: its name, for the message.

    Raises:
        ValueError: the row hands something to tools, and the source does not say what they get instead.
    """
    changed: FieldDict = {}
    for key in TOOL_KEYS:
        own = None if source is None else getattr(source, key)
        extra = row.get("extra_info")
        given = row.get(key), extra.get(key) if isinstance(extra, Mapping) else None
        if own is not None:
            changed[key] = json.loads(own)
        elif any(map(given_to_tools, given)):
            raise ValueError(
                f"the row's {key} may show a tool more than {view}: write sources[].{key}, a JSON object in its place"
            )
    if changed and isinstance(row.get("extra_info"), Mapping):
        changed["extra_info"] = dict(row["extra_info"], **changed)
    return changed
