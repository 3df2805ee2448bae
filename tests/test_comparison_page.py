"""compare.html: what it says, and in headless Chromium that nothing fails, is asked for, or is cut off."""

import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from browsers import PATIENCE, chromium, sync_api
from comparison_folders import SITES, Arm, Plan, write_comparison
from test_report_browser import CLIPPED_TEXT, CONTRAST, CUT_OFF

from fedderm.cli.comparison_table import comparison_table
from fedderm.comparison import build_comparison, summary_lines
from fedderm.comparison.effort import Curve
from fedderm.evaluation.documents import Estimate
from fedderm.report.comparison_figures import _looks_of
from fedderm.report.comparison_rows import difference_bar

TWO = Plan({"fedavg": Arm(), "fedprox": Arm(gain=0.02)}, seeds=(1, 2))
MANY = Plan(
    {
        "fedavg": Arm(),
        "fedprox": Arm(0.02),
        "fedavgm": Arm(-0.6),
        "fedadam": Arm(0.3),
        "fedyogi": Arm(0.05),
        "scaffold <i>": Arm(1.5),
        "feddyn": Arm(),
        "fednova": Arm(own=0),
        "fedbn": Arm(-0.1, personal=0.4),
        "fedper": Arm(-0.2, personal=0.3),
        "fed3r, learning_rate 0.001": Arm(0.1),
        "a label of sixty letters that says all that there is to say.": Arm(),
        "pooled": Arm(0.6, baseline="pooled"),
        "local": Arm(-0.4, baseline="local"),
    },
    failed={"fedadam/3": "round 2: site <rosendahl> sent arrays that are not finite"},
    waiting=["fedyogi/5"],
)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pages")
    folds = Plan({"fedavg": Arm(), "scaffold": Arm(0.5)}, seeds=(1, 2), folds=True)
    plans = {"two": TWO, "many": MANY, "folds": folds}
    return {name: build_comparison(write_comparison(root / name, plan)) for name, plan in plans.items()}


@pytest.fixture(scope="module")
def browser() -> Iterator["sync_api.Browser"]:
    with chromium() as started:
        yield started


def sections(page: Path) -> list[str]:
    return re.findall(r'<section id="(\w+)"', page.read_text(encoding="utf-8"))


def test_a_page_has_the_sections_that_it_has_something_for(pages: dict[str, Path]) -> None:
    always = ["arms", "differences", "ranks", "cost", "convergence", "reading"]
    assert sections(pages["two"]) == always
    everything = [*always[:2], "personal", *always[2:5], "local", "unfinished", always[5]]
    assert sections(pages["many"]) == everything
    for page in pages.values():
        text = page.read_text(encoding="utf-8")
        assert re.findall(r'<li><a href="#(\w+)"', text) == sections(page)
        assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]+"', "", text)


def test_the_page_says_what_the_tables_hold(pages: dict[str, Path]) -> None:
    page = pages["many"]
    text = page.read_text(encoding="utf-8")
    for sentence in summary_lines(page.parent):
        assert sentence.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") in text
    assert "scaffold &lt;i&gt;" in text
    assert "site &lt;rosendahl&gt; sent arrays" in text
    summary = pd.read_csv(page.parent / "results" / "summary.csv")
    auc = summary[(summary["metric"] == "auc") & (summary["model"] == "global")]
    for _, row in auc[auc["arm"] == "feddyn"].iterrows():
        assert f'<span class="value">{row["mean"]:.3f}' in text
    differences = pd.read_csv(page.parent / "results" / "differences.csv")
    claimed = differences[(differences["p_holm"] < 0.05) & (differences["seeds"] >= 5)]
    assert set(claimed["arm"]) >= {"scaffold <i>", "pooled"}
    # A claim is marked in the table of means (of personal models' only the AUC has one), and where it is of
    # the AUC in the table of differences, too.
    of_auc = claimed["metric"] == "auc"
    marks = (of_auc | (claimed["model"] == "global")).sum() + of_auc.sum()
    assert text.count("▲</abbr>") + text.count("▼</abbr>") == marks


