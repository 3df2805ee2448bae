"""The parts of the report about the sites, the rounds and the audit: plain values, ready for the template."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from fedderm.evaluation.documents import SiteEvaluation, SplitSize
from fedderm.report.folder import RunFolder
from fedderm.report.formats import count, plain
from sites.diagnoses import DIAGNOSES, class_index

SHEETS_BUDGET = 1_600_000
"""Bytes of contact sheets in one report; above it they are made smaller, for a report travels by e-mail."""

# What leaves an image as it is, so that only what a device does to it is told.
_NO_EFFECT: tuple[Any, ...] = (None, 0, 0.0, 1, 1.0, [1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [1, 1, 1], [0, 0, 0])
_ONLY_WITH = {"hair_strands": "hair", "gain_jitter": "gain_jitter"}


@dataclass(frozen=True)
class SiteCard:
    """What one site holds."""

    evaluation: SiteEvaluation
    diagnoses: list[tuple[str, str, int, bool, float]]
    """(canonical name, plain name, images, malignant, share of the site's images), most frequent first."""
    device: list[tuple[str, str]]
    source: str
    sheet: str | None
    """The contact sheet as a data URI."""
    sheet_size: tuple[int, int] | None
    min_cell: int
    rounds: int
    rounds_trained: int
    """In how many of the run's rounds its update was part of the model."""
    anchor: int
    """The card's number in the page, for links: a name may hold anything."""

    def cell(self, number: int) -> str:
        """Return a count; a zero of a site with a minimum cell size may be hidden, and says so."""
        return f"under {self.min_cell}" if number == 0 and self.min_cell > 1 else count(number)

    def sum_of(self, name: str) -> str:
        """Return a count over all splits; "at least" it where a split may hide its part."""
        parts = [getattr(split, name) for split in self.shown_splits.values()]
        hidden = self.min_cell > 1 and 0 in parts and any(parts)
        return f"at least {count(sum(parts))}" if hidden else self.cell(sum(parts))

    @property
    def shown_splits(self) -> dict[str, SplitSize]:
        """The splits by name; without the training split that a held-out site never has."""
        order = ("train", "calibration", "test")
        splits = {name: self.evaluation.splits[name] for name in order if name in self.evaluation.splits}
        return {name: split for name, split in splits.items() if name != "train" or split.images}

    @property
    def prevalence(self) -> float | None:
        """Malignant lesions by lesions; None without lesions and where a split may hide its part."""
        splits = list(self.shown_splits.values())
        positive, lesions = [split.positive_lesions for split in splits], [split.lesions for split in splits]
        if not sum(lesions) or (self.min_cell > 1 and 0 in positive + lesions):
            return None
        return sum(positive) / sum(lesions)


def site_cards(run: RunFolder) -> list[SiteCard]:
    """Return one card a site, in the report's order."""
    shown = {name: path for name, path in run.gallery.items() if name in run.sites}
    budget = SHEETS_BUDGET // max(len(shown), 1)
    return [
        _card(run, site, shown.get(name), budget, anchor)
        for anchor, (name, site) in enumerate(run.sites.items())
    ]


def _card(run: RunFolder, site: SiteEvaluation, sheet: Path | None, budget: int, anchor: int) -> SiteCard:
    settings = run.settings_of(site.site)
    uri, dimensions = contact_sheet(sheet, budget) if sheet else (None, None)
    return SiteCard(
        evaluation=site,
        diagnoses=_diagnoses(site, settings.get("ak_policy", "exclude")),
        device=_device(settings.get("acquisition")),
        source=str(settings.get("source", "")),
        sheet=uri,
        sheet_size=dimensions,
        min_cell=run.min_cell_of(site.site),
        rounds=len(run.state.get("history") or []),
        rounds_trained=run.rounds_trained(site.site),
        anchor=anchor,
    )


def _diagnoses(site: SiteEvaluation, ak_policy: Any) -> list[tuple[str, str, int, bool, float]]:
    images = sum(site.diagnoses.values()) or 1
    rows = []
    for name, number in sorted(site.diagnoses.items(), key=lambda item: (-item[1], item[0])):
        malignant = name in DIAGNOSES and bool(class_index(name, ak_policy))
        rows.append((name, DIAGNOSES.get(name, name), number, malignant, number / images))
    return rows


def _device(profile: Any) -> list[tuple[str, str]]:
    """Return what a simulated device does to images, as (setting, value); empty for none."""
    if not isinstance(profile, dict):
        return []
    told = {key: value for key, value in profile.items() if not any(value == none for none in _NO_EFFECT)}
    told.pop("device_seed", None)
    for key, needed in _ONLY_WITH.items():
        if needed not in told:
            told.pop(key, None)
    return [(key.replace("_", " "), plain(value)) for key, value in told.items()]


def contact_sheet(path: Path, budget: int) -> tuple[str, tuple[int, int]]:
    """Return a JPEG as a data URI of roughly ``budget`` bytes at most, and its (width, height) in pixels."""
    content = path.read_bytes()
    with Image.open(io.BytesIO(content)) as opened:
        image = opened.convert("RGB")
    while len(content) > budget and image.width > 320:
        image = image.resize((round(image.width * 0.8), round(image.height * 0.8)), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        image.save(buffer, format="JPEG", quality=82, optimize=True)
        content = buffer.getvalue()
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}", image.size


@dataclass(frozen=True)
class RoundRow:
    """One round of the federation."""

    number: int
    seconds: float | None
    bytes_down: float | None
    bytes_up: float | None
    evaluation_bytes_down: float | None
    """Of the evaluation after the round; None where an older fedderm wrote none."""
    evaluation_bytes_up: float | None
    sites: dict[str, dict[str, Any]]
    refused: dict[str, str]


def round_rows(run: RunFolder) -> list[RoundRow]:
    """Return one row a finished round."""
    return [
        RoundRow(
            number=int(entry.get("round", index)),
            seconds=entry.get("seconds"),
            bytes_down=entry.get("bytes_down"),
            bytes_up=entry.get("bytes_up"),
            evaluation_bytes_down=entry.get("evaluation_bytes_down"),
            evaluation_bytes_up=entry.get("evaluation_bytes_up"),
            sites=entry.get("sites") or {},
            refused={str(site): str(reason) for site, reason in (entry.get("refused") or {}).items()},
        )
        for index, entry in enumerate(run.state.get("history") or [], start=1)
    ]


@dataclass(frozen=True)
class PrivacyRow:
    """What private training has cost one site in this run."""

    site: str
    epsilon: float
    delta: float
    rounds: int
    """Rounds of it that counted."""


def privacy_rows(run: RunFolder) -> list[PrivacyRow]:
    """Return one row a site that trained with differential privacy."""
    found: dict[str, PrivacyRow] = {}
    for row in round_rows(run):
        for site, told in row.sites.items():
            if "epsilon" in told:
                rounds = found[site].rounds if site in found else 0
                found[site] = PrivacyRow(site, float(told["epsilon"]), float(told["delta"]), rounds + 1)
    return [found[site] for site in sorted(found)]


def round_totals(rows: list[RoundRow]) -> dict[str, float | None]:
    """Return the sums of seconds and bytes over all rounds; None where no round recorded any."""
    totals: dict[str, float | None] = {}
    for key in ("seconds", "bytes_down", "bytes_up"):
        values = [value for row in rows if (value := getattr(row, key)) is not None]
        totals[key] = float(sum(values)) if values else None
    return totals


@dataclass(frozen=True)
class AuditSite:
    """What the audit says about one site."""

    name: str
    images: int | None
    lesions: int | None
    notes: list[str]
    set_aside: list[dict[str, str]]


@dataclass(frozen=True)
class Audit:
    """The audit before training, read tolerantly: an older fedderm may have written less."""

    recorded: bool
    checked: list[tuple[str, str]]
    conflicts: list[str]
    removed: list[tuple[str, str]]
    sites: list[AuditSite]


def audit_of(run: RunFolder) -> Audit:
    """Return what was checked, found and removed before training."""
    audit = run.audit
    removed: dict[str, int] = audit.get("removed") or {}
    return Audit(
        recorded=bool(audit),
        checked=_checked(audit.get("checked") or {}),
        conflicts=[_conflict(conflict) for conflict in audit.get("conflicts") or []],
        removed=[(site, f"{count(number)} images") for site, number in removed.items() if number],
        sites=[_audit_site(str(name), told or {}) for name, told in (audit.get("sites") or {}).items()],
    )


def _checked(checked: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (what, how many) over all sites."""
    words = {"images": "images, by id", "lesions": "lesions, by id", "pixels": "images, by their pixels"}
    totals: dict[str, int] = {}
    for told in checked.values():
        for key, number in told.items():
            totals[key] = totals.get(key, 0) + int(number)
    return [(words.get(key, key.replace("_", " ")), count(number)) for key, number in totals.items()]


def _conflict(conflict: Any) -> str:
    """Return a conflict in words: what two places share, and which places."""
    if not (isinstance(conflict, dict) and {"kind", "first", "second"} <= set(conflict)):
        return plain(conflict)
    first, second = (f"{conflict[side]['site']} ({conflict[side]['split']})" for side in ("first", "second"))
    return f"the same {conflict['kind']} {conflict.get('value', '')} at {first} and at {second}"


def _audit_site(name: str, told: dict[str, Any]) -> AuditSite:
    return AuditSite(
        name=name,
        images=told.get("images"),
        lesions=told.get("lesions"),
        notes=[str(note) for note in told.get("notes") or []],
        set_aside=[
            {
                "image_id": str(entry.get("image_id", "?")),
                "reason": str(entry.get("reason", "no reason recorded")),
            }
            for entry in told.get("set_aside") or []
        ],
    )
