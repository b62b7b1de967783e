"""The base class of all settings, and the translation of pydantic's errors into sentences for users."""

import difflib
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from verl_mars.errors import SampleError, UserError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Model = TypeVar("Model", bound="Settings")
AnyModel = TypeVar("AnyModel", bound=BaseModel)
_MAX_SHOWN = 80


class Settings(BaseModel):
    """A section of settings: immutable, no unknown keys, no implicit conversion of types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @classmethod
    def from_mapping(cls: type[Model], values: object, where: str) -> Model:
        """Settings from a section of a configuration.

        Args:
            values: any mapping, OmegaConf's included; None stands for the defaults.
            where: dotted name of the section, as ``algorithm.mars``. Messages begin with it.

        Raises:
            UserError: unknown keys and impossible values, one line each.
        """
        if values is None:
            return cls()
        if not hasattr(values, "items"):
            raise UserError(f"{where} must be a mapping of settings, got {values!r}")
        try:
            return cls.model_validate(plain(values))
        except ValidationError as error:
            raise UserError("\n".join(fault.sentence for fault in faults(error, cls, where))) from None


def plain(value: object) -> object:
    """Mappings and sequences, OmegaConf's included, as dicts and lists."""
    if hasattr(value, "items"):
        return {key: plain(inner) for key, inner in value.items()}
    if hasattr(value, "__iter__") and not isinstance(value, str | bytes | BaseModel):
        return [plain(inner) for inner in value]
    return value


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a value: where, the value itself (empty if it says nothing), and why."""

    key: str
    value: str
    reason: str
    cause: Exception | None = None
    """The exception that a validator raised."""

    @property
    def sentence(self) -> str:
        """As ``algorithm.pgpo.tau = 2: Input should be less than or equal to 1``."""
        subject = " = ".join(filter(None, (self.key, self.value)))
        return f"{subject}: {self.reason}" if subject else self.reason


def faults(error: ValidationError, model: type[BaseModel] | None = None, where: str = "") -> list[Fault]:
    """Everything that a validation found, unknown keys first: a misspelt key often explains a missing one.

    Args:
        error: what pydantic raised.
        model: the model that was validated. With it, an unknown key is answered with the closest match and the keys
            that are allowed, and the branches of a union count as one fault.
        where: prefix of every key.
    """
    items = error.errors()
    by_place: dict[str, list[ErrorDetails]] = {}
    for item in sorted(items, key=lambda item: item["type"] != "extra_forbidden"):
        by_place.setdefault(_place(item, model)[0], []).append(item)
    return [_fault(".".join(filter(None, (where, place))), group, model) for place, group in by_place.items()]


def parsed(model: type[AnyModel], value: object, code: str = "record") -> AnyModel:
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


def _fault(key: str, items: "list[ErrorDetails]", model: type[BaseModel] | None) -> Fault:
    first = items[0]
    _, models = _place(first, model)
    if first["type"] == "extra_forbidden":
        return Fault(key, "", "unknown key" + _allowed(str(first["loc"][-1]), models))
    if first["type"] == "missing":
        return Fault(key, "", "is missing")
    reasons = list(dict.fromkeys(_reason(item, models) for item in items))
    reason = " or ".join([reasons[0], *(other.removeprefix("Input should be ") for other in reasons[1:])])
    value = "" if isinstance(first["input"], Mapping) else _shortened(repr(first["input"]))
    return Fault(key, value, reason, first.get("ctx", {}).get("error"))


def _reason(item: "ErrorDetails", models: set[type[BaseModel]]) -> str:
    if item["type"] == "model_type" and models:
        return f"Input should be an object with {', '.join(_keys(models))}"
    if item["type"] == "string_too_short" and not item["input"]:
        return "Input should be a text that is not empty"
    return str(item["msg"]).removeprefix("Value error, ")


def _allowed(key: str, models: set[type[BaseModel]]) -> str:
    keys = _keys(models)
    near = difflib.get_close_matches(key, keys, n=1)
    return (f"; did you mean {near[0]!r}?" if near else "") + (f"; allowed: {', '.join(keys)}" if keys else "")


def _keys(models: set[type[BaseModel]]) -> list[str]:
    ordered = sorted(models, key=lambda model: model.__name__)
    return list(dict.fromkeys(info.alias or name for model in ordered for name, info in model.model_fields.items()))


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."


def _place(item: "ErrorDetails", model: type[BaseModel] | None) -> tuple[str, set[type[BaseModel]]]:
    """Where a fault is, as ``sources[0].images``, and the models whose keys are allowed there.

    pydantic also names the branches of a union that it tried, which are no keys of the value. Without the model they
    cannot be told from keys, and stay.
    """
    place = ""
    models = set() if model is None else {model}
    for position, part in enumerate(item["loc"]):
        if isinstance(part, int):
            place += f"[{part}]"
            continue
        inside = [_models_in(annotation) for owner in models for annotation in _annotations(owner, part)]
        is_key = bool(inside) or (item["type"] == "extra_forbidden" and position == len(item["loc"]) - 1)
        if is_key or model is None:
            place += f".{part}" if place else part
        if inside:
            models = set().union(*inside)
    return place, models


def _annotations(model: type[BaseModel], key: str) -> list[object]:
    """The type of a key; none if the model does not have it."""
    return [info.annotation for name, info in model.model_fields.items() if key in (name, info.alias)]


def _models_in(annotation: object) -> set[type[BaseModel]]:
    """The models that a type holds, at any depth."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation}
    return set().union(*map(_models_in, typing.get_args(annotation)))
