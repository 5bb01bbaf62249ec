"""Dataclasses as a strict schema of nested values: every key exists, every value has its field's type.

    config = build(TrainConfig, {"max_steps": 100, "optim": {"learning_rate": "5e-5"}})

A field can carry marks: `was("lr", 1e-3)` is a field that had another name, which is now an error that names
the new one; with `took("size")` it is a dictionary that the field `size` moved into; with `fixed=True` it
cannot change from one start of a run to the next without making it another run (`differences`).
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

T = TypeVar("T")
SCALE = "_lr_scale"  # the end of every key that multiplies optim.learning_rate
SMALLEST_SCALE = 1e-3


class ConfigError(ValueError):
    """A field that does not exist, has another type, or is out of range."""


FIXED = {"fixed": True}  # metadata of a field that a run keeps for good


def was(former: str, default: Any, *, fixed: bool = False) -> Any:
    """A field of a config that was called `former`.

    Args:
        former: the old key, now an error that names the new one.
        default: of the field.
        fixed: whether a run keeps the value for good.
    """
    return dataclasses.field(default=default, metadata={"was": former, "fixed": fixed})


def took(*former: str) -> dict[str, Any]:
    """Metadata of a dictionary that took in the fields next to it that were called `former`."""
    return {"took": former}


def fixed(default: Any) -> Any:
    """A field of a config, with its default, that a run keeps for good."""
    return dataclasses.field(default=default, metadata=FIXED)


def require(holds: bool, name: str, value: Any, expected: str) -> None:
    """Raise ConfigError unless `holds`.

    Args:
        holds: the condition.
        name: the whole key.
        value: what was given.
        expected: completes "expected ...".
    """
    if not holds:
        raise ConfigError(f"{name} is {value!r}, expected {expected}")


def read_values(name: str, overrides: Sequence[str], folder: Traversable) -> dict[str, Any]:
    """Nested values of a YAML file with overrides applied; nothing is checked.

    Args:
        name: a file of `folder` without its .yaml, or a path.
        overrides: `key=value` each, the value in YAML.
        folder: the package's configs.

    Raises:
        ConfigError: no such config, or what is no YAML.
    """
    known = sorted(path.name[:-5] for path in folder.iterdir() if path.name.endswith(".yaml"))
    file = folder / f"{name}.yaml" if name in known else Path(name)
    if not file.is_file():
        raise ConfigError(
            f"no config {name!r}: give a file, or one of {', '.join(known)}{nearest(name, known)}"
        )
    values = _yaml(file.read_bytes(), f"{name}.yaml is not" if name in known else f"{name} is not") or {}
    if not isinstance(values, dict):
        raise ConfigError(f"{name} holds {values!r:.60}, expected fields with values")
    for override in overrides:
        _apply(values, override)
    return values


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(
            f"{override!r} is no override: write key=value, for instance optim.learning_rate=5e-5"
        )
    *path, last = key.strip().split(".")
    for part in path:
        inner = values.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{key}: {part} is {inner!r}, it has no fields")
        values = inner
    values[last] = _yaml(text, f"{override!r} is not a value in")


def _yaml(text: str | bytes, what: str) -> Any:
    """What a text says. Besides its own errors PyYAML lets those through of what makes the values: of a date
    that is none, a number without digits, lists nested too deep."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{what} YAML: {error}") from error


def build(cls: type[T], values: Mapping[str, Any]) -> T:
    """The dataclass `cls`, and those inside it, from nested dictionaries.

    Raises:
        ConfigError: a key that does not exist, with the nearest that does or its new name, or a value of
            another type.
    """
    return _build(cls, values, "", cls)


def _build(cls: type, values: Any, at: str, root: type) -> Any:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{at or 'the config'} is {values!r}, expected fields of {cls.__name__}")
    kinds = {field.name: kind for field, kind, _ in _fields(cls)}
    renamed = {old: new for field, *_ in _fields(cls) for old, new in _renamed(field).items()}
    for key in values:
        if key in renamed:
            raise ConfigError(f"{_join(at, key)} is now called {_join(at, renamed[key])}")
        if key not in kinds:
            raise ConfigError(
                f"unknown key {_join(at, key)}{nearest(_join(at, key), _former_keys(root))}; "
                f"{at or 'the config'} has {', '.join(kinds)}"
            )
    return cls(**{key: _convert(kinds[key], value, _join(at, key), root) for key, value in values.items()})


def _convert(kind: Any, value: Any, at: str, root: type) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _build(typing.cast(type, kind), value, at, root)
    if origin is Literal:
        if value not in arguments:
            near = nearest(str(value), [str(a) for a in arguments])
            raise ConfigError(f"{at} is {value!r}, expected one of {', '.join(map(str, arguments))}{near}")
        return value
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _convert(arguments[0], value, at, root)
    if origin is list:
        if not isinstance(value, list):
            raise ConfigError(f"{at} is {value!r}, expected a list such as [..., ...]")
        return [_convert(arguments[0], v, f"{at}[{i}]", root) for i, v in enumerate(value)]
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{at} is {value!r}, expected names with values")
        return {str(k): _convert(arguments[1], v, f"{at}.{k}", root) for k, v in value.items()}
    if kind is Any:
        return value
    if kind is float and isinstance(value, str):  # YAML 1.1 reads 5e-5, without a point, as text
        try:
            return float(value)
        except ValueError:
            pass
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is int and isinstance(value, float | str):  # 13e9 is a number of samples
        try:
            if float(value).is_integer():
                return int(float(value))
        except (ValueError, OverflowError):
            pass
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError(f"{at} is {value!r} ({type(value).__name__}), expected {kind.__name__}")
    return value


