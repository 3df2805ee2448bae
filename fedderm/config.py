"""From a YAML file and ``--set`` overrides to a validated :class:`Experiment`."""

import json
import math
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import ValidationError

from fedderm.config_sentences import nearest, sentence_of
from fedderm.settings import Experiment

_MERGE = "tag:yaml.org,2002:merge"
_JSON: Final[dict[int, str]] = {}
"""What ``to_json`` wrote of the experiments that are alive, by ``id``."""


class ConfigError(ValueError):
    """A config that cannot be used: file, dotted path, what was expected, found, and what to do."""


class StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader without two of YAML's traps.

    A key that stands twice would silently win over the first; ``no:`` and ``2024-01-01:`` would become
    ``false`` and a date.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping; raises ConfigError with the line of a key that stands twice."""
        seen: list[Any] = []
        for key_node, _ in node.value:
            if key_node.tag == _MERGE:
                continue
            line = key_node.start_mark.line + 1
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, bool) or not isinstance(key, str | int | float):
                written = getattr(key_node, "value", "")
                name = written if isinstance(written, str) else "this key"
                raise ConfigError(f"line {line}: YAML does not read {name} as a text; put it in quotes")
            if key in seen:
                raise ConfigError(f"line {line}: the key {key} stands twice; keep one")
            seen.append(key)
        return super().construct_mapping(node, deep)


def load(path: Path, overrides: Sequence[str] = (), data_root: Path | None = None) -> Experiment:
    """Return the experiment of a YAML file after ``key=value`` overrides.

    ``data_root`` replaces the file's. Raises ConfigError naming file and dotted path.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give the path of a config") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text; expected a YAML config") from error
    try:
        raw = _document(text)
        for override in overrides:
            _override(raw, override)
        if data_root is not None:
            raw["data_root"] = str(data_root)
        return parse(raw)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error.__cause__


def parse(raw: dict[str, Any]) -> Experiment:
    """Return the experiment described by plain YAML values; raises ConfigError with dotted paths."""
    try:
        for where, value in _leaves(raw, ()):
            # JSON, in which the config travels, has no word for them.
            if isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(f"{'.'.join(where)}: expected a finite number; found {value}")
        # JSON mode: strict about numbers, texts and booleans, and still takes a text for a path.
        return Experiment.model_validate_json(json.dumps(raw, default=str), strict=True)
    except ValidationError as error:
        raise ConfigError(sentence_of(error.errors(), raw, Experiment)) from error
    except RecursionError as error:
        raise ConfigError("an entry holds itself, or entries lie too deep in each other") from error


def dump(experiment: Experiment) -> str:
    """Return the resolved config as YAML, every default written out; :func:`parse` reads it back."""
    return yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def to_json(experiment: Experiment) -> str:
    """Return the experiment as JSON, for a message.

    Written once in an experiment's life: every message asks for it, and it grows with the number of sites.
    """
    key = id(experiment)
    if key not in _JSON:
        _JSON[key] = experiment.model_dump_json()
        weakref.finalize(experiment, _JSON.pop, key, None).atexit = False
    return _JSON[key]


def from_json(text: str) -> Experiment:
    """Return the experiment that :func:`to_json` wrote."""
    return Experiment.model_validate_json(text)


def _document(text: str) -> dict[str, Any]:
    raw = _yaml(text)
    if raw is None:
        raise ConfigError("is empty; expected keys such as name, rounds and sites")
    if not isinstance(raw, dict):
        found = "a list" if isinstance(raw, list) else "a single value"
        raise ConfigError(f"expected keys such as name, rounds and sites; found {found}")
    return raw


def _yaml(text: str) -> Any:
    try:
        return yaml.load(text, Loader=StrictLoader)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark is not None else ""
        problem = error.problem or error.context
        if problem and "'\\t'" in problem:
            problem = "a tab stands where a word should begin; use spaces"
        raise ConfigError(f"is not valid YAML ({line}{problem})") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"is not valid YAML ({str(error).splitlines()[0]})") from error
    except ValueError as error:  # PyYAML's own for a date such as 2024-13-01
        raise (
            error if isinstance(error, ConfigError) else ConfigError(f"is not valid YAML ({error})")
        ) from error
    except RecursionError as error:
        raise ConfigError("is not valid YAML: brackets lie too deep in each other") from error


def _override(raw: dict[str, Any], text: str) -> None:
    """Set ``a.b.c=value`` in place; a site may be named by its name: ``sites.vienna_dias.role=train``."""
    key, separator, written = text.partition("=")
    names = key.strip().split(".")
    if not separator or not all(names):
        raise ConfigError(f"--set {text}: expected key=value, such as training.learning_rate=0.001")
    try:
        value = _yaml(written)
    except ConfigError as error:
        raise ConfigError(f"--set {text}: the value {error}; put it in quotes") from error
    *parents, last = names
    node: Any = raw
    for depth, name in enumerate(parents):
        if isinstance(node, dict) and node.get(name) is None:
            node[name] = {}
        node = node[name] if isinstance(node, dict) else node[_position(node, parents[:depth], name, text)]
    if isinstance(node, dict):
        node[last] = value
    else:
        node[_position(node, parents, last, text)] = value


def _position(node: Any, parents: Sequence[str], name: str, text: str) -> int:
    """Return where in a list the entry stands that a person calls by its name, or by its number from 0."""
    if not isinstance(node, list):
        raise ConfigError(f"--set {text}: {'.'.join(parents)} is a value, it holds no {name}")
    names = [str(item.get("name")) for item in node if isinstance(item, dict)]
    for position, item in enumerate(node):
        if name == str(position) or (isinstance(item, dict) and str(item.get("name")) == name):
            return position
    raise ConfigError(f"--set {text}: no entry {name}; there are {', '.join(names)}{nearest(name, names)}")


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
