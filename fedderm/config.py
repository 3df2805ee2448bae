"""From a YAML file and ``--set`` overrides to a validated :class:`Experiment`, with errors a person can act on."""

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from fedderm.settings import Experiment

_NUMBER_AS_TEXT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+")


_PLAIN_TYPES = {
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "keys with values",
    "model_type": "keys with values",
    "model_attributes_type": "keys with values",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a text",
    "path_type": "a path",
    "too_short": "at least one entry",
    "string_pattern_mismatch": "letters, digits, dots, dashes and underscores, beginning with a letter or digit",
}


class ConfigError(ValueError):
    """A config that cannot be used: file, dotted path, what was expected, found, and what to do."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, refusing a key that stands twice (it would silently win)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for position, key in enumerate(keys):
            if key in keys[:position]:
                line = node.value[position][0].start_mark.line + 1
                raise ConfigError(f"line {line}: the key {key} stands twice; keep one")
        return super().construct_mapping(node, deep)


def load(path: Path, overrides: Sequence[str] = (), data_root: Path | None = None) -> Experiment:
    """Return the experiment of a YAML file after ``key=value`` overrides.

    ``data_root`` replaces the file's. Raises ConfigError naming file and dotted path.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give the path of a config") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text; expected a YAML config") from error
    try:
        raw = _parse(text)
        for override in overrides:
            _override(raw, override)
        if data_root is not None:
            raw["data_root"] = str(data_root)
        return parse(raw)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error.__cause__


def parse(raw: dict[str, Any]) -> Experiment:
    """Return the experiment described by plain YAML values; raises ConfigError with dotted paths."""
    for where, value in _leaves(raw, ()):
        if isinstance(value, str) and _NUMBER_AS_TEXT.fullmatch(value):
            raise ConfigError(
                f"{'.'.join(where)}: YAML reads {value} as text; write it with a decimal point and a sign "
                f"({_with_point(value)}) or as {float(value):g}"
            )
    try:
        # JSON mode: strict about numbers, texts and booleans, and still takes a text for a path.
        return Experiment.model_validate_json(json.dumps(raw, default=str), strict=True)
    except ValidationError as error:
        raise ConfigError("; ".join(_sentence(detail, raw) for detail in error.errors())) from error


def dump(experiment: Experiment) -> str:
    """Return the resolved config as YAML, every default written out; :func:`parse` reads it back."""
    return yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def to_json(experiment: Experiment) -> str:
    """Return the experiment as JSON, for a message."""
    return experiment.model_dump_json()


def from_json(text: str) -> Experiment:
    """Return the experiment that :func:`to_json` wrote."""
    return Experiment.model_validate_json(text)


def _parse(text: str) -> dict[str, Any]:
    try:
        raw = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"expected keys such as name, rounds and sites; found {type(raw).__name__}")
    return raw


def _override(raw: dict[str, Any], text: str) -> None:
    """Set ``a.b.c=value`` in place; a site may be named by its name: ``sites.vienna_dias.role=train``."""
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"--set {text}: expected key=value, such as training.learning_rate=0.001")
    *parents, last = key.strip().split(".")
    node: Any = raw
    for name in parents:
        if isinstance(node, dict) and node.get(name) is None:
            node[name] = {}
        node = node[name] if isinstance(node, dict) else _item(node, name, text)
    if isinstance(node, list):
        node[node.index(_item(node, last, text))] = yaml.load(value, Loader=_Loader)
    elif isinstance(node, dict):
        node[last] = yaml.load(value, Loader=_Loader)
    else:
        raise ConfigError(f"--set {text}: {'.'.join(parents)} is a value, not a section")


def _item(node: Any, name: str, text: str) -> Any:
    if not isinstance(node, list):
        raise ConfigError(f"--set {text}: {name} lies below a value, not a section")
    for position, item in enumerate(node):
        if name == str(position) or (isinstance(item, dict) and item.get("name") == name):
            return item
    names = [str(item.get("name")) for item in node if isinstance(item, dict)]
    raise ConfigError(f"--set {text}: no entry {name}; there are {', '.join(names)}{_nearest(name, names)}")


def _leaves(value: Any, where: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, (*where, str(key)))
    elif isinstance(value, list):
        for position, inner in enumerate(value):
            name = inner.get("name") if isinstance(inner, dict) else None
            yield from _leaves(inner, (*where, str(name or position)))
    else:
        yield where, value


def _with_point(value: str) -> str:
    mantissa, exponent = re.split("[eE]", value)
    sign = exponent if exponent[0] in "+-" else f"+{exponent}"
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}e{sign}"


def _sentence(detail: ErrorDetails, raw: dict[str, Any]) -> str:
    """Return one sentence for one of pydantic's errors."""
    where, models = _readable(detail["loc"], raw)
    path = ".".join(where)
    if detail["type"] == "extra_forbidden":
        valid = sorted({field for model in models for field in model.model_fields})
        return f"{path}: no such key{_nearest(where[-1], valid)}; valid here: {', '.join(valid)}"
    if detail["type"] == "missing":
        return f"{path}: is missing; add it"
    message = _PLAIN_TYPES.get(detail["type"]) or detail["msg"].removeprefix("Value error, ").removeprefix(
        "Input should be "
    )
    if detail["type"] == "value_error":
        return f"{path}: {message}" if path else message
    if detail["type"] in ("union_tag_invalid", "union_tag_not_found"):
        tags = str(detail.get("ctx", {}).get("expected_tags", "")).replace("'", "")
        found = detail.get("ctx", {}).get("tag", "nothing")
        return f"{path}.source: expected one of {tags}; found {found}{_nearest(str(found), tags.split(', '))}"
    return f"{path}: expected {message}; found {json.dumps(detail['input'], default=str)[:80]}"


def _readable(loc: Iterable[int | str], raw: Any) -> tuple[list[str], list[type[BaseModel]]]:
    """Return the location in the user's words (site names for positions) and the models that the last key is in."""
    names: list[str] = []
    models: list[type[BaseModel]] = [Experiment]
    parents = models
    node = raw
    for part in loc:
        if isinstance(part, int):
            node = node[part] if isinstance(node, list) and part < len(node) else None
            name = node.get("name") if isinstance(node, dict) else None
            names.append(str(name or part))
        elif part in (node if isinstance(node, dict) else ()) or any(part in m.model_fields for m in models):
            parents = models
            models = [inner for m in models if part in m.model_fields for inner in _models(m, part)]
            node = node.get(part) if isinstance(node, dict) else None
            names.append(part)
        else:  # a union's member, which the user has not written: the source's name, or a type's
            models = [m for m in models if _tag(m) in (part, None)]
            parents = models
    return names, parents


def _models(model: type[BaseModel], field: str) -> list[type[BaseModel]]:
    """Return the settings models inside a field's annotation."""
    found: list[type[BaseModel]] = []
    pending: list[Any] = [model.model_fields[field].annotation]
    while pending:
        annotation = pending.pop()
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            found.append(annotation)
        elif get_origin(annotation) in (Annotated, Union, UnionType, list, dict):
            pending += get_args(annotation)
    return found


def _tag(model: type[BaseModel]) -> str | None:
    field = model.model_fields.get("source")
    return str(get_args(field.annotation)[0]) if field is not None and get_args(field.annotation) else None


def _nearest(name: str, valid: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(valid), n=1)
    return f" (did you mean {close[0]}?)" if close else ""
