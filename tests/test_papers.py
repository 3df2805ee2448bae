"""The papers: every item once, the documents' numbers, nothing made up, nothing broken by a name."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_runs import draw, write_run

from fedderm.evaluation.documents import Estimate, ShiftDiagnosis, SiteEvaluation
from fedderm.evaluation.subgroups import subgroups
from fedderm.papers import as_html, papers_of, write_papers
from fedderm.papers.markdown import escaped
from fedderm.papers.writing import PAPERS, paper
from fedderm.report.folder import RunFolder, read_run

MISSING = "**missing: to be written by the site**"
TRIPOD_AI = re.findall(
    r"\S+",
    "1 2 3a 3b 3c 4 5a 5b 6a 6b 6c 7 8a 8b 8c 9a 9b 9c 10 11 12a 12b 12c 12d 12e 12f 12g 13 14 15 16 17 "
    "18a 18b 18c 18d 18e 18f 19 20a 20b 20c 21 22 23a 23b 24 25 26 27a 27b 27c",
)
CLAIM = [str(number) for number in range(1, 45)]
HOSTILE = ("<script>alert(1)</script>", "a | b", "**bold** [x](http://y) `c`", "# h\n- i", "\\|", "&lt;b&gt;")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return read_run(write_run(tmp_path_factory.mktemp("papers") / "run"))


@pytest.fixture(scope="module")
def hidden(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return read_run(write_run(tmp_path_factory.mktemp("hidden") / "run", min_cell=10))


def rows_of(text: str) -> list[list[str]]:
    """Return the cells of every row of every table."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def items_of(text: str) -> dict[str, list[str]]:
    rows = [row for row in rows_of(text) if re.fullmatch(r"\d+[a-g]?", row[0])]
    found = {row[0]: row for row in rows}
    assert len(found) == len(rows), "an item is there twice"
    return found


def with_subgroups(run: RunFolder, name: str) -> RunFolder:
    scores = draw(name, 300, np.random.default_rng(3))
    lesions = np.unique(scores.lesion, return_inverse=True)[1]
    rows, gaps = subgroups(
        scores,
        {"sex": np.array(["female", "male", ""])[lesions % 3]},
        run.sites[name].site_point,
        resamples=50,
        rng=np.random.default_rng(4),
    )
    return with_site(run, name, run.sites[name].model_copy(update={"subgroups": rows, "subgroup_gaps": gaps}))


def with_site(run: RunFolder, name: str, site: SiteEvaluation) -> RunFolder:
    return replace(run, sites={**run.sites, name: site})


@pytest.mark.parametrize(("name", "numbers"), [("tripod_ai", TRIPOD_AI), ("claim", CLAIM)])
def test_every_item_of_a_checklist_is_there_once_and_in_order(
    run: RunFolder, name: str, numbers: list[str]
) -> None:
    text = paper(run, name)
    items = items_of(text)
    assert list(items) == numbers
    told = re.search(r"Items: (\d+) filled, (\d+) partly, (\d+) missing", text)
    assert told is not None
    statuses = [row[3] for row in items.values()]
    assert [int(n) for n in told.groups()] == [statuses.count(s) for s in ("filled", "partly", "missing")]
    assert {len(row) for row in items.values()} == {5}


@pytest.mark.parametrize("name", ["tripod_ai", "claim"])
def test_a_status_says_what_the_cell_holds(run: RunFolder, name: str) -> None:
    for number, (_, _, _, status, text) in items_of(paper(run, name)).items():
        expected = "filled" if MISSING not in text else "missing" if text.startswith(MISSING) else "partly"
        assert status == expected, number
        assert text, number


def test_what_no_run_can_know_is_missing(run: RunFolder) -> None:
    tripod, claim = items_of(paper(run, "tripod_ai")), items_of(paper(run, "claim"))
    for number in ("5b", "8b", "17", "18a", "18b", "18d", "19"):
        assert tripod[number][3] == "missing"
    for number in ("11", "15", "16", "18", "34", "44"):
        assert claim[number][3] == "missing"


