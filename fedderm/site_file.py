"""Which site a Flower node holds: its line of the experiment, or the file that a hospital wrote."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from fedderm.config_sentences import sentence_of
from fedderm.settings import Experiment
from sites.catalogue import Site

SITE_FILE = "site"
"""The key of a deployed node's ``--node-config`` that names its site file."""

TRUNK_FILE = "trunk"
"""The key of a deployed node's ``--node-config`` that names its file of a frozen trunk's weights."""


class _SiteFile(BaseModel):
    site: list[Site]  # one; a list's entry is called by its name in a sentence


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


def with_own_weights(experiment: Experiment, name: str, node_config: Mapping[str, Any]) -> Experiment:
    """Return the experiment with the path of the frozen trunk's weights on this machine.

    A server must not choose what is read on a hospital's machine, which names its file itself. Raises
    ValueError where site ``name`` has not.
    """
    needs_file = experiment.training.trunk != "trained" and experiment.model.pretrained not in (
        "none",
        "package",
    )
    if SITE_FILE not in node_config or not needs_file:
        return experiment
    if TRUNK_FILE not in node_config:
        raise ValueError(
            f"site {name}: the frozen trunk's weights come from a file; name your copy of it "
            '(--node-config \'site="/path/site.yaml" trunk="/path/weights.safetensors"\')'
        )
    own = experiment.model.model_copy(update={"pretrained": str(node_config[TRUNK_FILE])})
    return experiment.model_copy(update={"model": own})


def is_site_file(path: Path) -> bool:
    """Return whether a YAML file describes one site rather than an experiment; not, where it is no YAML."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return False
    return isinstance(raw, dict) and "source" in raw and "sites" not in raw


def read_site_file(path: Path) -> Site:
    """Return the site a hospital describes in its own YAML file; its relative ``path`` starts at that file.

    Raises ValueError naming file and key.
    """
    raw: Any = None
    try:
        raw = {"site": [yaml.safe_load(path.read_text(encoding="utf-8-sig"))]}
        (site,) = _SiteFile.model_validate(raw).site
    except OSError as error:
        raise ValueError(f"{path}: the site file cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8 text; expected a YAML site file") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        raise ValueError(f"{path}: {sentence_of(error.errors(), raw, _SiteFile)}") from error
    return site if site.path is None else site.model_copy(update={"path": path.resolve().parent / site.path})
