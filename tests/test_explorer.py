"""The threshold explorer in headless Chromium: what it shows is what Python says of the same counts."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsers import PATIENCE, chromium, sync_api
from report_runs import KEEPS_ITS_COUNTS, write_run

from fedderm.evaluation.calibration_maps import CalibrationMap
from fedderm.evaluation.counts import Counts, bin_of, lower_edge
from fedderm.evaluation.curves import decisions_at, edge_probabilities
from fedderm.evaluation.documents import Unit
from fedderm.evaluation.proportions import wilson
from fedderm.evaluation.thresholds import certified_threshold, federation_threshold, misses_allowed
from fedderm.report import build_report
from fedderm.report.explorer import Explorer, explorer_of, small_share
from fedderm.report.explorer_data import page_data
from fedderm.report.folder import RunFolder, read_run
from fedderm.report.histograms import axis_of, histograms_of

SCRIPT = Path("fedderm/report/explorer.js.md")
RATES = ("sensitivity", "specificity", "ppv", "npv")
TABLE = """() => Object.fromEntries([...document.querySelectorAll('#explorer tr[data-row]')].map(row => [
  row.querySelector('th span').textContent,
  Object.fromEntries([...row.querySelectorAll('[data-cell]')].map(cell => [cell.dataset.cell, {
    value: cell.dataset.value === undefined || cell.dataset.value === '' ? null : Number(cell.dataset.value),
    text: cell.querySelector('.value').textContent, below: cell.querySelector('.of').textContent}]))]))"""
MOVE = """index => { const slider = document.querySelector('#explorer-threshold');
  slider.value = index; slider.dispatchEvent(new Event('input')); }"""
INDEX = "() => Number(document.querySelector('#explorer-threshold').value)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_run(tmp_path_factory.mktemp("explorer") / "run", told=True)
    build_report(path)
    return path


@pytest.fixture(scope="module")
def run(folder: Path) -> RunFolder:
    return read_run(folder)


@pytest.fixture(scope="module")
def explorer(run: RunFolder) -> Explorer:
    found = explorer_of(run)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator["sync_api.Browser"]:
    with chromium() as started:
        yield started


@pytest.fixture
def page(browser: "sync_api.Browser", folder: Path) -> Iterator["sync_api.Page"]:
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    opened.set_default_timeout(PATIENCE)
    said: list[str] = []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.goto((folder / "report.html").as_uri())
    yield opened
    assert said == []
    opened.close()


def counted(run: RunFolder) -> dict[str, tuple[Counts, Counts | None, CalibrationMap]]:
    """Return (test counts, calibration counts, own map) by row of the page, from the run's folder."""
    rows = {
        name: (held["test"], held["calibration"], CalibrationMap.of(run.sites[name].site_point))
        for name, held in run.counts.items()
    }
    pool = CalibrationMap.of(run.federation.operating_point)
    for label, role in (("Held-out sites, pooled", "held-out"), ("Training sites, pooled", "train")):
        members = [rows[name] for name in run.counts if run.sites[name].role == role]
        calibration = sum((one[1] for one in members), Counts.zero()) if role == "train" else None
        rows[label] = (sum((one[0] for one in members), Counts.zero()), calibration, pool)
    return rows