def test_numbers_are_those_of_the_documents(run: RunFolder) -> None:
    card = paper(run, "model_card")
    rows = rows_of(card)
    for name, site in run.sites.items():
        for split, size in site.splits.items():
            if split == "train" and not size.images:
                continue
            counts = [f"{n:,}" for n in (size.lesions, size.positive_lesions, size.images)]
            assert [name, site.role, split, *counts] in rows
        tested = [row for row in rows if row[0] == name and len(row) == 8]
        for row, performance in zip(tested, (site.before["lesion"], site.after["lesion"]), strict=True):
            assert row[2] == f"{performance.n:,} ({performance.positives:,})"
            for cell, metric in zip(row[3:], ("sensitivity", "specificity", "", "ece", "brier"), strict=True):
                if metric:
                    assert cell == as_printed(performance.metrics[metric])
        assert site.certificate.sentence in card
    pooled = run.federation.pooled["held-out"]["lesion"]
    auc = as_printed(pooled.metrics["auc"])
    assert ["Held-out sites, pooled", f"{pooled.n:,} ({pooled.positives:,})", auc] in rows
    for name in ("tripod_ai", "claim"):
        assert f"Held-out sites, pooled: AUC {auc}" in paper(run, name)


def as_printed(estimate: Estimate) -> str:
    if estimate.value is None:
        return "–"
    if estimate.lower is None or estimate.upper is None:
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} ({estimate.lower:.2f}–{estimate.upper:.2f})"


def test_config_environment_and_audit_are_told(run: RunFolder) -> None:
    tripod, claim = items_of(paper(run, "tripod_ai")), items_of(paper(run, "claim"))
    assert "fedprox, proximal mu 0.01" in tripod["12c"][4]
    assert "112 pixels a side" in tripod["9b"][4]
    assert "torch 2.13.0" in claim["23"][4]
    assert "26ecf6f" in claim["23"][4]
    assert "an 8-core processor" in claim["25"][4]
    assert "14 images at rosendahl" in tripod["20a"][4]
    assert "1 at MSK4" in tripod["20a"][4]
    assert "1 overlap found" in claim["20"][4]
    assert "left out at all sites" in tripod["6b"][4]
    assert "far\\_clinic" not in tripod["26"][4]
    assert "No results from far_clinic" in tripod["26"][4]


def test_subgroups_and_shift_fill_their_items_where_a_run_has_them(run: RunFolder) -> None:
    before, after = paper(run, "model_card"), paper(with_subgroups(run, "UDA1"), "model_card")
    assert "not evaluated in this run" in before
    assert "not evaluated in this run" not in after
    site = with_subgroups(run, "UDA1").sites["UDA1"]
    rows = rows_of(after)
    assert len(site.subgroups) == 3
    for one in site.subgroups:
        shown = [as_printed(value) for value in (one.auc, one.sensitivity, one.specificity)]
        assert ["sex", one.level, f"{one.n:,} ({one.positives:,})", *shown] in rows
    for gap in site.subgroup_gaps:
        assert f"{gap.metric} by sex: {as_printed(gap.difference)}, {gap.highest} over {gap.lowest}." in after
    assert items_of(paper(run, "tripod_ai"))["14"][3] == "missing"
    assert items_of(paper(with_subgroups(run, "UDA1"), "tripod_ai"))["14"][3] == "partly"
    shift = ShiftDiagnosis(
        verdict="prevalence",
        prevalence=Estimate(value=0.3),
        reference_prevalence=0.2,
        prior_shift=0.5,
        evidence={},
        sentence="More malignant lesions here.",
        action="Correct the prior.",
    )
    shifted = with_site(run, "UDA1", run.sites["UDA1"].model_copy(update={"shift": shift}))
    assert "UDA1: More malignant lesions here. Correct the prior." in paper(shifted, "model_card")
    assert "More malignant lesions here." in items_of(paper(shifted, "claim"))["30"][4]


def test_a_site_with_a_minimum_cell_size_stays_hidden(run: RunFolder, hidden: RunFolder) -> None:
    name = "vidir_molemax"  # 8 malignant lesions in a thousand: every split is below 10
    assert all(0 < split.positive_lesions < 10 for split in run.sites[name].splits.values())
    for _, text in papers_of(hidden):
        assert "under 10" in text
    rows = [row for row in rows_of(paper(hidden, "model_card")) if row[0] == name]
    assert {row[4] for row in rows if len(row) == 6} == {"under 10"}
    assert {tuple(row[2:5]) for row in rows if len(row) == 8} == {("–", "–", "–")}
    counts = {split.positive_lesions for split in run.sites[name].splits.values()}
    for number, row in items_of(paper(hidden, "tripod_ai")).items():
        for count in counts:
            assert f"({count} malignant)" not in row[4], number
    assert "1 at MSK4" not in paper(hidden, "claim")
    assert "Too few lesions to show results at " in paper(hidden, "claim")


