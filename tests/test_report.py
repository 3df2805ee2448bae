"""The report: what it says, what it refuses, and that what it says is what the run's folder holds."""

import json
import re
import shutil
from pathlib import Path

import pytest
from html_tags import Tags
from markupsafe import Markup
from report_runs import NOTE, ROUNDS, write_run

from fedderm.evaluation.documents import (
    PairedDecisions,
    SiteEvaluation,
)
from fedderm.report import build_report, site_table, summary_sentences
from fedderm.report.build import render
from fedderm.report.folder import read_run
from fedderm.report.sections import contact_sheet, site_cards
from fedderm.report.sentences import paired_decisions
from fedderm.report.tables import discrimination_rows, threshold_rows


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run's folder; tests must not change it."""
    return write_run(tmp_path_factory.mktemp("finished") / "20261121-050854", told=True)


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """Return a copy of a finished run's folder that a test may damage."""
    return Path(shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("report.html")))


@pytest.fixture(scope="module")
def page(finished: Path) -> str:
    return build_report(finished).read_text(encoding="utf-8")


def test_page_is_well_formed_and_asks_the_network_for_nothing(page: str) -> None:
    parsed = Tags(page)
    assert parsed.open == []
    for tag, attributes in parsed.tags:
        assert tag not in ("iframe", "object", "embed")
        for name in ("src", "href", "xlink:href"):
            link = attributes.get(name)
            assert link is None or link.startswith(("#", "data:")), (tag, link)
    scripts = [attributes for tag, attributes in parsed.tags if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "explorer-data"}, {}]
    assert not re.search(r"\b(fetch|XMLHttpRequest|WebSocket|import)\b", page[page.rindex("<script>") :])
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    assert len(page) < 2_000_000


def test_ids_are_unique_and_references_resolve(page: str) -> None:
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    referred = set(re.findall(r'href="#([^"]+)"', page)) | set(re.findall(r"url\(#([^)]+)\)", page))
    assert referred <= set(ids)


def test_no_sentinel_colour_is_left(page: str) -> None:
    assert "#01020" not in page
    assert "var(--held-out)" in page


def test_headers_have_scope_and_pictures_have_words(page: str) -> None:
    for tag, attributes in Tags(page).tags:
        if tag == "th":
            assert attributes.get("scope") in ("col", "row", "rowgroup")
        if tag == "img":
            assert attributes.get("alt")
        if tag == "svg":
            assert attributes.get("aria-label") or attributes.get("aria-hidden") == "true"


def test_notes_are_escaped(page: str) -> None:
    assert NOTE in Tags(page).text
    assert "<of 130>" not in page
    assert "truncated: <0 of 3> rows" in Tags(page).text


def test_counts_and_percentages_are_those_of_the_documents(finished: Path, page: str) -> None:
    document = json.loads((finished / "evaluation" / "sites.json").read_text())["vienna_dias"]
    before = document["before"]["lesion"]
    found = sum(sum(row[1:]) for row in before["confusion"][1:])
    text = Tags(page).text
    assert f"{found} of {before['positives']}" in text
    share = f"{100 * found / before['positives']:.0f}\N{NO-BREAK SPACE}%"
    assert f"At vienna_dias the federation’s threshold found {share} of malignant lesions" in text
    assert document["certificate"]["sentence"].partition(": ")[2] in text


def test_absent_class_is_a_dash_with_its_reason_and_never_zero(finished: Path, page: str) -> None:
    site = read_run(finished).sites["screening_only_nevi"]
    rows = threshold_rows(site)
    assert all(row.performance is not None and row.performance.positives == 0 for row in rows)
    assert "not defined: no malignant lesions in this split" in page
    assert "No curve: no malignant lesions in this split." in Tags(page).text
    assert {row.site: row for row in site_table(finished)}["screening_only_nevi"].sensitivity == "– → –"


def test_findings_are_told_where_a_site_has_them(finished: Path, page: str) -> None:
    text, run = " ".join(Tags(page).text.split()), read_run(finished)
    for site in run.sites.values():
        assert site.shift is not None
        assert site.decisions is not None
        assert site.shift.sentence in text
        assert site.shift.action in text
        assert len(site.thresholds) == 5
        for offer in site.thresholds:
            assert " ".join(offer.promise.split()) in text
            assert " ".join(offer.assumption.split()) in text
        assert paired_decisions(site.decisions) in text
        assert sum(zone.lesions for zone in site.zones) == site.splits["test"].lesions
        for gap in site.subgroup_gaps:
            assert gap.difference.value is not None
            assert f"{gap.highest}{gap.lowest}{gap.difference.value:.2f}" in text
    linked = re.findall(r'<li><a href="#([a-z]+)">', page)
    assert [one for one in linked if f'<section id="{one}"' not in page] == []
    assert {"overview", "explorer", "offers", "zones", "shift", "benefit", "subgroups", "papers"} <= set(
        linked
    )


def test_a_run_without_findings_leaves_their_sections_out(run: Path) -> None:
    path = run / "evaluation" / "sites.json"
    documents = json.loads(path.read_text())
    new = ("thresholds", "zones", "decisions", "shift", "subgroups", "subgroup_gaps")
    path.write_text(
        json.dumps(
            {
                name: {key: value for key, value in site.items() if key not in new}
                for name, site in documents.items()
            }
        )
    )
    page = build_report(run).read_text(encoding="utf-8")
    sections = set(re.findall(r'<section id="([a-z]+)"', page))
    assert not sections & {"offers", "zones", "shift", "subgroups"}
    assert {"overview", "thresholds", "explorer", "discrimination"} <= sections


