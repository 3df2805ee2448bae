"""What the numbers say, in sentences that a clinician can read without the tables."""

from pathlib import Path

from fedderm.evaluation.documents import (
    Certificate,
    Estimate,
    PairedDecisions,
    Performance,
    SiteEvaluation,
)
from fedderm.report.folder import RunFolder, at_lesion_level, read_run
from fedderm.report.formats import (
    NBSP,
    decimal,
    detected,
    interval,
    known,
    listing,
    metric,
    percent,
    plural,
    why_missing,
)
from fedderm.report.tables import discrimination_of, same_threshold

MOST_SITES_TOLD = 3
"""With more held-out sites than this, the summary tells the weakest; the table tells all."""


def summary_sentences(run_dir: Path) -> list[str]:
    """Return the summary of a finished run, one sentence an item, plain text.

    The first says what was done, the second how well it discriminates inside and outside, then one or two
    for each held-out site: what the federation's threshold found there, and what the site's own
    recalibration can promise.
    Raises ValueError where the run is unfinished.
    """
    return sentences_of(read_run(run_dir))


def sentences_of(run: RunFolder) -> list[str]:
    """Return the summary of a run that has been read; see ``summary_sentences``."""
    return [*overview_of(run), *(sentence for _, told in by_site(run) for sentence in told)]


def overview_of(run: RunFolder) -> list[str]:
    """Return what was done and how well the model discriminates inside and outside."""
    return [sentence for sentence in (_what_was_done(run), _discrimination(run)) if sentence]


def by_site(run: RunFolder) -> list[tuple[SiteEvaluation, list[str]]]:
    """Return (site, its sentences) of the held-out sites: the weakest of many; of all sites where none is."""
    sites = run.of_role("held-out") or list(run.sites.values())
    chosen = _weakest_first(sites)[:MOST_SITES_TOLD] if len(sites) > MOST_SITES_TOLD else sites
    return [(site, _at_site(site)) for site in chosen]


def _what_was_done(run: RunFolder) -> str:
    trained, held_out = run.of_role("train"), run.of_role("held-out")
    lesions = sum(site.splits["train"].lesions for site in trained if "train" in site.splits)
    rounds = int(run.state.get("round") or len(run.state.get("history") or []))
    if elsewhere := run.state.get("trained_at"):
        return _judged(run, elsewhere)
    alone = run.config.get("baseline_site")
    if alone:
        tested = len(run.sites) - 1
        return (
            f"The local baseline: {alone} alone trained a model in {plural(rounds, 'round')}, with the image "
            f"updates of all {plural(len(trained), 'training site')}; {plural(tested, 'other site')} only "
            "tested it."
        )
    idle = [site.site for site in trained if not run.rounds_trained(site.site)]
    trained = [site for site in trained if site.site not in idle]
    lesions = sum(site.splits["train"].lesions for site in trained if "train" in site.splits)
    pooled = run.config.get("baseline") == "pooled"
    how = "from their images in one place (the pooled baseline)" if pooled else "without pooling their images"
    apart = f"; {plural(len(held_out), 'further site')} only tested it" if held_out else ""
    if idle:
        apart += f"; {listing(idle)} took no part in any round"
    return (
        f"{plural(len(trained), 'site')} with {plural(lesions, 'lesion')} trained one model in "
        f"{plural(rounds, 'round')} {how}{apart}."
    )


def _judged(run: RunFolder, trained_at: int) -> str:
    """Return whose model was judged, where a site judged it by itself."""
    (site,) = run.sites.values()
    where = plural(trained_at, "other site")
    told = f"A model that was trained at {where} is judged at {site.site}, which took no part."
    lacking = run.state.get("without_metadata") or []
    if not lacking:
        return told
    named = listing([field.replace("_", " ") for field in lacking])
    return f"{told} It takes {named}, which no image here has: it was counted as missing everywhere."


