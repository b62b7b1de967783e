"""Types of records from outside: rows of a file, JSON objects, chat messages, keyword arguments."""

from collections.abc import Mapping, Sequence
from typing import Any

Fields = Mapping[str, Any]
"""A record to read. Nobody has checked its values: check or convert each before you rely on its type."""

FieldDict = dict[str, Any]
"""The same as a dict, whose owner may fill or change it."""

Columns = Mapping[str, Sequence[Any]]
"""Many records by field: the values of each, one a record, as unchecked."""