def test_papers_stand_in_the_page_where_they_are_given(finished: Path) -> None:
    table = "<table><thead><tr><th>Site</th></tr></thead></table>"
    papers = [("Model card", Markup(f"<h3>Intended use</h3><p>Triage &amp; teaching.</p>{table}"))]
    page = render(read_run(finished), papers)
    assert '<thead><tr><th scope="col">Site</th></tr></thead>' in page
    assert '<section id="papers"' not in render(read_run(finished))
    assert "<summary>Model card</summary>" in page
    assert "<h3>Intended use</h3><p>Triage &amp; teaching.</p>" in page
    assert '<a href="#papers">' in page


def test_paired_decisions_in_words() -> None:
    told = paired_decisions(PairedDecisions(only_before=3, only_after=12, p_value=0.035))
    assert "3 were decided rightly only before and 12 only after" in told
    assert "p 0.035" in told
    assert "p below 0.001" in paired_decisions(PairedDecisions(only_before=0, only_after=40, p_value=1e-9))
    same = paired_decisions(PairedDecisions(only_before=0, only_after=0, p_value=None))
    assert same == "Both thresholds decide alike on every test lesion."


def test_held_out_sites_come_first_in_config_order(finished: Path) -> None:
    rows = site_table(finished)
    assert [row.role for row in rows] == ["held-out"] * 3 + ["train"] * 4
    assert [row.site for row in rows[:3]] == ["vienna_dias", "UDA1", "screening_only_nevi"]


def test_gap_is_internal_minus_held_out_and_worst_is_the_lowest(finished: Path) -> None:
    run = read_run(finished)
    rows = {row.site: row for row in discrimination_rows(run)}
    internal = run.federation.pooled["train"]["lesion"].metrics["auc"].value
    outside = run.sites["UDA1"].whole_site["lesion"].metrics["auc"].value
    assert internal is not None
    assert outside is not None
    assert rows["UDA1"].gap == pytest.approx(internal - outside)
    assert rows["rosendahl"].gap is None
    assert rows["screening_only_nevi"].gap is None
    aucs = {name: row.auc.value for name, row in rows.items() if not row.pooled and row.auc.value is not None}
    assert [row.site for row in rows.values() if row.worst] == [min(aucs, key=lambda name: aucs[name])]


def test_audit_is_told_in_words(finished: Path, page: str) -> None:
    audited = json.loads((finished / "audit.json").read_text())["checked"]
    text = " ".join(Tags(page).text.split())
    assert "the same lesion HAM_0000123 at rosendahl (test) and at vidir_modern (train)" in text
    assert f"images, by their pixels: {sum(site['pixels'] for site in audited.values()):,}" in text
    assert "rosendahl: 14 images" in text
    assert "UDA1: 0 images" not in text


def test_refusals_and_traffic_are_told(page: str) -> None:
    text = " ".join(Tags(page).text.split())
    assert "fedderm report · 2026-11-21 05:08:03 UTC" in text
    assert "MSK4: its reply holds NaN in head.weight" in text
    assert f"{ROUNDS} rounds in 4 min 28 s; 326.4 MB sent" in text
    assert "All messages, evaluation included: 812.0 MB down, 402.0 MB up." in text
    assert "Evaluation down" in text
    assert text.count("95.2 MB") == ROUNDS, "a row a round"
    assert text.count("310.0 kB") == ROUNDS
    assert "Not in this report: site far_clinic: no answer within 3600 s" in text


def test_small_cells_stay_hidden(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "hidden", min_cell=10, told=True)
    page = build_report(folder).read_text(encoding="utf-8")
    # The papers tell of two thresholds that decide alike, which is a true zero and hides nobody.
    text = Tags(
        page[: page.index('<section id="papers"')] + page[page.index('<section id="reproduce"') :]
    ).text
    assert (
        "vidir_molemax: nothing to show: the split is empty, or smaller than the site's minimum cell" in text
    )
    assert "vidir_molemax: 0 lesions" not in text
    cards = {card.evaluation.site: card for card in site_cards(read_run(folder))}
    assert (
        cards["vidir_molemax"].cell(cards["vidir_molemax"].evaluation.splits["test"].positive_lesions)
        == "under 10"
    )
    assert cards["vidir_molemax"].prevalence is None
    assert cards["UDA1"].prevalence is not None
    assert any("95\N{NO-BREAK SPACE}% CI" in sentence for sentence in summary_sentences(folder))


def test_gallery_is_embedded_and_devices_are_told(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "simulated", simulated=True, told=True)
    page = build_report(folder).read_text(encoding="utf-8")
    images = [attributes for tag, attributes in Tags(page).tags if tag == "img"]
    assert len(images) == 7
    assert all((image["src"] or "").startswith("data:image/jpeg;base64,") for image in images)
    assert "channel gains 1.06 / 0.97 / 0.93" in page
    assert "images never leave a real site" not in page
    _, (width, height) = contact_sheet(folder / "gallery" / "UDA1.jpg", budget=20_000)
    assert 320 <= width < 804
    assert width / height == pytest.approx(804 / 396, rel=0.02)


def test_the_same_folder_gives_the_same_page(run: Path) -> None:
    assert build_report(run).read_bytes() == build_report(run).read_bytes()
    assert [path.name for path in run.iterdir() if path.name.startswith(".report")] == []


def test_kept_operating_point_is_not_called_the_sites_own(finished: Path) -> None:
    site = read_run(finished).sites["screening_only_nevi"]
    assert threshold_rows(site)[1].label == "Nothing recalibrated"
    moved = site.site_point.model_copy(update={"threshold": site.site_point.threshold - 1})
    own: SiteEvaluation = site.model_copy(update={"site_point": moved})
    assert [row.changed for row in threshold_rows(own)] == [False, True]
