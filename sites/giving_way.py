"""What a site gives up of what another holds too, and the refusal of what is then still held twice."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from typing import Final

from sites.catalogue import SiteData
from sites.conflicts import AuditResult, Conflict, Holding
from sites.errors import SiteError
from sites.files import nearest

_SHOWN: Final = 5
# Within a site, the split that measures keeps what it has: less to train on costs less than a biased test.
_KEEPS: Final = {"train": 0, "calibration": 1, "test": 2}


class AuditRefused(SiteError):  # noqa: N818 - says what happened
    """The experiment would leak: what is held twice, and which line of the config would settle it."""


def given_up(sites: Sequence[SiteData], result: AuditResult) -> dict[str, frozenset[str]]:
    """Return the image ids that each site gives up, by site name; empty for a site that keeps everything.

    A site that lists another in ``gives_way_to`` gives up every shared lesion with all its images (of a
    shared patient, all the patient's lesions). A site that lists itself gives up, within its own splits, what
    train shares with calibration or test, and calibration with test. A published split that reports its own
    leak (``attrs["published_leak"]``) may keep it.

    Raises AuditRefused when a conflict is left; SiteError for a name in ``gives_way_to`` that is no site, for
    sites that give way to each other in a circle, and for a site that gives up everything.
    """
    by_name = {data.site.name: data for data in sites}
    _check_order(by_name)
    lost = {name: _lost(data, result.conflicts, by_name) for name, data in by_name.items()}
    left = [c for c in result.conflicts if _remains(c, lost) and not _reported(c, by_name)]
    if left:
        raise AuditRefused(_refusal(left))
    for name, data in by_name.items():
        if len(lost[name]) == len(data.table):
            raise SiteError(
                f"site '{name}' would give up all of its {len(data.table)} images; leave the site out, or "
                "let the others give way to it"
            )
    return lost


def resolve(sites: Sequence[SiteData], result: AuditResult) -> tuple[list[SiteData], dict[str, int]]:
    """Return the sites without what they give up, and how many images each gave up (0 included).

    Each loss is written into the site's notes. Raises as ``given_up`` does.
    """
    lost = given_up(sites, result)
    kept = [_without(data, lost[data.site.name]) for data in sites]
    return kept, {name: len(images) for name, images in lost.items()}


def _check_order(by_name: Mapping[str, SiteData]) -> None:
    order = {
        name: [other for other in data.site.gives_way_to if other != name] for name, data in by_name.items()
    }
    for name, others in order.items():
        for other in others:
            if other not in by_name:
                raise SiteError(
                    f"site '{name}': gives_way_to names '{other}', which is no site of this experiment"
                    f"{nearest(other, by_name)}"
                )
    try:
        TopologicalSorter(order).prepare()
    except CycleError as error:
        raise SiteError(
            f"sites give way to each other in a circle ({' -> '.join(error.args[1])}), so that none would "
            "keep what they share; take one of them out of a gives_way_to"
        ) from None


def _loser(conflict: Conflict, by_name: Mapping[str, SiteData]) -> Holding | None:
    """Return the side that gives way, or None where the config names none."""
    first, second = conflict.first, conflict.second
    if conflict.within:
        if first.site not in by_name[first.site].site.gives_way_to:
            return None
        return min(first, second, key=lambda holding: _KEEPS[holding.split])
    if second.site in by_name[first.site].site.gives_way_to:
        return first
    return second if first.site in by_name[second.site].site.gives_way_to else None


def _lost(data: SiteData, conflicts: Iterable[Conflict], by_name: Mapping[str, SiteData]) -> frozenset[str]:
    """Return all images of the lesions a site gives up; within the site, those of the losing split only."""
    anywhere: set[str] = set()
    in_split: dict[str, set[str]] = {}
    for conflict in conflicts:
        loser = _loser(conflict, by_name)
        if loser is not None and loser.site == data.site.name:
            (in_split.setdefault(loser.split, set()) if conflict.within else anywhere).update(loser.lesions)
    gone = data.table["lesion_id"].isin(anywhere)
    for split, lesions in in_split.items():
        gone |= (data.table["split"] == split) & data.table["lesion_id"].isin(lesions)
    return frozenset(data.table.loc[gone, "image_id"].astype("str"))


def _remains(conflict: Conflict, lost: Mapping[str, frozenset[str]]) -> bool:
    return all(not lost[side.site].issuperset(side.images) for side in (conflict.first, conflict.second))


def _reported(conflict: Conflict, by_name: Mapping[str, SiteData]) -> bool:
    return conflict.within and "published_leak" in by_name[conflict.first.site].table.attrs


def _without(data: SiteData, images: frozenset[str]) -> SiteData:
    if not images:
        return data
    table = data.table[~data.table["image_id"].isin(images)].reset_index(drop=True)
    table.attrs = dict(data.table.attrs)
    note = f"{len(images)} of {len(data.table)} images were given up to another site or split"
    return replace(data, table=table, notes=[*data.notes, note])


def _refusal(left: Sequence[Conflict]) -> str:
    kinds = ", ".join(f"{count} by {kind}" for kind, count in Counter(c.kind for c in left).most_common())
    lines = [f"the audit found {len(left)} overlaps between sites or splits ({kinds}):"]
    lines += [f"  {conflict}" for conflict in left[:_SHOWN]]
    if len(left) > _SHOWN:
        lines.append(f"  ... and {len(left) - _SHOWN} more")
    return "\n".join([*lines, *_remedies(left)])


def _remedies(left: Iterable[Conflict]) -> list[str]:
    """Return a sentence for each pair of sites: the line of the config, and what else it may be."""
    pairs = Counter(tuple(sorted((c.first.site, c.second.site))) for c in left)
    lines = []
    for (one, other), count in pairs.most_common():
        if one == other:
            lines.append(
                f"{one}: {count} between its splits; write 'gives_way_to: [{one}]' in site {one} to drop the "
                "copies from train (then calibration)"
            )
        else:
            lines.append(
                f"{one} and {other}: {count}; write 'gives_way_to: [{other}]' in site {one}, or the reverse, "
                "to say which gives up what both hold; where different lesions are merely numbered alike, "
                "prefix their ids"
            )
    return lines