def test_nothing_is_marked_with_few_seeds(pages: dict[str, Path]) -> None:
    text = pages["two"].read_text(encoding="utf-8")
    assert "</abbr>" not in text
    assert "with fewer than 5 seeds nothing is marked" in text


def test_one_seed_and_one_site_are_told_as_such(tmp_path: Path) -> None:
    sites = {name: SITES[name] for name in ("vienna", "rosendahl", "molemax")}
    plan = Plan({"fedavg": Arm(), "local": Arm(baseline="local"), "zero": Arm()}, seeds=(1,), sites=sites)
    text = build_comparison(write_comparison(tmp_path / "c", plan)).read_text(encoding="utf-8")
    assert "new seeds and new lesions" not in text
    assert "new seeds and lesions" not in text
    assert "over sites with one seed, with 95 % intervals over new lesions alone" in text
    assert "mean over seeds, 95 %" not in text
    assert "Average rank by AUC over 2 training sites and 1 seed" in text
    assert "over 1 held-out site" not in text
    assert 'class="arms dense narrow"' in text


def test_a_leader_is_not_drawn_like_data_and_ticks_are_round(pages: dict[str, Path]) -> None:
    text = pages["two"].read_text(encoding="utf-8")
    assert re.search(r">\d+\N{NO-BREAK SPACE}MB</text>", text)
    assert not re.search(r"\.0\N{NO-BREAK SPACE}MB</text>", text)
    looks = _looks_of([Curve(str(n), "train", pd.DataFrame(), True) for n in range(20)], "0")
    assert len({(str(dash), ink) for dash, ink, _ in looks.values()}) == 20
    assert len({(ink, marker) for _, ink, marker in looks.values()}) == 20


def test_a_bar_is_drawn_about_zero_and_ends_at_the_scale() -> None:
    bar = str(difference_bar(Estimate(value=0.0, lower=-0.2, upper=0.05), 0.1, "worse"))
    assert 'cx="66.0"' in bar
    assert 'x1="4.0" x2="97.0"' in bar  # the lower end lies beyond the scale and is cut there
    assert "worse" in bar
    assert "whisker" not in str(difference_bar(Estimate(value=0.1), 0.1, ""))


def test_the_terminal_shows_the_same_numbers(pages: dict[str, Path]) -> None:
    folder = pages["many"].parent
    table = comparison_table(folder, 120)
    heads = [str(column.header) for column in table.columns]
    assert heads == [
        "arm",
        *(f"{r} sites,\n{p}" for r in ("held-out", "training") for p in ("mean", "worst")),
    ]
    arms = [str(cell) for cell in table.columns[0].cells]
    assert arms[0] == "fedavg (reference)"
    assert "local" not in arms
    summary = pd.read_csv(folder / "results" / "summary.csv")
    auc = summary[(summary["metric"] == "auc") & (summary["model"] == "global")]
    means = auc[(auc["site"] == "(mean)") & (auc["role"] == "held-out")].set_index("arm")
    shown = dict(zip(arms, map(str, table.columns[1].cells), strict=True))
    for arm, mark in (("feddyn", ""), ("pooled", "*")):
        row = means.loc[arm]
        assert shown[arm] == f"{row['mean']:.3f}{mark} [{row['lower']:.2f}, {row['upper']:.2f}]"
    assert str(next(iter(comparison_table(folder, 80).columns[1].cells))).count("\n") == 1


@pytest.mark.parametrize("width", [1280, 800])
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", ["two", "many", "folds"])
def test_the_page_opens_cleanly(
    browser: "sync_api.Browser", pages: dict[str, Path], name: str, width: int, theme: str
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=theme)
    page.set_default_timeout(PATIENCE)
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(pages[name].as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert page.evaluate(CUT_OFF) == []
    assert page.evaluate(CLIPPED_TEXT) == []
    assert page.evaluate(CONTRAST) == []
    # Every site has its column in the table of AUCs of its role.
    assert all(page.get_by_role("columnheader", name=re.compile(site)).count() for site in SITES)
    page.close()
