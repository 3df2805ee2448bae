"""What is wrong with a config, in sentences: dotted paths, site names, and the nearest valid key."""

import difflib
import json
import re
from collections.abc import Iterable
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

_NUMBER_AS_TEXT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+")

_EXPECTED = {
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "keys with values",
    "model_type": "keys with values",
    "model_attributes_type": "keys with values",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a text",
    "path_type": "a path",
    "too_short": "at least one entry",
    "string_pattern_mismatch": (
        "letters, digits, dots, dashes and underscores, beginning with a letter or digit"
    ),
}

_ENTRY_KEY = 3
"""Names in the place of a key of a list's entry: the list, the entry, the key."""


def sentence_of(
    details: Iterable[ErrorDetails], raw: Any, root: type[BaseModel], also: Iterable[str] = ()
) -> str:
    """Return pydantic's errors about ``raw``, a config of the model ``root``, as one sentence.

    Sites are called by name. Where a value could be one of several types, it is told once. ``also``: keys
    that may stand in an entry of the root's list, beside those of its model.
    """
    expected: dict[tuple[str, str], list[str]] = {}
    told: list[str] = []
    for detail in details:
        path, models = _readable(detail["loc"], raw, root)
        special = _special(detail, path, models, also if len(path) == _ENTRY_KEY else ())
        if special:
            told.append(special)
        else:
            key = (".".join(path) or "the config", _found(detail))
            expected.setdefault(key, []).append(_wanted(detail))
    told += [
        f"{path}: expected {' or '.join(dict.fromkeys(wanted))}; found {found}"
        for (path, found), wanted in expected.items()
    ]
    return "; ".join(dict.fromkeys(told))


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return `` (did you mean x?)``, or nothing where no valid name is near."""
    close = difflib.get_close_matches(name, [one for one in valid if one != "none"], n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _special(
    detail: ErrorDetails, path: list[str], models: list[type[BaseModel]], also: Iterable[str]
) -> str:
    """Return the sentence of an error that is not about a value's type or range, else nothing."""
    where, kind, value = ".".join(path), detail["type"], detail["input"]
    if kind == "extra_forbidden":
        valid = sorted({*also, *(field for model in models for field in model.model_fields)})
        return f"{where}: no such key{nearest(path[-1], valid)}; valid here: {', '.join(valid)}"
    if kind == "missing":
        return f"{where}: is missing; add it"
    if kind == "value_error":
        message = detail["msg"].removeprefix("Value error, ")
        return f"{where}: {message}" if where else message
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        tags = [tag for model in models if (tag := _tag(model)) is not None]
        found = str(detail.get("ctx", {}).get("tag", "nothing"))
        return f"{where}.source: expected one of {', '.join(tags)}; found {found}{nearest(found, tags)}"
    if kind in ("int_type", "float_type") and isinstance(value, str) and _NUMBER_AS_TEXT.fullmatch(value):
        return f"{where}: YAML reads {value} as text; write {_as_number(value, whole=kind == 'int_type')}"
    return ""


def _wanted(detail: ErrorDetails) -> str:
    message = detail["msg"].removeprefix("Input should be ")
    if message.startswith(("greater", "less")):
        return f"a number {message}"
    if detail["type"] in ("list_type", "tuple_type") and isinstance(detail["input"], str):
        return f"a list, such as [{detail['input']}]"
    return _EXPECTED.get(detail["type"], message.replace("'", ""))


def _found(detail: ErrorDetails) -> str:
    """Return what was written and, where it had to be one of several words, the nearest of them."""
    value = detail["input"]
    words = re.findall("'([^']*)'", detail["ctx"]["expected"]) if detail["type"] == "literal_error" else []
    return _shown(value) + (nearest(value, words) if isinstance(value, str) else "")


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:79]}…"


def _as_number(value: str, whole: bool) -> str:
    """Return how YAML 1.1 wants a number written that has an exponent but no point, or no sign."""
    if whole and float(value).is_integer():
        return f"{float(value):.0f}"
    mantissa, exponent = re.split("[eE]", value)
    sign = exponent if exponent[0] in "+-" else f"+{exponent}"
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}e{sign}, with a decimal point and a sign"


def _readable(
    loc: Iterable[int | str], raw: Any, root: type[BaseModel]
) -> tuple[list[str], list[type[BaseModel]]]:
    """Return the location in the user's words (site names for positions) and the models to look for keys in.

    These are the models that the last key stands in or, where the location ends in a list's entry, that the
    entry may be.
    """
    names: list[str] = []
    models: list[type[BaseModel]] = [root]
    parents = models
    node = raw
    for part in loc:
        if isinstance(part, int):
            node = node[part] if isinstance(node, list) and part < len(node) else None
            name = node.get("name") if isinstance(node, dict) else None
            names.append(str(name or part))
            parents = models
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
        annotation = pending.pop(0)
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            found.append(annotation)
        elif get_origin(annotation) in (Annotated, Union, UnionType, list, dict):
            pending += get_args(annotation)
    return found


def _tag(model: type[BaseModel]) -> str | None:
    field = model.model_fields.get("source")
    return str(get_args(field.annotation)[0]) if field is not None and get_args(field.annotation) else None
