"""The report: what is written, and that a browser shows it, sorts it and filters it without a network."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from browser import CHROMIUM, open_page
from fake_server import FakeServer, formatted, serving
from typer.testing import CliRunner

from verl_mars.cli import app
from verl_mars.probe.charts import Bar, bars, ends
from verl_mars.probe.statistics import Estimate

HOSTILE = (
    "<script>document.title = 'owned'; fetch('http://evil.test')</script>",
    "</td></tr></table><img src=http://evil.test/x onerror=alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    "x" * 100_000,
    "\u202e\x00\x07 \ud800 &lt;b&gt;",
)

pytestmark = pytest.mark.slow
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: the page is not opened")


class Page(HTMLParser):
    """What of a page could do anything."""

    def __init__(self):
        super().__init__()
        self.scripts, self.handlers, self.links = 0, [], []

    def handle_starttag(self, tag, attributes):
        self.scripts += tag == "script"
        self.handlers += [name for name, _ in attributes if name.startswith("on")]
        links = [value or "" for name, value in attributes if name in ("src", "href", "action", "xlink:href")]
        self.links += [link for link in links if not link.startswith("data:image/")]


@pytest.fixture(scope="module")
def report(toy, tmp_path_factory):
    """A report in which some answers are hostile."""
    out = tmp_path_factory.mktemp("report") / "out"

    def answer(asked):
        shown = toy.shown(asked)
        if shown is not None and shown[0] % 10 < len(HOSTILE) and len(shown[1]) == 1:
            return HOSTILE[shown[0] % 10].encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        right = shown is not None and (len(shown[1]) == 1 or shown[0] % 3 > 0)
        return formatted(toy.scenes.answer(shown[0]) if right else "cannot say")

    with serving(FakeServer(answer)) as server:
        arguments = ["probe", str(toy.file), "--server", server.url, "--model", "<b>toy</b>", "--out", str(out)]
        server.models = ("<b>toy</b>",)
        result = CliRunner().invoke(app, [*arguments, "--limit", "120", "--power", "0.05"])
        assert result.exit_code == 0, result.output
    return out / "report.html"


def test_the_page_is_self_contained_and_escaped(report):
    text = report.read_text(encoding="utf-8")
    assert len(text) < 6_000_000
    page = Page()
    page.feed(text)
    assert page.scripts == 1 and page.handlers == [] and page.links == []
    assert "&lt;script&gt;document.title" in text and text.count("<script>") == 1
    assert "&lt;b&gt;toy&lt;/b&gt;" in text and "<b>toy" not in text
    assert "{{ 7 * 7 }}" in text and "more characters)" in text and "x" * 2000 not in text
    rows = re.findall(r'data-class="(\w+)"', text)
    assert len(rows) == 120
    assert rows == sorted(rows, key=["interference", "complementary", "dominant", "unsolved", "redundant"].index)
    assert text.count("data:image/png;base64") == 240


@needs_browser
def test_a_browser_shows_it_without_a_word_in_the_console(report, tmp_path):
    opened = open_page(report, tmp_path / "plain")
    assert opened.console == ()
    assert "120 of 120 rows" in opened.html  # its own script ran
    assert "owned" not in opened.told


@needs_browser
def test_a_browser_sorts_and_filters(report, tmp_path):
    opened = open_page(
        report,
        tmp_path / "driven",
        """
        const rows_of = () => Array.from(document.querySelectorAll("#rows tbody tr"));
        const seen = () => rows_of().filter(row => row.offsetHeight > 0);
        const set = (id, value) => {
          document.getElementById(id).value = value;
          document.getElementById(id).dispatchEvent(new Event("input"));
        };
        const numbers = () => seen().map(row => Number(row.dataset.number));
        const ordered = list => list.every((n, i) => i === 0 || list[i - 1] <= n);
        tell(seen().length);
        tell(ordered(numbers()));
        document.querySelector("[data-sort=number]").click();
        tell(ordered(numbers()));
        document.querySelector("[data-sort=number]").click();
        tell(ordered(numbers().reverse()));
        set("class", "interference");
        tell(seen().length > 0 && seen().every(row => row.dataset.class === "interference"));
        set("view", "fused:right");
        tell(seen().length);
        set("view", "fused:wrong");
        tell(seen().length > 0);
        set("view", ""); set("class", ""); set("search", "where is the hot");
        tell(seen().length > 0 && seen().every(row => row.textContent.includes("where is the hot object?")));
        tell(Array.from(document.images).every(image => image.complete && image.naturalWidth > 0));
        tell(document.getElementById("count").textContent);
        """,
    )
    told = opened.told.split("|")
    assert opened.console == ()
    assert told[:9] == ["120", "false", "true", "true", "true", "0", "true", "true", "true"]
    assert told[9].endswith("of 120 rows") and not told[9].startswith("120")


@needs_browser
def test_the_policy_stops_a_script_that_slipped_through(report, tmp_path):
    page = tmp_path / "slipped.html"
    slipped = "<script>document.title = 'owned'</script></body>"
    page.write_text(report.read_text(encoding="utf-8").replace("</body>", slipped), encoding="utf-8")
    opened = open_page(page, tmp_path / "slipped")
    assert opened.told != "owned" and any("Content Security Policy" in line for line in opened.console)


def test_bars_stand_where_their_numbers_say():
    estimate = Estimate(0.25, 0.0, 0.5, 10, 10)
    svg = bars("title & more", [Bar("<a>", estimate, "#000", "+25")], low=-0.5, high=0.5)
    assert "&lt;a&gt;" in svg and "title &amp; more" in svg
    assert 'x="340.0"' in svg and 'width="70.0"' in svg  # from 0, a quarter of the axis
    assert svg.count("<line") == 5  # -40 -20 0 20 40
    assert ends([estimate, Estimate(-0.31, -0.4, -0.2, 10, 10)]) == pytest.approx((-0.4, 0.6))
