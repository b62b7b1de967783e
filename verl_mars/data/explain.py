"""Pydantic's errors as the :class:`SampleError` of a record."""

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from verl_mars.config import faults
from verl_mars.data.faults import SampleError

Model = TypeVar("Model", bound=BaseModel)


def parsed(model: type[Model], value: Any, code: str = "record") -> Model:
    """The value as this model.

    Raises:
        SampleError: it does not fit; the message names the key and what is allowed.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise explain(error, code, model=model) from error


def explain(error: ValueError, code: str, hint: str = "", model: type[BaseModel] | None = None) -> SampleError:
    """The first fault of a validation as a :class:`SampleError`; keeps the code of a ``SampleError`` inside it."""
    if isinstance(error, SampleError):
        return error
    if not isinstance(error, ValidationError):
        return SampleError(code, str(error))
    first = faults(error, model)[0]
    if isinstance(first.cause, SampleError):
        inner = first.cause.problem
        return SampleError(inner.code, inner.message, ".".join(filter(None, (first.key, inner.key))))
    text = first.reason + (f", given {first.value}" if first.value else "") + (f"; {hint}" if hint else "")
    return SampleError(code, text, first.key)
