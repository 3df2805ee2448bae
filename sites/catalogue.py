"""All sources under one name, and the one way from a site's settings to its table."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import pandas as pd
from pydantic import Field

from sites.annotations import with_patterns
from sites.case_mix import apply_case_mix
from sites.diagnoses import DIAGNOSES, AkPolicy, class_index
from sites.elsewhere import ElsewhereSite
from sites.errors import SiteError
from sites.fed_isic2019 import FedIsic2019Site
from sites.files import nearest, quoted, resolve
from sites.folder import FolderSite
from sites.ham10000 import HAM10000Site
from sites.isic2019 import Isic2019Site
from sites.isic_archive import IsicArchiveSite
from sites.milk10k import Milk10kSite
from sites.simulated import SimulatedSite
from sites.splits import assign, assign_fold, keep_published, part
from sites.table import SET_ASIDE, missing_images, validate
from sites.words import composed, counted

Site = Annotated[
    HAM10000Site
    | Isic2019Site
    | IsicArchiveSite
    | FedIsic2019Site
    | Milk10kSite
    | FolderSite
    | SimulatedSite
    | ElsewhereSite,
    Field(discriminator="source"),
]
"""Any site of a config; ``source`` says which."""

MISSING: Final = "the image file is missing"


@dataclass(frozen=True)
class SiteData:
    """A site's lesion table, ready to be decoded."""

    site: Site
    table: pd.DataFrame
    """Lesion table with ``split`` and ``class_index`` (0 benign, 1 MEL, 2 SCC, 3 BCC); index 0 to N-1."""
    set_aside: pd.DataFrame
    """Images that cannot be used: image_id, path, reason."""
    notes: list[str] = field(default_factory=list)
    """Sentences that a report should show."""


def load_site(site: Site, data_root: Path | None, work_dir: Path, seed: int) -> SiteData:
    """Return the site's table: read, validated, narrowed by its settings, and split.

    The result depends on the files, the site's settings and the seed, not on other sites. Raises SiteError,
    with the site's name first, for any fault of files or settings.
    """
    try:
        return _load(site, data_root, work_dir, seed)
    except SiteError as error:
        raise type(error)(f"site '{site.name}': {error}") from error


def _load(site: Site, data_root: Path | None, work_dir: Path, seed: int) -> SiteData:
    raw = site.read(data_root, work_dir, seed)
    table = validate(raw, raw.attrs.get("file", f"the table of source '{site.source}'"))
    attrs = dict(table.attrs)
    # Parts are taken of the whole source, so that sites which select differently still never share a lesion.
    if site.slice is not None:
        table = _not_empty(part(table, site.slice), f"slice {site.slice.index} of {site.slice.of}")
    table = _select(table, site.select)
    aside = table[table[SET_ASIDE].notna()]
    table = table[table[SET_ASIDE].isna()].drop(columns=SET_ASIDE)
    table, missing, notes = _present(table, site.only_present, site.max_unreadable, attrs.get("images"))
    table, policy_notes = _classes(table, site.ak_policy)
    # A simulated centre is drawn with its case mix; a real one is thinned to it.
    if site.case_mix is not None and not isinstance(site, SimulatedSite):
        table = _not_empty(apply_case_mix(table, site.case_mix, seed), "case_mix")
    table = table.reset_index(drop=True)
    notes = [*attrs.get("notes", []), *_aside_notes(aside), *notes, *policy_notes, *_lesion_notes(table)]
    annotations = attrs.pop("annotations", None)
    if site.annotations is not None:
        annotations = resolve(site.annotations, data_root)
    if annotations is not None:
        table, note = with_patterns(table, annotations)
        notes.append(note)
    table.attrs = {**attrs, "notes": notes}
    table = _split(table, site, seed)
    set_aside = pd.concat([_listed(aside, aside[SET_ASIDE]), _listed(missing, MISSING)], ignore_index=True)
    return SiteData(site, table, set_aside, list(table.attrs["notes"]))


def _split(table: pd.DataFrame, site: Site, seed: int) -> pd.DataFrame:
    published = table["split"].notna().any()
    if site.fold is None:
        return (keep_published if published else assign)(table, site.fractions(), seed)
    if published:
        raise SiteError("fold: this source has a published split, which folds would undo; use one of the two")
    return assign_fold(table, site.fractions(), site.fold, seed)


def _listed(rows: pd.DataFrame, reason: "pd.Series[str] | str") -> pd.DataFrame:
    return pd.DataFrame({"image_id": rows["image_id"], "path": rows["path"], "reason": reason}, dtype="str")


