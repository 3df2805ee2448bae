"""Reading a finished run's folder (docs/architecture.md has the contract), or saying why not."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from pydantic import TypeAdapter, ValidationError

from fedderm.counts_file import read_counts
from fedderm.evaluation.counts import Counts
from fedderm.evaluation.documents import FederationEvaluation, Performance, SiteEvaluation

METRIC_COLUMNS = (
    "site", "role", "split", "round", "unit", "metric", "value", "lower", "upper", "n", "positives"
)  # fmt: skip
_AGAIN = "copy the run's folder again from where it ran, or start the experiment anew"
_SITES = TypeAdapter(dict[str, SiteEvaluation])


@dataclass(frozen=True)
class RunFolder:
    """What a finished run left. ``environment`` and ``audit`` are empty where nothing was recorded."""

    path: Path
    config: dict[str, Any]
    config_text: str
    environment: dict[str, Any]
    audit: dict[str, Any]
    state: dict[str, Any]
    rounds: pd.DataFrame
    sites: dict[str, SiteEvaluation]
    """Held-out sites first, each role in the config's order."""
    federation: FederationEvaluation
    gallery: dict[str, Path]
    counts: dict[str, dict[str, Counts]]
    """By site and split (calibration, test), where a site lets its counts be kept; empty in old runs."""

    @property
    def name(self) -> str:
        """The experiment's name; the folder's where the config has none."""
        return str(self.config.get("name") or self.path.name)

    def of_role(self, role: str) -> list[SiteEvaluation]:
        """Return the evaluations of the sites of one role, in the report's order."""
        return [site for site in self.sites.values() if site.role == role]

    def settings_of(self, site: str) -> dict[str, Any]:
        """Return the config's own lines about a site; empty where it has none."""
        listed = self.config.get("sites") or []
        return next((dict(entry) for entry in listed if entry.get("name") == site), {})

    def rounds_trained(self, site: str) -> int:
        """Return in how many rounds a site's update was part of the model; of an unknown history, in all."""
        history = self.state.get("history") or []
        if not any(entry.get("sites") for entry in history):
            return int(self.state.get("round") or len(history))
        if self.config.get("baseline") == "pooled":
            return len(history)
        return sum(site in entry.get("sites", {}) for entry in history)

    def min_cell_of(self, site: str) -> int:
        """Return a site's minimum cell size: what it said itself, or, in an older run, the config."""
        told = self.sites.get(site)
        return (told.min_cell if told else 0) or int(self.settings_of(site).get("min_cell") or 0)


def at_lesion_level(by_unit: dict[Any, Performance]) -> Performance | None:
    """Return the lesion-level numbers; the image-level ones where lesions were not evaluated; else None."""
    return by_unit.get("lesion") or by_unit.get("image")


def read_run(run_dir: Path) -> RunFolder:
    """Return a finished run's folder.

    Raises ValueError with one sentence - which part is missing or unreadable, how to resume - for anything
    that is not the complete folder of a finished run.
    """
    run_dir = Path(run_dir)
    if not (run_dir / "config.yaml").is_file():
        raise ValueError(
            f"{run_dir} is not a run's folder: it holds no config.yaml; "
            "give the folder that `fedderm run` printed."
        )
    text = (run_dir / "config.yaml").read_text(encoding="utf-8")
    state = _finished_state(run_dir)
    for part in ("rounds/metrics.csv", "evaluation/sites.json", "evaluation/federation.json"):
        if not (run_dir / part).is_file():
            raise ValueError(f"{run_dir} is incomplete: its run finished, but {part} is missing; {_AGAIN}.")
    config = _config(run_dir, text)
    return RunFolder(
        path=run_dir,
        config=config,
        config_text=text,
        environment=_optional_json(run_dir, "environment.json"),
        audit=_optional_json(run_dir, "audit.json"),
        state=state,
        rounds=_rounds(run_dir),
        sites=_in_report_order(_sites(run_dir), config),
        federation=_federation(run_dir),
        gallery={sheet.stem: sheet for sheet in sorted((run_dir / "gallery").glob("*.jpg"))},
        counts=_counts(run_dir / "evaluation" / "counts.npz"),
    )


