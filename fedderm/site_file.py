"""Which site a Flower node holds: its line of the experiment, or the file that a hospital wrote."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from fedderm.config_sentences import sentence_of
from fedderm.hospital.policy import LEAST_CELL, Policy
from fedderm.settings import Experiment
from sites.catalogue import Site

SITE_FILE = "site"
"""The key of a deployed node's ``--node-config`` that names its site file."""

TRUNK_FILE = "trunk"
"""The key of a deployed node's ``--node-config`` that names its file of a frozen trunk's weights."""


_POLICY = "policy"


class _SiteFile(BaseModel):
    site: list[Site]  # one; a list's entry is called by its name in a sentence
    policy: Policy = Policy()


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


def read_site_file(path: Path) -> Site:
    """Return the site a hospital describes in its own YAML file; its relative ``path`` starts at that file.

    Where it names no ``min_cell``, counts below LEAST_CELL do not leave. Raises ValueError naming file and
    key.
    """
    (site,) = _read(path).site
    if "min_cell" not in site.model_fields_set:
        site = site.model_copy(update={"min_cell": LEAST_CELL})
    return site if site.path is None else site.model_copy(update={"path": path.resolve().parent / site.path})


def read_policy(path: Path) -> Policy:
    """Return what the hospital lets out, by its site file; raises ValueError naming file and key."""
    return _read(path).policy


def _read(path: Path) -> _SiteFile:
    raw: Any = None
    try:
        described = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
        raw = {"site": [described]}
        if isinstance(described, dict) and _POLICY in described:
            site = {key: value for key, value in described.items() if key != _POLICY}
            raw = {"site": [site], _POLICY: described[_POLICY]}
        return _SiteFile.model_validate(raw)
    except OSError as error:
        raise ValueError(f"{path}: the site file cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8 text; expected a YAML site file") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        raise ValueError(f"{path}: {sentence_of(error.errors(), raw, _SiteFile)}") from error
