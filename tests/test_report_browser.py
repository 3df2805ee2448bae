"""The report in headless Chromium: no error, no request, nothing cut off; two widths, both themes."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from browsers import PATIENCE, chromium, sync_api
from report_runs import write_run

from fedderm.report import build_report

# Elements that stick out of the window and of every ancestor that scrolls or clips on its own.
CUT_OFF = """() => [...document.body.querySelectorAll('*')].filter(element => {
  const box = element.getBoundingClientRect();
  if (box.width === 0 || (box.right <= innerWidth + 1 && box.left >= -1)) return false;
  for (let at = element.parentElement; at; at = at.parentElement)
    if (at.matches('.scroll, pre')) return false;
  if (element.matches('.unseen')) return false;
  return true;
}).map(element => element.tagName + '.' + (element.getAttribute('class') || '')).slice(0, 10)"""
# Text wider than the box that clips it, and drawings with text outside their view.
CLIPPED_TEXT = """() => [...document.querySelectorAll('figure svg')].flatMap(svg => {
  const frame = svg.getBoundingClientRect();
  return [...svg.querySelectorAll('text')].filter(text => {
    const box = text.getBoundingClientRect();
    return box.right > frame.right + 2 || box.left < frame.left - 2
        || box.top < frame.top - 3 || box.bottom > frame.bottom + 3;
  }).map(text => text.textContent);
})"""
CONTRAST = """() => {
  const parse = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = colour => parse(colour).slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = element => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if ((parse(colour)[3] ?? 1) > 0) return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  const poor = new Set();
  const all = document.body.querySelectorAll('p, th, td, dt, dd, span, a, li, summary, strong, abbr');
  for (const element of all) {
    if (!element.textContent.trim()) continue;
    const [a, b] = [light(getComputedStyle(element).color), light(ground(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) poor.add(element.tagName + '.' + element.className + ' ' + ratio.toFixed(2));
  }
  return [...poor];
}"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_report(write_run(tmp_path_factory.mktemp("browser") / "run", simulated=True, told=True))


@pytest.fixture(scope="module")
def browser() -> Iterator["sync_api.Browser"]:
    with chromium() as started:
        yield started


@pytest.mark.parametrize("width", [1280, 800])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_report_opens_cleanly(browser: "sync_api.Browser", report: Path, width: int, theme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=theme)
    page.set_default_timeout(PATIENCE)
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(report.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    page.wait_for_function("[...document.images].every(image => image.complete)")
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert page.evaluate(CUT_OFF) == []
    assert page.evaluate(CLIPPED_TEXT) == []
    assert page.evaluate(CONTRAST) == []
    assert page.evaluate("document.images.length") == 7
    assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
    assert page.evaluate("document.querySelectorAll('figure svg path').length") > 50
    headings = [heading.inner_text() for heading in page.query_selector_all("h1, h2")]
    assert "Papers for the ethics board" in headings
    assert headings[:2] == ["ham10000_fedprox", "Who took part"]
    assert "Threshold explorer" in headings
    assert len(headings) == 18
    page.close()


def test_nothing_is_cut_off_on_paper(browser: "sync_api.Browser", report: Path) -> None:
    # A4 less its margins is 672 pixels wide.
    page = browser.new_page(viewport={"width": 672, "height": 1000})
    page.set_default_timeout(PATIENCE)
    page.emulate_media(media="print")
    page.goto(report.as_uri())
    for opened in (False, True):
        page.evaluate("to => document.querySelectorAll('details').forEach(one => one.open = to)", opened)
        assert page.evaluate("document.documentElement.scrollWidth") == 672
    page.close()


def test_a_page_that_is_cut_off_would_be_seen(
    browser: "sync_api.Browser", report: Path, tmp_path: Path
) -> None:
    wide = tmp_path / "wide.html"
    wide.write_text(
        report.read_text(encoding="utf-8").replace("<h1>", '<h1 style="width:1400px">'), encoding="utf-8"
    )
    page = browser.new_page(viewport={"width": 800, "height": 900})
    page.goto(wide.as_uri(), timeout=PATIENCE)
    assert page.evaluate(CUT_OFF) == ["H1."]
    page.close()
