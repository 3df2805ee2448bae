"""What a site's table says: diagnoses, lesions, what is recorded, and what should not be in it."""

from collections.abc import Iterator
from datetime import UTC, datetime

from fedderm.doctor.findings import Finding
from sites.catalogue import SiteData, site_summary
from sites.files import quoted
from sites.metadata import REGIONS, region
from sites.personal_columns import date_ranges, personal_columns

_OPTIONAL = ("patient_id", "age", "sex", "anatom_site", "skin_type")


def examine_table(data: SiteData) -> Iterator[Finding]:
    """Yield what there is to say of the table, its rows whose images can be used."""
    table = data.table
    listed = ", ".join(f"{name} {count}" for name, count in site_summary(data)["diagnoses"].items())
    yield Finding("fine", "table", f"diagnoses (images): {listed}")
    for note in data.notes:
        yield Finding("look", "table", note)
    yield from _lesions(data)
    known = ", ".join(f"{name} {table[name].notna().mean():.0%}" for name in _OPTIONAL)
    yield Finding("fine", "table", f"recorded for: {known} of images")
    yield from _places(data)
    if table["patient_id"].isna().all():
        yield Finding(
            "look",
            "table",
            "no patient ids: two lesions of one patient may be in train and in test, which flatters results "
            "a little; add patient_id, as a pseudonym",
        )
    if people := personal_columns(table):
        yield Finding(
            "look",
            "identifiers",
            f"the table's {quoted(people)} may name people; fedderm sends no column anywhere and needs none "
            "of these: take them out, or put a pseudonym in their place",
        )
    yield from _dates(data)


def _places(data: SiteData) -> Iterator[Finding]:
    words = data.table["anatom_site"].dropna().astype(str)
    foreign = words[[region(word) is None for word in words]]
    if len(foreign):
        yield Finding(
            "look",
            "table",
            f"{len(foreign)} images have an anatomical site that is no word of ours, "
            f"{quoted(foreign.unique()[:5])}, and count as without one where a model is told it; write "
            f"{', '.join(REGIONS)}, or a part such as back or hand",
        )


def _lesions(data: SiteData) -> Iterator[Finding]:
    table = data.table
    lesions, images = table["lesion_id"].nunique(), len(table)
    none_known = bool((table["lesion_id"] == table["image_id"]).all())
    if none_known and not table.attrs.get("lesions_known", True):
        yield Finding(
            "look",
            "table",
            "no lesion ids: where a lesion was photographed twice, splits may leak; add lesion_id if you can",
        )
    else:
        most = int(table["lesion_id"].value_counts().max())
        yield Finding("fine", "table", f"{images / lesions:.1f} images a lesion on average, {most} at most")


def _dates(data: SiteData) -> Iterator[Finding]:
    today = datetime.now(UTC).date()
    for column, (first, last) in date_ranges(data.table).items():
        span = f"column '{column}' holds dates from {first:%Y-%m-%d} to {last:%Y-%m-%d}"
        if last.date() > today:
            yield Finding("look", "table", f"{span}, after today; correct them, or this machine's clock")
        else:
            yield Finding("fine", "table", f"{span}; no date leaves this machine")
