"""Settings: typed, frozen, refusing what they do not know.

A field either decides a stage's result, and then belongs to the artifact's fingerprint, or is
`operational` (threads, cadence of logging), and then does not.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gigagan_core.errors import GigaganError, nearest

SettingsT = TypeVar("SettingsT", bound="Settings")
_OPERATIONAL = {"operational": True}


class Settings(BaseModel):
    """Base of every settings class: unknown keys are refused, values are frozen, validated and finite (JSON has no
    infinity: a record would say null)."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


def operational(default: Any, **kwargs: Any) -> Any:
    """A pydantic field that says how the work is done, not what comes out; not in the fingerprint."""
    return Field(default, json_schema_extra=_OPERATIONAL, **kwargs)


def result_settings(settings: Any) -> Any:
    """The part of settings that decides the result, as JSON-able values.

    Takes a `Settings`, a dataclass, or plain values; leaves out `operational` pydantic fields and
    dataclass fields with ``metadata={"operational": True}``.
    """
    if isinstance(settings, BaseModel):
        return {
            name: result_settings(getattr(settings, name))
            for name, field in type(settings).model_fields.items()
            if not (isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("operational"))
        }
    if dataclasses.is_dataclass(settings) and not isinstance(settings, type):
        return {
            field.name: result_settings(getattr(settings, field.name))
            for field in dataclasses.fields(settings)
            if not field.metadata.get("operational")
        }
    if isinstance(settings, Mapping):
        return {str(key): result_settings(value) for key, value in settings.items()}
    if isinstance(settings, (list, tuple)):
        return [result_settings(value) for value in settings]
    if isinstance(settings, (set, frozenset)):
        return sorted(result_settings(value) for value in settings)
    if settings is None or isinstance(settings, (str, int, float, bool)):
        return settings
    return str(settings)


def all_settings(settings: Any) -> dict[str, Any]:
    """Every field, operational ones too, as JSON-able values: for records."""
    return json.loads(settings.model_dump_json())


def flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings as ``{"a.b": value}``: for MLflow's parameters and tables."""
    values = all_settings(settings) if isinstance(settings, BaseModel) else settings
    flattened: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flattened.update(flat(value, f"{prefix}{key}."))
        else:
            flattened[f"{prefix}{key}"] = value
    return flattened


def parse(settings_type: type[SettingsT], values: Mapping[str, Any], where: str) -> SettingsT:
    """Validated settings from plain values; the first problem becomes one sentence.

    where: what the values are, for the sentence, e.g. "--set" or a file's name.
    """
    try:
        return settings_type.model_validate(values)
    except ValidationError as error:
        raise GigaganError(f"{where}: {_first_problem(error, settings_type)}") from None


def with_overrides(settings: SettingsT, overrides: Iterable[str], where: str = "--set") -> SettingsT:
    """New settings with ``KEY=VALUE`` strings applied; KEY is dotted, VALUE is JSON or bare text.

    Raises GigaganError for an unknown key, naming the nearest valid one, or for a value that does not fit.
    """
    values = all_settings(settings)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise GigaganError(f"{where} {override!r} has no '='; write {where} KEY=VALUE")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        _replace(values, key.strip(), value, where, type(settings))
    return parse(type(settings), values, where)


def _replace(values: dict[str, Any], key: str, value: Any, where: str, kind: Any, path: str = "") -> None:
    """kind: what `values` are values of: a settings class, an annotation, or None where that is not known."""
    part, dot, rest = key.partition(".")
    free = typing.get_origin(kind) is dict
    if free and typing.get_args(kind)[1] is str:
        values[key] = value  # whole: names of hosts and labels have dots themselves
        return
    # An optional block that is not yet set has no key: the validation decides.
    if values and part not in values and not free:
        raise GigaganError(f"{where}: unknown key {path + part!r}; {nearest(part, values)}")
    if not dot:
        values[part] = value
        return
    if values.get(part) is None:
        values[part] = {}
    if not isinstance(values[part], dict):
        raise GigaganError(f"{where}: {path + part!r} is a single value and has no key {rest!r}")
    _replace(values[part], rest, value, where, _kind_at(kind, part), f"{path}{part}.")


def _kind_at(kind: Any, part: Any) -> Any:
    """The annotation of a field, None where it is not one class or dictionary."""
    if isinstance(kind, type) and issubclass(kind, BaseModel) and part in kind.model_fields:
        kind = kind.model_fields[part].annotation
    elif dataclasses.is_dataclass(kind):
        kind = typing.get_type_hints(kind).get(part)
    else:
        kind = None
    choices = [each for each in typing.get_args(kind) if each is not type(None)]
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return choices[0] if len(choices) == 1 else None
    return kind


def _first_problem(error: ValidationError, settings_type: type[BaseModel]) -> str:
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        valid = _fields_at(settings_type, problem["loc"][:-1])
        return f"unknown key {key!r}; {nearest(str(problem['loc'][-1]), valid)}"
    message = problem["msg"].removeprefix("Value error, ")
    if isinstance(problem["input"], dict):  # settings that do not go together: the message names them
        return f"{key or settings_type.__name__}: {message}"
    return f"{key or settings_type.__name__}: {message} (got {problem['input']!r:.200})"


def _fields_at(settings_type: Any, path: tuple[Any, ...]) -> list[str]:
    for part in path:
        settings_type = _kind_at(settings_type, part) or settings_type
    if isinstance(settings_type, type) and issubclass(settings_type, BaseModel):
        return list(settings_type.model_fields)
    if dataclasses.is_dataclass(settings_type):
        return [field.name for field in dataclasses.fields(settings_type)]
    return []