def _aside_notes(aside: pd.DataFrame) -> list[str]:
    return [
        f"{counted(count, 'image')} {'was' if count == 1 else 'were'} set aside: {reason}"
        for reason, count in aside[SET_ASIDE].value_counts().items()
    ]


def _lesion_notes(table: pd.DataFrame) -> list[str]:
    own = int((table["lesion_id"] == table["image_id"]).sum())
    if not own:
        return []
    rest = (
        "has no lesion id and counts as a lesion of its own"
        if own == 1
        else "have no lesion id and count as lesions of their own"
    )
    return [f"{own} of {len(table)} images {rest}"]


def _not_empty(table: pd.DataFrame, step: str) -> pd.DataFrame:
    if table.empty:
        raise SiteError(f"{step} leaves no image; loosen it")
    return table


def _select(table: pd.DataFrame, select: dict[str, str | list[str]]) -> pd.DataFrame:
    whole = table
    for column, wanted in select.items():
        if column not in table.columns or column == SET_ASIDE:
            known = [c for c in table.columns if c != SET_ASIDE and table[c].notna().any()]
            raise SiteError(
                f"select: there is no column '{column}'{nearest(column, known)}; there are {quoted(known)}"
            )
        values = [composed(one) for one in ([wanted] if isinstance(wanted, str) else wanted)]
        present = whole[column].dropna().astype("str")
        for value in values:
            if value not in set(present):
                common = present.value_counts().index
                raise SiteError(
                    f"select: no image has {column} '{value}'{nearest(value, common)}; there are "
                    f"{quoted(common) or 'no values'}"
                )
        table = table[table[column].astype("str").isin(values) & table[column].notna()]
        _not_empty(table, f"select {column} together with the other selections")
    return table


def _present(
    table: pd.DataFrame, only_present: bool, most: float, below: str | None
) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Return rows whose image is at hand, rows set aside because it is not, and notes."""
    absent = missing_images(table)
    count, listed = int(absent.sum()), len(table)
    if listed and count == listed:
        raise SiteError(
            f"none of its {counted(listed, 'image')} is at hand; {_first(table, below)}; check the site's "
            "path"
        )
    if only_present:
        notes = [f"{count} of {listed} images are not at hand (only_present)"] if count else []
        return table[~absent], table[absent].iloc[:0], notes
    if listed and count / listed > most:
        raise SiteError(
            f"{count} of {listed} images are missing ({count / listed:.1%}, max_unreadable allows "
            f"{most:.1%}); {_first(table[absent], below)}; complete the folder, or set only_present: true "
            "for a copy that is known to be partial"
        )
    return table[~absent], table[absent], [f"{count} of {listed} images are missing"] if count else []


def _first(missing: pd.DataFrame, below: str | None) -> str:
    """Return where the first missing image was looked for: a hospital's may lie in any subfolder."""
    name, path = missing["image_id"].iloc[0], missing["path"].iloc[0]
    return f"the first is {name}, looked for below {below}" if below else f"the first was expected at {path}"


def _classes(table: pd.DataFrame, policy: AkPolicy) -> tuple[pd.DataFrame, list[str]]:
    """Return the table with ``class_index``, without diagnoses that have no class, and notes of how many."""
    index = table["diagnosis"].map(lambda name: class_index(name, policy))
    notes = [
        f"{counted(count, 'image')} of {DIAGNOSES[str(name)]} {'is' if count == 1 else 'are'} excluded"
        + (" (ak_policy: exclude)" if name == "ak" else " (it is neither MEL, SCC nor BCC)")
        for name, count in table.loc[index.isna(), "diagnosis"].value_counts().items()
    ]
    kept = table[index.notna()].assign(class_index=index.dropna().astype(int))
    return _not_empty(kept, f"ak_policy: {policy}"), notes


def site_summary(data: SiteData) -> dict[str, Any]:
    """Return what a site holds: ``splits`` (images, lesions and the malignant among them), ``diagnoses``,
    ``set_aside``.

    ``splits`` and ``diagnoses`` count images unless they say lesions; a split without images is left out.
    """
    table = data.table
    splits = {}
    for name in ("train", "calibration", "test"):
        rows = table[table["split"] == name]
        positive = rows[rows["class_index"] > 0]
        if len(rows):
            splits[name] = {
                "images": len(rows),
                "lesions": int(rows["lesion_id"].nunique()),
                "positive_images": len(positive),
                "positive_lesions": int(positive["lesion_id"].nunique()),
            }
    counts = table["diagnosis"].value_counts()
    diagnoses = {name: int(counts[name]) for name in DIAGNOSES if name in counts}
    return {"splits": splits, "diagnoses": diagnoses, "set_aside": len(data.set_aside)}
