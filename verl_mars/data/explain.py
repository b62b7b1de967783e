"""What pydantic refuses, as one sentence for the person who wrote the record."""

import difflib
import typing
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from verl_mars.data.faults import SampleError

Model = TypeVar("Model", bound=BaseModel)
_SHOWN = 80


def parsed(model: type[Model], value: Any, code: str = "record") -> Model:
    """The value as this model.

    Raises:
        SampleError: it does not fit; the message says which key, and what is allowed.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise explain(error, code, model=model) from error


def explain(error: ValueError, code: str, hint: str = "", model: type[BaseModel] | None = None) -> SampleError:
    """A pydantic error as one readable sentence; keeps the code of a :class:`SampleError` inside it.

    With the model, a key that it does not know is told with the one that is meant, or with those it knows.
    """
    if isinstance(error, SampleError):
        return error
    if not isinstance(error, ValidationError):
        return SampleError(code, str(error))
    found: list[Any] = error.errors()
    # A key with a slip of the pen in it is missing too: what was written says more than what was not
    first = next((item for item in found if item["type"] == "extra_forbidden"), found[0])
    where, models = _place(first, model)
    inner = first.get("ctx", {}).get("error")
    if isinstance(inner, SampleError):
        return SampleError(inner.code, inner.problem.message, ".".join(filter(None, (where, inner.problem.key))))
    if first["type"] == "extra_forbidden":
        text = "there is no such key" + _allowed(str(first["loc"][-1]), models)
    elif first["type"] == "missing":
        text = "is missing"
    else:
        branches = [item for item in found if _place(item, model)[0] == where]  # of a union, if there is one
        told = list(dict.fromkeys(_message(item, models) for item in branches))
        text = " or ".join([told[0], *(other.removeprefix("Input should be ") for other in told[1:])])
        text += f", given {str(first['input'])[:_SHOWN]!r}"
    return SampleError(code, text + (f"; {hint}" if hint else ""), where)


def _message(item: Any, models: set[type[BaseModel]]) -> str:
    if item["type"] == "model_type" and models:
        return f"Input should be an object with {', '.join(_keys(models))}"
    return str(item["msg"]).removeprefix("Value error, ")


def _allowed(key: str, models: set[type[BaseModel]]) -> str:
    near = difflib.get_close_matches(key, _keys(models), n=1)
    if near:
        return f"; {near[0]!r} may be meant"
    return f"; allowed: {', '.join(_keys(models))}" if models else ""


def _keys(models: set[type[BaseModel]]) -> list[str]:
    ordered = sorted(models, key=lambda model: model.__name__)
    return list(dict.fromkeys(info.alias or name for model in ordered for name, info in model.model_fields.items()))


def _place(item: Any, model: type[BaseModel] | None) -> tuple[str, set[type[BaseModel]]]:
    """Where a fault is, as ``sources[0].images``, and the models whose keys are allowed there.

    pydantic also names the branches of a union that it tried, which are no place in the record. Without the model they
    cannot be told from keys, and stay.
    """
    where = ""
    models = set() if model is None else {model}
    for position, part in enumerate(item["loc"]):
        if isinstance(part, int):
            where += f"[{part}]"
            continue
        inside = [_models_in(annotation) for owner in models for annotation in _annotations(owner, part)]
        is_key = bool(inside) or (item["type"] == "extra_forbidden" and position == len(item["loc"]) - 1)
        if is_key or model is None:
            where += f".{part}" if where else part
        if inside:
            models = set().union(*inside)
    return where, models


def _annotations(model: type[BaseModel], key: str) -> list[Any]:
    """The type of a key; none where the model does not know it."""
    return [info.annotation for name, info in model.model_fields.items() if key in (name, info.alias)]


def _models_in(annotation: Any) -> set[type[BaseModel]]:
    """The models that a type holds, at any depth."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation}
    return set().union(*map(_models_in, typing.get_args(annotation)))