def _discrimination(run: RunFolder) -> str:
    internal = metric(at_lesion_level(run.federation.pooled.get("train", {})), "auc")
    outside = [(site.site, metric(discrimination_of(site), "auc")) for site in run.of_role("held-out")]
    outside = [(name, auc) for name, auc in outside if known(auc.value)]
    if not known(internal.value):
        return ""
    told = "Malignant and benign lesions are told apart with an AUC of"
    inside = f"{told} {_with_interval(internal)} at training sites"
    if not outside:
        return f"{inside}."
    if len(outside) > MOST_SITES_TOLD:
        values = sorted(float(auc.value or 0) for _, auc in outside)
        return f"{inside}, and between {decimal(values[0])} and {decimal(values[-1])} at the held-out ones."
    return f"{inside}, {listing([f'{_with_interval(auc)} at {name}' for name, auc in outside])}."


def _with_interval(estimate: Estimate) -> str:
    span = interval(estimate)
    return f"{decimal(estimate.value)} ({span})" if span else decimal(estimate.value)


def _weakest_first(sites: list[SiteEvaluation]) -> list[SiteEvaluation]:
    def auc(site: SiteEvaluation) -> float:
        value = metric(discrimination_of(site), "auc").value
        return float(value) if value is not None and known(value) else 2.0

    return sorted(sites, key=auc)


def _at_site(site: SiteEvaluation) -> list[str]:
    before, after = at_lesion_level(site.before), at_lesion_level(site.after)
    if before is None or not known(metric(before, "sensitivity").value):
        reason = why_missing(before, "sensitivity")
        return [f"At {site.site} sensitivity cannot be told ({reason}); {promise(site.certificate)}."]
    told = (
        f"At {site.site} the federation’s threshold found {percent(metric(before, 'sensitivity').value)} "
        f"of malignant lesions{_in_brackets(before)}{_spared(before, 'left')}."
    )
    if after is None or same_threshold(site):
        return [told, f"It stays in force there, for {promise(site.certificate)}."]
    recalibrated = (
        f"The threshold set on the site’s own lesions finds {percent(metric(after, 'sensitivity').value)}"
        f"{_in_brackets(after)}{_spared(after, 'leaves')}; {promise(site.certificate)}."
    )
    return [told, recalibrated]


def _in_brackets(performance: Performance) -> str:
    """Return `` (33 of 41; 95 % CI 66–90)``; counts are left out where a small cell hides them."""
    found, malignant = detected(performance)
    span = interval(metric(performance, "sensitivity"), as_percent=True)
    parts = [f"{found} of {malignant}"] if malignant else []
    parts += [f"95{NBSP}% CI {span}"] if span else []
    return f" ({'; '.join(parts)})" if parts else ""


def _spared(performance: Performance, verb: str) -> str:
    specificity = metric(performance, "specificity").value
    return f" and {verb} {percent(specificity)} of benign ones alone" if known(specificity) else ""


def paired_decisions(found: PairedDecisions) -> str:
    """Return what the change of threshold did to the test lesions, pair by pair."""
    if found.only_before + found.only_after == 0 or found.p_value is None:
        return "Both thresholds decide alike on every test lesion."
    p = "below 0.001" if found.p_value < 0.001 else f"{found.p_value:.3f}"
    return (
        f"Of the same lesions, {found.only_before:,} were decided rightly only before and "
        f"{found.only_after:,} only after (McNemar’s exact test, one site by itself: p {p})."
    )


def promise(certificate: Certificate) -> str:
    """Return what a certificate promises as a clause without a full stop."""
    target, sure = f"{certificate.target_sensitivity:.2f}", percent(certificate.confidence)
    if certificate.certified:
        return f"a sensitivity of at least {target} is guaranteed there with {sure} confidence"
    if certificate.positives >= certificate.needed:
        return f"the {target} target cannot be certified"
    # 0 is also what a site reports whose minimum cell size hides how many it has.
    have = "too few malignant lesions"
    if certificate.positives:
        have = f"{certificate.positives} malignant {'lesion' if certificate.positives == 1 else 'lesions'}"
    return f"the {target} target cannot be certified: {have} to set it on, {certificate.needed} needed"