class Page(HTMLParser):
    """The tags of a page, the texts of each table row's cells, and all text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.rows: list[list[str]] = []
        self.text = ""
        self.in_cell = False
        self.feed(str(html))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not attrs or tag in ("th", "td", "ol"), (tag, attrs)
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.in_cell:
            self.rows[-1][-1] += data


PLAIN = {"h3", "h4", "h5", "p", "em", "strong", "ul", "li"} | {"table", "thead", "tbody", "tr", "th", "td"}


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_names_break_neither_tables_nor_html(run: RunFolder, hostile: str) -> None:
    site = with_subgroups(run, "UDA1").sites["UDA1"]
    rows = [row.model_copy(update={"level": hostile, "attribute": hostile}) for row in site.subgroups]
    site = site.model_copy(update={"site": hostile, "subgroups": rows})
    sites = {(hostile if name == "UDA1" else name): one for name, one in run.sites.items()} | {hostile: site}
    entries = [
        {**entry, "name": hostile} if entry["name"] == "UDA1" else entry for entry in run.config["sites"]
    ]
    config = {**run.config, "name": hostile, "sites": entries}
    broken = replace(run, sites=sites, audit={**run.audit, "removed": {hostile: 3}}, config=config)
    safe = dict(papers_of(with_subgroups(run, "UDA1")))
    for title, text in papers_of(broken):
        page, usual = Page(as_html(text)), Page(as_html(safe[title]))
        assert page.tags <= PLAIN
        assert "<" not in text  # whoever reads the file with another program
        assert text.count("\n") == safe[title].count("\n")
        assert [len(row) for row in page.rows] == [len(row) for row in usual.rows]
        if title == "Model card":
            words = " ".join(hostile.split())
            expected = [[words if cell == "UDA1" else cell for cell in row] for row in usual.rows]
            wrong = [
                (found, row)
                for found, row in zip(page.rows, expected, strict=True)
                if found != row and found[:2] != [words, words]  # a subgroup
            ]
            assert wrong == []
            assert sum(found[:2] == [words, words] for found in page.rows) == len(rows)


@settings(deadline=None)
@given(st.text(max_size=40))
def test_escaped_text_is_shown_as_it_is(value: str) -> None:
    """In a paragraph, in a list and in a table's cell: the text comes back, without a tag of its own."""
    words = " ".join(value.split())
    for before, after in (("", ""), ("- ", ""), ("| a | b |\n|---|---|\n| x | ", " |")):
        page = Page(as_html(f"{before}{escaped(value)}{after}\n"))
        assert page.tags <= PLAIN - {"h3", "h4", "h5", "em", "strong"}
        # CommonMark replaces the null character.
        assert " ".join(page.text.split()).endswith(words.replace("\0", "\ufffd"))


def test_an_older_run_without_much_recorded_still_gives_papers(run: RunFolder) -> None:
    bare = replace(run, config={}, environment={}, audit={}, state={})
    for name in ("tripod_ai", "claim"):
        full, poor = items_of(paper(run, name)), items_of(paper(bare, name))
        assert list(full) == list(poor)
    claim = items_of(paper(bare, "claim"))
    assert [claim[number][3] for number in ("9", "13", "23", "24", "27")] == ["missing"] * 5
    assert MISSING in paper(bare, "model_card")


def test_papers_are_written_beside_the_run(run: RunFolder) -> None:
    paths = write_papers(run)
    assert [path.name for path in paths] == ["model_card.md", "tripod_ai.md", "claim.md"]
    assert {path.parent for path in paths} == {run.path / "papers"}
    assert [path.read_text(encoding="utf-8") for path in paths] == [text for _, text in papers_of(run)]
    assert write_papers(run) == paths  # again, over the old ones
    assert sorted(path.name for path in (run.path / "papers").iterdir()) == sorted(f"{n}.md" for n in PAPERS)


def test_the_page_gets_headings_below_its_own(run: RunFolder) -> None:
    for _, text in papers_of(run):
        html = as_html(text)
        assert html.startswith("<h3>")
        assert not re.search(r"<h[12]>", html)
        assert "<table>" in html


def test_nothing_undefined_is_printed(run: RunFolder, hidden: RunFolder) -> None:
    for _, text in [*papers_of(run), *papers_of(hidden)]:
        assert not re.search(r"\b(nan|inf|None|True|False)\b", text)