def _join(at: str, key: str) -> str:
    return f"{at}.{key}" if at else str(key)


def nearest(name: str, known: Sequence[str] | Mapping[str, str]) -> str:
    """` (did you mean ...?)`: the known key whose last part is most alike, of the same section if there are
    several; also initials for a name, and keys that stand in another section.

    Args:
        name: the key that does not exist.
        known: those that do; a dictionary has former names besides, and what they are called now.
    """
    section, _, last = name.rpartition(".")
    initials = "".join(word[:1] for word in last.split("_"))

    def likeness(key: str) -> float:
        other_section, _, other = key.rpartition(".")
        alike = difflib.SequenceMatcher(None, last, other).ratio()
        alike = max(alike, 0.9 if len(initials) > 1 and initials == other else 0.0)
        return alike + 0.1 * (section == other_section)

    best = max(known, key=likeness, default=None)
    if best is None or likeness(best) <= 0.6:
        return ""
    return f" (did you mean {known[best] if isinstance(known, Mapping) else best}?)"


def every_key(cls: type) -> list[str]:
    """The keys of a dataclass and of those in it; names that a user gives are NAME."""
    return [key for key, now in _former_keys(cls).items() if key == now]


def _former_keys(cls: type, at: str = "") -> dict[str, str]:
    """Every key that is, or was -> what it is called now."""
    found: dict[str, str] = {}
    for field, kind, inner in _fields(cls):
        key = _join(at, field.name)
        found[key] = key
        found |= {_join(at, old): _join(at, new) for old, new in _renamed(field).items()}
        if inner is not None:
            found |= _former_keys(inner, key if inner is kind else f"{key}.NAME")
    return found


def _renamed(field: Any) -> dict[str, str]:
    """Former key -> what it is called now, of one field."""
    found = {old: f"{field.name}.{old}" for old in field.metadata.get("took", ())}
    return found | ({field.metadata["was"]: field.name} if "was" in field.metadata else {})


def _fields(cls: type) -> Iterator[tuple[Any, Any, type | None]]:
    """(field, its type, the dataclass in it: the type itself, or that of a dictionary's values)."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        kind = hints[field.name]
        inner = typing.get_args(kind)[-1] if typing.get_origin(kind) is dict else kind
        yield field, kind, typing.cast(type, inner) if dataclasses.is_dataclass(inner) else None


def check_scales(values: Mapping[str, Any], learning_rate: float) -> None:
    """Raise ConfigError for a `*_lr_scale` that was meant as a rate: it would train next to nothing.

    Args:
        values: nested values of a config.
        learning_rate: what the scales multiply.
    """
    for key, value in flat(values).items():
        if key.endswith(SCALE) and value and value < SMALLEST_SCALE:
            raise ConfigError(
                f"{key} is {value:g}, expected 0 or at least {SMALLEST_SCALE:g}: it multiplies "
                f"optim.learning_rate, {learning_rate:g}; for a rate of {value:g} give "
                f"{value / learning_rate:g}"
            )


def flat(values: Mapping[str, Any], at: str = "") -> dict[str, Any]:
    """Nested values as one dictionary with keys such as `optim.learning_rate`."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{at}{key}.") if isinstance(value, Mapping) else {f"{at}{key}": value}
    return found


def changes(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Every value that differs between two configs, but for the folder, as `key = old, now new`. What only
    one of them has is of another version.

    Args:
        saved: nested values.
        now: nested values.
    """
    old, new = flat(saved), flat(now)
    return _changed(old, new, [key for key in new if key != "out" and key in old])


def differences(cls: type, saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The fixed fields that differ between two configs of one class, as `key = old, now new`.

    Args:
        cls: the class of both.
        saved: nested values, perhaps under former keys.
        now: nested values.
    """
    old, new = _fixed_values(cls, saved), _fixed_values(cls, now)
    return _changed(old, new, sorted(old.keys() | new.keys()))


def _changed(old: Mapping[str, Any], new: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    return [f"{key} = {old.get(key)!r}, now {new.get(key)!r}" for key in keys if old.get(key) != new.get(key)]


def _fixed_values(cls: type, values: Mapping[str, Any], at: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field, kind, inner in _fields(cls):
        key, value = _join(at, field.name), values.get(field.name, values.get(field.metadata.get("was")))
        if field.metadata.get("fixed"):
            found |= flat({key: value})
        elif inner is not None:
            parts = (
                {key: value} if inner is kind else {f"{key}.{name}": v for name, v in (value or {}).items()}
            )
            for place, part in parts.items():
                found |= _fixed_values(inner, part or {}, place)
    return found
