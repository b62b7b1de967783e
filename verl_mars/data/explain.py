"""Pydantic's errors as the :class:`SampleError` of a record."""

from verl_mars.config import explain, parsed

__all__ = ["explain", "parsed"]