def check(run: RunFolder, shown: dict[str, Any], index: int, unit: Unit, target: float) -> None:
    """Compare the page's table with what Python says of the run's counts."""
    rows = counted(run)
    assert set(shown) == set(rows)
    threshold = lower_edge(index)
    scale = edge_probabilities(CalibrationMap.of(run.federation.operating_point))
    for name, (test, calibration, own) in rows.items():
        found, cells = decisions_at(test, unit, threshold), shown[name]
        for rate in RATES:
            assert cells[rate]["value"] == pytest.approx(getattr(found, rate)), (name, rate)
        assert cells["sensitivity"]["text"] == f"{100 * (found.sensitivity or 0):.1f}\N{NO-BREAK SPACE}%"
        low, high = wilson(found.found, found.malignant)
        below = f"{100 * low:.0f}–{100 * high:.0f}" if unit == "lesion" else ""
        assert cells["sensitivity"]["below"] == below
        assert cells["referrals"]["value"] == pytest.approx(found.referrals_per_1000)
        benefit = found.net_benefit(float(edge_probabilities(own)[index]))
        assert cells["benefit"]["value"] == pytest.approx(benefit, abs=2e-5)
        if calibration is None:
            assert cells["certified"]["text"] == "–"
            continue
        histogram = calibration.histograms("lesion")[1]
        k = misses_allowed(int(histogram.sum()), target, 0.95)
        if k is None:
            assert cells["certified"]["text"] == "too few"
            assert cells["certified"]["below"].startswith(f"{histogram.sum()} of ")
        else:
            highest = int(np.searchsorted(np.cumsum(histogram), k, side="right"))
            assert cells["certified"]["value"] == highest
            assert cells["certified"]["text"] == ("yes" if index <= highest else "no")
            assert cells["certified"]["below"] == f"up to {small_share(float(scale[highest]))}"


