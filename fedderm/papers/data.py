"""What a run knows about its data: sites, eligibility, splits, numbers, the audit before training.

Every value is a sentence or more of plain text, empty where the run does not know. Counts of a site with a
minimum cell size come through its ``SiteCard``, which says "under 10" where they may be hidden.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from fedderm.papers.markdown import told
from fedderm.report.folder import RunFolder
from fedderm.report.formats import count, listing, percent, plain, plural
from fedderm.report.sections import SiteCard, audit_of, site_cards

_AK = {"exclude": "left out", "benign": "counted as benign", "malignant": "counted as malignant (SCC)"}


def cards_of(run: RunFolder) -> dict[str, SiteCard]:
    """Return a card for each site, without pictures, in the report's order."""
    return {card.evaluation.site: card for card in site_cards(replace(run, gallery={}))}


def data_facts(run: RunFolder) -> dict[str, str]:
    """Return what is known about the data, by topic."""
    cards = cards_of(run)
    return {
        "sources": told(_source(run, name) for name in cards),
        "roles": _roles(run),
        "eligibility": _eligibility(run),
        "actinic_keratosis": _actinic_keratosis(run),
        "excluded": _excluded(run),
        "numbers": told(_numbers(card) for card in cards.values()),
        "diagnoses": told(_diagnoses(card) for card in cards.values()),
        "splits": _splits(run),
        "audit": _audit(run),
        "missing_levels": _missing_levels(run),
        "simulated": _simulated(cards),
        "hidden": _hidden(cards),
    }


def _source(run: RunFolder, name: str) -> str:
    settings = run.settings_of(name)
    if not settings:
        return ""
    select = plain(settings["select"]) if settings.get("select") else ""
    parts = [f"source {plain(settings.get('source', 'not recorded'))}", select]
    return f"{name} ({run.sites[name].role}): {', '.join(part for part in parts if part)}."


def _roles(run: RunFolder) -> str:
    trained, held = ([site.site for site in run.of_role(role)] for role in ("train", "held-out"))
    parts = [f"{plural(len(trained), 'site')} trained the model: {listing(trained)}." if trained else ""]
    if held:
        parts.append(f"{plural(len(held), 'site')} took no part in training and tested it: {listing(held)}.")
    return told(parts)


def _by_value(run: RunFolder, key: str, of: Callable[[Any], str]) -> str:
    """Return ``value at all sites`` or ``value at a and b; value at c``; empty where none has the setting."""
    groups: dict[str, list[str]] = {}
    for name in run.sites:
        settings = run.settings_of(name)
        if key in settings:
            groups.setdefault(of(settings[key]), []).append(name)
    if list(groups.values()) == [list(run.sites)]:
        return f"{next(iter(groups))} at all sites"
    return "; ".join(f"{value} at {listing(names)}" for value, names in groups.items())


def _eligibility(run: RunFolder) -> str:
    if not any(run.settings_of(name) for name in run.sites):
        return ""
    limits = _by_value(run, "max_unreadable", lambda value: percent(float(value)))
    chosen = [
        f"{name} ({plain(settings['select'])})"
        for name in run.sites
        if (settings := run.settings_of(name)).get("select")
    ]
    return told(
        [
            "Dermoscopic images with a readable file and a known diagnosis. Diagnoses without a class in the "
            "model (other malignant ones) and lesions whose images carry different diagnoses are left out.",
            f"Chosen by metadata: {'; '.join(chosen)}." if chosen else "",
            f"Largest fraction of unreadable images with which a site takes part: {limits}."
            if limits
            else "",
        ]
    )


def _actinic_keratosis(run: RunFolder) -> str:
    policies = _by_value(run, "ak_policy", lambda value: _AK.get(value, plain(value)))
    return f"Actinic keratosis, which is neither benign nor malignant, is {policies}." if policies else ""


def _excluded(run: RunFolder) -> str:
    audit = audit_of(run)
    if not audit.recorded:
        return ""
    removed = [
        f"{_shown(run, name, int(number))} images at {name}"
        for name, number in (run.audit.get("removed") or {}).items()
        if number
    ]
    aside = [
        f"{_shown(run, site.name, len(site.set_aside))} at {site.name}"
        for site in audit.sites
        if site.set_aside
    ]
    return told(
        [
            f"Given up because another site or split keeps the same lesion or picture: {listing(removed)}."
            if removed
            else "No image was given up for an overlap.",
            f"Set aside as unusable: {listing(aside)}." if aside else "No image was set aside as unusable.",
            *(f"{site.name}: {'; '.join(site.notes)}." for site in audit.sites if site.notes),
        ]
    )


def _shown(run: RunFolder, name: str, number: int) -> str:
    smallest = run.min_cell_of(name)
    return f"under {smallest}" if 0 < number < smallest else count(number)


def _numbers(card: SiteCard) -> str:
    parts = [
        f"{name} {card.cell(size.lesions)} lesions ({card.cell(size.positive_lesions)} malignant), "
        f"{card.cell(size.images)} images"
        for name, size in card.shown_splits.items()
    ]
    # One decimal: at a screening clinic four lesions in a thousand are malignant.
    prevalence = "" if card.prevalence is None else f"; {100 * card.prevalence:.1f} % of lesions malignant"
    return f"{card.evaluation.site}: {'; '.join(parts)}{prevalence}." if parts else ""


def _diagnoses(card: SiteCard) -> str:
    parts = [f"{plain_name} {count(number)}" for _, plain_name, number, _, _ in card.diagnoses]
    return f"{card.evaluation.site}, images: {', '.join(parts)}." if parts else ""


def _splits(run: RunFolder) -> str:
    if not run.sites:
        return ""
    published = [name for name in run.sites if run.settings_of(name).get("split") == "published"]
    seed = run.config.get("seed")
    return told(
        [
            "Within each site, lesions (patients, where known) were divided into train, calibration and "
            "test, stratified by diagnosis, by a hash of the lesion id"
            + (f" and the seed {seed}." if seed is not None else "."),
            "A held-out site has no train split.",
            f"{listing(published)} kept the split published with the data." if published else "",
        ]
    )


def _audit(run: RunFolder) -> str:
    audit = audit_of(run)
    if not audit.recorded:
        return ""
    checked = ", ".join(f"{number} {what}" for what, number in audit.checked)
    found = len(audit.conflicts)
    return told(
        [
            f"Before training all sites and splits were compared for shared lesions and pictures: {checked}."
            if checked
            else "",
            f"{plural(found, 'overlap')} found, and listed in audit.json." if found else "No overlap found.",
        ]
    )


def _missing_levels(run: RunFolder) -> str:
    absent = [
        f"{row.attribute} of {row.n:,} of {site.after['lesion'].n:,} test lesions at {name}"
        for name, site in run.sites.items()
        for row in site.subgroups
        if row.level == "not recorded" and "lesion" in site.after
    ]
    return f"Not recorded: {'; '.join(absent)}." if absent else ""


def _simulated(cards: dict[str, SiteCard]) -> str:
    drawn = [name for name, card in cards.items() if card.source == "simulated"]
    devices = [name for name, card in cards.items() if card.device]
    return told(
        [
            f"Simulated images, not of patients: {listing(drawn)}." if drawn else "",
            f"Seen through a simulated device: {listing(devices)}." if devices else "",
        ]
    )


def _hidden(cards: dict[str, SiteCard]) -> str:
    hiding = [f"{name} ({card.min_cell})" for name, card in cards.items() if card.min_cell > 1]
    return f"Counts below a site's minimum cell size are not shown: {listing(hiding)}." if hiding else ""