def _counts(path: Path) -> dict[str, dict[str, Counts]]:
    found: dict[str, dict[str, Counts]] = {}
    for key, counts in (read_counts(path) if path.is_file() else {}).items():
        site, _, split = key.rpartition("/")
        found.setdefault(site, {})[split] = counts
    return found


def _unfinished(run_dir: Path, missing: str) -> ValueError:
    resume = f"fedderm run --resume {shlex.quote(str(run_dir))}"
    return ValueError(
        f"{run_dir} is unfinished: {missing}; go on with `{resume}`, which draws the report, too."
    )


def _unreadable(run_dir: Path, part: str, found: str) -> ValueError:
    return ValueError(f"{run_dir / part} cannot be read ({found}); {_AGAIN}.")


def _finished_state(run_dir: Path) -> dict[str, Any]:
    if not (run_dir / "rounds" / "state.json").is_file():
        raise _unfinished(run_dir, "no round has ended (rounds/state.json is missing)")
    state = _json(run_dir, "rounds/state.json")
    done, planned = int(state.get("round") or 0), int(state.get("rounds") or 0)
    if not state.get("finished", False):
        missing = (
            f"{done} of {planned} rounds have ended"
            if done < planned
            else "the final evaluation has not ended"
        )
        raise _unfinished(run_dir, missing)
    return state


def _json(run_dir: Path, part: str) -> dict[str, Any]:
    try:
        content = json.loads((run_dir / part).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise _unreadable(run_dir, part, f"not JSON: {error}") from error
    if not isinstance(content, dict):
        raise _unreadable(run_dir, part, f"expected an object, found {type(content).__name__}")
    return content


def _optional_json(run_dir: Path, part: str) -> dict[str, Any]:
    return _json(run_dir, part) if (run_dir / part).is_file() else {}


def _config(run_dir: Path, text: str) -> dict[str, Any]:
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{run_dir / 'config.yaml'} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{run_dir / 'config.yaml'} must map keys to values; found {type(config).__name__}.")
    return config


def _sites(run_dir: Path) -> dict[str, SiteEvaluation]:
    try:
        return _SITES.validate_python(_json(run_dir, "evaluation/sites.json"))
    except ValidationError as error:
        raise _unreadable(run_dir, "evaluation/sites.json", _first_fault(error)) from error


def _federation(run_dir: Path) -> FederationEvaluation:
    try:
        return FederationEvaluation.model_validate(_json(run_dir, "evaluation/federation.json"))
    except ValidationError as error:
        raise _unreadable(run_dir, "evaluation/federation.json", _first_fault(error)) from error


def _first_fault(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"


def _rounds(run_dir: Path) -> pd.DataFrame:
    try:
        # A site may be called 007 or NA: only empty fields of numbers are missing values.
        table = pd.read_csv(
            run_dir / "rounds" / "metrics.csv",
            dtype={"site": str},
            keep_default_na=False,
            na_values={"value": [""], "lower": [""], "upper": [""]},
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise _unreadable(run_dir, "rounds/metrics.csv", str(error).strip()) from error
    absent = [column for column in METRIC_COLUMNS if column not in table.columns]
    if absent:
        raise _unreadable(run_dir, "rounds/metrics.csv", f"no column {', '.join(absent)}")
    return table


def _in_report_order(sites: dict[str, SiteEvaluation], config: dict[str, Any]) -> dict[str, SiteEvaluation]:
    listed = [entry.get("name") for entry in config.get("sites") or []]
    place = {name: index for index, name in enumerate(listed)}
    order = sorted(
        sites, key=lambda name: (sites[name].role != "held-out", place.get(name, len(place)), name)
    )
    return {name: sites[name] for name in order}