def test_the_slider_shows_what_python_says_of_the_counts(
    page: "sync_api.Page", run: RunFolder, explorer: Explorer
) -> None:
    first, last, start = explorer.steps
    assert page.evaluate(INDEX) == start == bin_of(run.federation.operating_point.threshold)
    check(run, page.evaluate(TABLE), start, "lesion", 0.9)
    for index in (first, first + 301, start + 77, (first + last) // 2, last):
        page.evaluate(MOVE, index)
        check(run, page.evaluate(TABLE), index, "lesion", 0.9)
    page.get_by_label("images", exact=True).check()
    for index in (last, start, first + 5):
        page.evaluate(MOVE, index)
        check(run, page.evaluate(TABLE), index, "image", 0.9)
    page.get_by_role("button", name="Federation’s threshold").click()
    assert page.evaluate(INDEX) == start


def test_a_typed_target_moves_threshold_and_certified_range(page: "sync_api.Page", run: RunFolder) -> None:
    pooled = counted(run)["Training sites, pooled"][1]
    assert pooled is not None
    field = page.locator("#explorer-target")
    for typed in ("80", "95", "97.5", "90"):
        field.fill(typed)
        field.press("Enter")
        threshold, _ = federation_threshold(pooled, float(typed) / 100, 0.95)
        assert page.evaluate(INDEX) == bin_of(threshold)
        check(run, page.evaluate(TABLE), int(bin_of(threshold)), "lesion", float(typed) / 100)
        assert page.locator(".target-word").inner_text() == f"{typed}\N{NO-BREAK SPACE}%"
    # 90 is the run's own target: back at the federation's threshold.
    assert lower_edge(page.evaluate(INDEX)) == run.federation.operating_point.threshold
    before = page.evaluate(TABLE)
    field.fill("12")
    field.press("Enter")
    assert field.get_attribute("aria-invalid") == "true"
    assert page.evaluate(TABLE) == before


def test_a_typed_malignancy_sets_the_first_threshold_with_it(page: "sync_api.Page", run: RunFolder) -> None:
    scale = edge_probabilities(CalibrationMap.of(run.federation.operating_point))
    for typed in ("12.5", "3", "40"):
        page.locator("#explorer-malignancy").fill(typed)
        page.locator("#explorer-malignancy").press("Enter")
        wanted = int(np.searchsorted(np.round(scale, 6), float(typed) / 100))
        check(run, page.evaluate(TABLE), wanted, "lesion", 0.9)


def test_the_keyboard_moves_it_and_a_screen_reader_hears(
    page: "sync_api.Page", run: RunFolder, explorer: Explorer
) -> None:
    first, last, start = explorer.steps
    slider = page.get_by_role("slider", name="Triage threshold")
    slider.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert page.evaluate(INDEX) == start + 3
    check(run, page.evaluate(TABLE), start + 3, "lesion", 0.9)
    page.keyboard.press("ArrowLeft")
    assert page.evaluate(INDEX) == start + 2
    assert "malignancy" in (slider.get_attribute("aria-valuetext") or "")
    page.keyboard.press("Home")
    shown = page.evaluate(TABLE)
    assert page.evaluate(INDEX) == first
    assert {cells["sensitivity"]["text"] for cells in shown.values()} == {"100.0\N{NO-BREAK SPACE}%"}
    page.keyboard.press("End")
    assert page.evaluate(INDEX) == last
    assert {cells["referrals"]["text"] for cells in page.evaluate(TABLE).values()} == {"0"}
    page.wait_for_function("document.querySelector('#explorer-said').textContent.includes('sensitivity 0.0')")
    assert page.locator("#explorer-said").get_attribute("aria-live") == "polite"
    # From the slider on, Tab reaches every control.
    reached = []
    for _ in range(4):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.name"))
    assert reached == ["explorer-target", "explorer-malignancy", "explorer-unit", "explorer-reset"]


def test_the_line_and_the_certified_range_move_in_the_drawings(
    page: "sync_api.Page", explorer: Explorer
) -> None:
    cut = (
        "() => [...document.querySelectorAll('.histogram .cut')].map(line => Number(line.getAttribute('x1')))"
    )
    reach = cut.replace(".cut", ".certified").replace("'x1'", "'width'")
    drawn = histograms_of(explorer)
    written = [float(re.findall(r'class="cut" x1="([\d.]+)"', svg)[0]) for svg in drawn.values()]
    assert page.evaluate(cut) == pytest.approx(written, abs=0.1)
    widths = page.evaluate(reach)
    page.evaluate(MOVE, explorer.steps[2] + 200)
    assert min(page.evaluate(cut)) > max(written)
    assert page.evaluate(reach) == widths
    page.locator("#explorer-target").fill("75")
    page.locator("#explorer-target").press("Enter")
    moved = page.evaluate(reach)
    assert all(after >= before for after, before in zip(moved, widths, strict=True))
    assert sum(moved) > sum(widths)


def test_paper_shows_the_federations_threshold_and_the_page_goes_back(
    page: "sync_api.Page", explorer: Explorer
) -> None:
    page.evaluate(
        f"() => addEventListener('beforeprint', () => {{ window.printed = [({INDEX})(), "
        "document.querySelector('.unit-word').textContent]; })"
    )
    page.get_by_label("images", exact=True).check()
    page.evaluate(MOVE, explorer.steps[1] - 3)
    shown = page.evaluate(TABLE)
    paper = page.pdf(format="A4")
    assert paper.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", paper)) >= 5
    assert page.evaluate("window.printed") == [explorer.steps[2], "lesions"]
    assert page.evaluate(TABLE) == shown
    page.emulate_media(media="print")
    assert not page.locator("#explorer .controls").is_visible()
    assert page.locator("#explorer .static").is_visible()


def test_without_scripts_the_same_numbers_stand_there(
    browser: "sync_api.Browser", page: "sync_api.Page", folder: Path
) -> None:
    moved = page.evaluate(TABLE)
    context = browser.new_context(java_script_enabled=False)
    still = context.new_page()
    still.set_default_timeout(PATIENCE)
    still.goto((folder / "report.html").as_uri())
    assert not still.locator("#explorer .controls").is_visible()
    rows = still.locator("#explorer tr[data-row]")
    assert rows.count() == len(moved)
    for index, (name, cells) in enumerate(moved.items()):
        assert rows.nth(index).locator("th span").first.text_content() == name
        for cell, shown in cells.items():
            there = rows.nth(index).locator(f"[data-cell={cell}]")
            assert there.locator(".value").text_content() == shown["text"], (name, cell)
            assert there.locator(".of").text_content() == shown["below"], (name, cell)
    context.close()


def test_the_scripts_order_statistic_is_pythons(page: "sync_api.Page") -> None:
    source = re.search(r"const missesAllowed = (\(.*?\n  \});", SCRIPT.read_text(encoding="utf-8"), re.DOTALL)
    assert source is not None
    grid = [
        (n, t, c) for n in (0, 1, 28, 29, 46, 120, 999, 7000) for t in (0.6, 0.9, 0.975) for c in (0.9, 0.95)
    ]
    run_all = f"grid => {{ const f = {source[1]}; return grid.map(([n, t, c]) => f(n, t, c)); }}"
    assert page.evaluate(run_all, grid) == [misses_allowed(*one) for one in grid]


def test_rows_at_the_federations_threshold_are_the_sites_own_documents(
    run: RunFolder, explorer: Explorer
) -> None:
    for row, cells in explorer.table:
        if row.members:
            continue
        document = run.sites[row.name].before["lesion"].metrics
        for cell in cells[:2]:
            value = document[cell.name].value
            assert value is not None
            assert cell.text == f"{100 * value:.1f}\N{NO-BREAK SPACE}%"
    assert explorer.kept_back == list(KEEPS_ITS_COUNTS)
    for one in explorer.exactness:
        assert one.exact is not None
        assert one.from_counts is not None
        assert abs(one.exact - one.from_counts) <= (one.bound or 0) < 1e-2


def test_certified_ranges_are_those_of_the_raw_scores_to_a_bin(explorer: Explorer) -> None:
    for row in explorer.sites:
        certificate = explorer.certificate_of(row)
        assert certificate is not None
        if certificate[1].certified:
            assert row.calibration is not None
            centres, weights = row.calibration.weighted("lesion")
            scores = np.repeat(centres.triage, weights.astype(int))
            exact, _ = certified_threshold(
                scores[np.repeat(centres.positive, weights.astype(int))], 0.9, 0.95
            )
            assert exact is not None
            assert lower_edge(int(bin_of(exact))) == certificate[0]


def test_what_a_minimum_cell_hides_is_a_dash_and_its_cost_is_shown(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "hidden", min_cell=10, told=True)
    hidden = explorer_of(read_run(folder))
    assert hidden is not None
    rows = {row.name: {cell.name: cell for cell in cells} for row, cells in hidden.table}
    assert [rows["vidir_molemax"][name].text for name in ("sensitivity", "npv", "referrals", "benefit")] == [
        "–"
    ] * 4
    assert rows["vidir_molemax"]["certified"].below == "under 10 of 29"
    costs = {one.site: one for one in hidden.exactness}
    exact, found = costs["rosendahl"].exact, costs["rosendahl"].from_counts
    assert exact is not None
    assert found is not None
    # Merged bins make the AUC approximate, and the page says by how much.
    assert 0.001 < exact - found < 0.05
    text = build_report(folder).read_text(encoding="utf-8")
    assert f"<td>{exact:.5f}</td><td>{found:.5f}</td>" in text
    assert "minimum cell 10: approximate" in text


def test_a_run_without_counts_says_why(folder: Path, tmp_path: Path) -> None:
    old = Path(shutil.copytree(folder, tmp_path / "old"))
    (old / "evaluation" / "counts.npz").unlink()
    text = build_report(old).read_text(encoding="utf-8")
    assert "holds no counts (evaluation/counts.npz)" in " ".join(text.split())
    assert "<script" not in text
    assert "decision curve" not in text
    (old / "evaluation" / "counts.npz").write_bytes(b"not an archive")
    with pytest.raises(ValueError, match="cannot be read as the counts"):
        build_report(old)


def test_no_name_can_leave_the_data(explorer: Explorer) -> None:
    hostile = "</script><script>alert(1)</script><!--"
    row = replace(explorer.sites[0], name=hostile)
    data = page_data(replace(explorer, rows=[row]), axis_of(explorer))
    assert "<" not in data
    assert json.loads(data)["rows"][0]["name"] == hostile
