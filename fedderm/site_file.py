"""Which site a Flower node holds, and where: a line of the experiment, or a hospital's own file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from fedderm.config import ConfigError, StrictLoader
from fedderm.config_sentences import sentence_of
from fedderm.hospital.policy import LEAST_CELL, Policy
from fedderm.model.names import FUSED
from fedderm.settings import Experiment
from sites.catalogue import Site

SITE_FILE = "site"
"""The key of a deployed node's ``--node-config`` that names its site file."""


class Home(BaseModel):
    """Where a hospital's files lie: keys of its site file, beside those of the site."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data_root: Path | None = None
    """Where the sources' folders lie; a site with a ``path`` of its own needs none."""
    work_dir: Path = Path(".fedderm")
    """Pixel and feature caches, and what the site keeps of unfinished runs."""
    trunk: Path | None = None
    """The hospital's own copy of a frozen trunk's weights, for experiments that ask for a file."""


class _Rules(BaseModel):
    policy: Policy = Policy()


class _SiteFile(BaseModel):
    site: list[Site]  # one; a list's entry is called by its name in a sentence


Part = TypeVar("Part", bound=BaseModel)


def site_of_node(experiment: Experiment, node_config: Mapping[str, Any]) -> Site:
    """Return the site that a Flower node holds.

    A deployed node reads the site file its node config names; a simulated one takes its own line of the
    experiment's ``sites``. Raises ValueError where neither can be done.
    """
    if SITE_FILE in node_config:
        return read_site_file(Path(str(node_config[SITE_FILE])))
    position = int(str(node_config.get("partition-id", -1)))
    if not 0 <= position < len(experiment.sites):
        raise ValueError(
            f"this node has partition {position} but the experiment lists {len(experiment.sites)} sites; "
            "start as many nodes as sites, or give the node its site file "
            "(--node-config 'site=\"/path/site.yaml\"')"
        )
    return experiment.sites[position]


def is_site_file(path: Path) -> bool:
    """Return whether a YAML file describes one site rather than an experiment; not, where it is no YAML."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return False
    return isinstance(raw, dict) and "source" in raw and "sites" not in raw


def at_home(experiment: Experiment, node_config: Mapping[str, Any]) -> Experiment:
    """Return the experiment as this node works on it: at a hospital, places are those of its own site file.

    A server must not choose what is read or written on a hospital's machine. Raises ValueError where the
    experiment needs a file of weights and the site file names none.
    """
    if SITE_FILE not in node_config:
        return experiment
    path = Path(str(node_config[SITE_FILE]))
    home = read_home(path)
    own: dict[str, Any] = {"data_root": home.data_root, "work_dir": home.work_dir}
    weights = set(experiment.model.pretrained.split(FUSED))
    needs_file = experiment.training.trunk != "trained" and not weights <= {"none", "package"}
    if needs_file:
        if home.trunk is None:
            raise ValueError(
                f"site {read_site_file(path).name}: the frozen trunk's weights come from a file; name your "
                f"copy of it in {path.name} (trunk: /path/weights.safetensors)"
            )
        own["model"] = experiment.model.model_copy(update={"pretrained": str(home.trunk)})
    return experiment.model_copy(update=own)


def read_site_file(path: Path) -> Site:
    """Return the site a hospital describes in its own YAML file; its relative ``path`` starts at that file.

    Where it names no ``min_cell``, counts below LEAST_CELL do not leave. Raises ValueError naming file and
    key.
    """
    raw = _read(path)
    if isinstance(raw, dict) and isinstance(raw.get("sites"), list):
        raise ValueError(
            f"{path}: holds a list of sites, as a config does; a site file is one site: write its keys at "
            "the top, without sites: and the dash"
        )
    document = {"site": [_without(raw, Home, _Rules) if isinstance(raw, dict) else raw]}
    try:
        (site,) = _SiteFile.model_validate(document).site
    except ValidationError as error:
        beside = (*Home.model_fields, *_Rules.model_fields)
        said = sentence_of(error.errors(), document, _SiteFile, beside)
        raise ValueError(f"{path}: {said}") from error
    if "min_cell" not in site.model_fields_set:
        site = site.model_copy(update={"min_cell": LEAST_CELL})
    return site if site.path is None else site.model_copy(update={"path": path.resolve().parent / site.path})


def read_home(path: Path) -> Home:
    """Return where a hospital's files lie; relative paths start at its site file.

    Raises ValueError naming file and key.
    """
    home = _part(path, Home)
    folder = path.resolve().parent
    places = {key: folder / place for key, place in home if place is not None}
    return home.model_copy(update=places)


def read_policy(path: Path) -> Policy:
    """Return what leaves the hospital, by its site file; raises ValueError naming file and key."""
    return _part(path, _Rules).policy


def _part(path: Path, part: type[Part]) -> Part:
    """Return the keys of a site file that are ``part``'s."""
    raw = _read(path)
    named = {key: raw[key] for key in part.model_fields if key in raw} if isinstance(raw, dict) else {}
    try:
        return part.model_validate(named)
    except ValidationError as error:
        raise ValueError(f"{path}: {sentence_of(error.errors(), named, part)}") from error


def _without(raw: dict[Any, Any], *parts: type[BaseModel]) -> dict[Any, Any]:
    return {key: value for key, value in raw.items() if not any(key in one.model_fields for one in parts)}


def _read(path: Path) -> Any:
    try:
        found = yaml.load(path.read_text(encoding="utf-8-sig"), StrictLoader)
    except ConfigError as error:  # such as a policy that stands twice, of which the looser one would win
        raise ValueError(f"{path}: {error}") from error
    except OSError as error:
        raise ValueError(f"{path}: the site file cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8 text; expected a YAML site file") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from error
    if found is None:
        raise ValueError(f"{path}: is empty; expected a site file, such as the one of the join kit")
    return found
