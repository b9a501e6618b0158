"""The page of `doit report` in a real browser without a network: it renders, sorts, filters, and stays quick."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tasks_lib.report.render import render_page
from tasks_lib.units import format_duration, format_size
from tests.browser import BROWSER, headless
from tests.records import record

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not BROWSER, reason="needs chromium and chromedriver"),
]
#: Most seconds for one answer of the page with 10,000 artifacts, measured by the page itself; a bound against the
#: quadratic, not a benchmark: the slowest one takes 0.06 s on an idle machine.
BOUND_S = 2.0


class Page:
    """A page in a browser, with what went wrong in it."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, path: Path) -> None:
        self.complaints(), self.requests()  # those of the page before
        self.driver.get(path.as_uri())

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def run(self, script: str, *arguments: object) -> Any:
        return self.driver.execute_script(script, *arguments)

    def column(self, number: int) -> list[str]:
        """Return the texts of a column of the table, as far as its rows are in the document."""
        script = (
            "return [...document.querySelectorAll('#rows tr.row')].map((row) => row.cells[arguments[0]].textContent)"
        )
        found = self.run(script, number)
        assert isinstance(found, list)
        return found

    def search(self, text: str) -> None:
        field = self.one("#search")
        field.clear()
        field.send_keys(text or " ", *([] if text else [Keys.BACKSPACE]))

    @property
    def count(self) -> str:
        return str(self.one("#count").text)

    def _log(self, kind: str) -> list[dict[str, Any]]:
        return list(self.driver.get_log(kind))  # type: ignore[no-untyped-call]  # selenium's drivers lack this one

    def complaints(self) -> list[str]:
        """Return everything in the console that is worse than a note."""
        return [entry["message"] for entry in self._log("browser") if entry["level"] != "INFO"]

    def requests(self) -> list[str]:
        """Return every requested URL, except the browser's own pages and data URLs."""
        messages = [json.loads(entry["message"])["message"] for entry in self._log("performance")]
        asked = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
        return [url for url in asked if not url.startswith(("chrome", "data:"))]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with headless(tmp_path_factory.mktemp("profile")) as driver:
        yield Page(driver)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Return what writes a page of so many artifacts, once."""
    directory = tmp_path_factory.mktemp("pages")

    def written(artifacts: int) -> Path:
        path = directory / f"{artifacts}.html"
        if not path.exists():
            path.write_text(render_page(record(artifacts)), "utf-8")
        return path

    return written


def test_it_renders(browser: Page, pages: Callable[[int], Path]) -> None:
    """Figures, advice, timeline, path, table, graph and hosts are there; nothing complains, nothing is asked for."""
    path = pages(60)
    browser.open(path)
    assert "60 fetched" not in browser.one("#figures").text
    assert "57\nfetched" in browser.one("#figures").text
    assert "add a mirror" in browser.one("#advice-list").text
    assert browser.count == "120 of 120"
    assert len(browser.all("#path-list li")) == 2
    assert len(browser.all("#graph-box .node")) == 120
    assert len(browser.all("#graph-box .edge")) == 60
    assert browser.one("#host-rows").text.splitlines()[0].startswith("ftp.gnu.org 4")
    painted = browser.run(
        "const pen = canvas.getContext('2d'), data = pen.getImageData(0, 0, canvas.width, canvas.height).data;"
        "return new Set(new Uint32Array(data.buffer)).size"
    )
    assert painted > 20, "the timeline is empty"
    assert browser.complaints() == []
    assert set(browser.requests()) == {path.as_uri()}


def test_failures_and_meanings(browser: Page, tmp_path: Path) -> None:
    """The page opens with the message of each failed task, and the legend says what waiting means."""
    made = record(3)
    made["tasks"][0] |= {
        "outcome": "failed",
        "message": "sha256 differs\nexpected a, got b",
        "phases": [["wait", 0, 9]],
    }
    (tmp_path / "page.html").write_text(render_page(made), "utf-8")
    browser.open(tmp_path / "page.html")
    failures = browser.one("#failures").text
    assert made["tasks"][0]["name"] in failures
    assert "sha256 differs\nexpected a, got b" in failures
    assert "waiting: for another process, or before a retry" in browser.one("#legend-help").text
    (tmp_path / "page.html").write_text(render_page({**made, "tasks": made["tasks"][1:2]}), "utf-8")
    browser.open(tmp_path / "page.html")
    assert not browser.one("#failures").is_displayed()


def test_it_sorts(browser: Page, pages: Callable[[int], Path]) -> None:
    """A click on a header sorts, another one turns the order, and the header says so to assistive technology."""
    browser.open(pages(60))
    heads = browser.all("#head button")
    heads[0].click()
    names = browser.column(0)
    assert names == sorted(names)
    assert names[0] == "extract:package-00000"
    heads[0].click()
    names = browser.column(0)
    assert names == sorted(names, reverse=True)
    assert browser.one("#head th").get_attribute("aria-sort") == "descending"
    heads[3].click()
    sizes = browser.run("return [...document.querySelectorAll('#rows tr.row')].map((row) => row.cells[3].textContent)")
    numbers = [float(text.split()[0]) * {"KiB": 1, "MiB": 1024}[text.split()[1]] for text in sizes if text]
    assert numbers == sorted(numbers, reverse=True)
    assert browser.complaints() == []


def test_figures_are_those_of_the_run(browser: Page, pages: Callable[[int], Path]) -> None:
    """The page tells sizes as the run's lines do, and durations too from one second on."""
    browser.open(pages(60))
    sizes = sorted(
        {0, 1, 1023, 1280, 10_240_000, *(unit << at for at in range(43) for unit in (1, 3, 999, 1000, 1023))}
    )
    assert browser.run("return arguments[0].map(formatSize)", sizes) == [format_size(size) for size in sizes]
    times_ms = [1000, 1250, 9950, 59_940, 59_950, 60_500, 3_599_400, 3_599_500, 7_384_000, 100_000_000]
    assert browser.run("return arguments[0].map(formatTime)", times_ms) == [
        format_duration(ms / 1000) for ms in times_ms
    ]


def test_it_filters(browser: Page, pages: Callable[[int], Path]) -> None:
    """Words of the search, the kind and the states each narrow the table, together and one by one."""
    browser.open(pages(60))
    browser.search("package-0001")
    assert browser.count == "20 of 120"
    browser.search("package-0001 FETCH ftp.gnu")
    assert all(name.startswith("fetch:package-0001") for name in browser.column(0))
    browser.search("no source provided")
    assert sorted(browser.column(0)) == ["fetch:package-00007", "fetch:package-00027", "fetch:package-00047"]
    browser.search("")
    browser.one("#states [data-state=failed]").click()
    assert browser.count == "3 of 120"
    browser.one("#states [data-state=not-run]").click()
    assert browser.count == "6 of 120"
    browser.run("kind.value = 'extract'; kind.dispatchEvent(new Event('change'))")
    assert browser.count == "3 of 120"
    browser.search("nothing like this")
    assert browser.count == "0 of 120"
    assert browser.column(0) == []
    assert browser.complaints() == []


def test_it_works_with_a_keyboard(browser: Page, pages: Callable[[int], Path]) -> None:
    """Arrows move in the table, Enter shows details, Escape closes them; the timeline zooms and moves."""
    browser.open(pages(60))
    browser.all("#head button")[0].send_keys(Keys.ENTER)
    table = browser.one("#scroll")
    table.send_keys(Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    assert browser.one("#rows tr.at").get_attribute("id") == table.get_attribute("aria-activedescendant") == "row-1"
    table.send_keys(Keys.END)
    assert browser.one("#rows tr.at td").text == "fetch:package-00059"
    table.send_keys(Keys.ENTER)
    assert browser.one("#detail-title").text == "fetch:package-00059"
    assert "sha256" in browser.one("#detail-facts").text
    assert "extract:package-00059" in browser.one("#detail-facts").text
    table.send_keys(Keys.ESCAPE)
    assert not browser.one("#detail").is_displayed()
    canvas = browser.one("#canvas")
    before = browser.run("return canvas.toDataURL()")
    canvas.send_keys("+", "+", Keys.ARROW_RIGHT)
    time.sleep(0.3)
    assert browser.run("return canvas.toDataURL()") != before
    canvas.send_keys("0")
    time.sleep(0.3)
    assert browser.run("return canvas.toDataURL()") == before
    assert browser.complaints() == []


def test_hostile_names(browser: Page, tmp_path: Path) -> None:
    """Names that are markup, scripts or terminal sequences are shown as text, in every part of the page."""
    made = record(3)
    evil = "</script><img src=x onerror=\"document.title='owned'\"><b>&lt;\u202e\x1b[31m"
    for number, task in enumerate(made["tasks"]):
        task |= {
            "name": f"fetch:{evil}{number}",
            "artifact": evil,
            "message": evil,
            "warnings": [evil],
            "sources": [evil],
        }
        for phase in task.get("phases", ()):
            phase[0] = phase[0] if phase[0] == "body" else evil
            phase[4:] = [f"http://a/{evil}"] if len(phase) > 4 else []
    path = tmp_path / "evil.html"
    path.write_text(render_page(made | {"workers": [evil] * 16, "errors": [evil]}), "utf-8")
    browser.open(path)
    browser.all("#rows tr.row")[0].click()
    assert evil in browser.run("return document.getElementById('detail-title').textContent")
    assert evil in browser.run("return document.getElementById('advice-list').textContent")
    assert browser.all("img") == []
    assert browser.all("b") == browser.all("#figures b")
    assert browser.driver.title == "doit-fetch: the last run"
    assert browser.complaints() == []
    assert set(browser.requests()) == {path.as_uri()}


def test_its_policy_holds(browser: Page, pages: Callable[[int], Path]) -> None:
    """The page's own policy refuses external scripts, images and connections."""
    browser.open(pages(60))
    browser.run(
        "window.ran = false; const script = document.createElement('script'); script.textContent = 'window.ran = true';"
        "document.body.append(script); const image = document.createElement('img'); image.src = 'http://127.0.0.1:9/x';"
        "document.body.append(image); window.failed = false; fetch('http://127.0.0.1:9/x').catch(() => { failed = true; })"
    )
    time.sleep(0.3)
    assert browser.run("return [window.ran, window.failed]") == [False, True]
    assert len([text for text in browser.complaints() if "Content Security Policy" in text]) >= 3


def test_ten_thousand_artifacts(browser: Page, pages: Callable[[int], Path]) -> None:
    """With 10,000 artifacts (20,000 tasks) every interaction is answered within a bound, with few rows in the document."""
    path = pages(10_000)
    browser.open(path)
    assert browser.count == "20,000 of 20,000"
    timed = """
        const steps = {
          sort: () => document.querySelectorAll('#head button')[0].click(),
          turn: () => document.querySelectorAll('#head button')[0].click(),
          size: () => document.querySelectorAll('#head button')[3].click(),
          search: () => { search.value = 'package-0999'; search.dispatchEvent(new Event('input')); },
          clear: () => { search.value = ''; search.dispatchEvent(new Event('input')); },
          state: () => document.querySelector('#states [data-state=failed]').click(),
          all: () => document.querySelector('#states [data-state=failed]').click(),
          bottom: () => { scroll.scrollTop = 1e9; scroll.dispatchEvent(new Event('scroll')); },
          details: () => document.querySelector('#rows tr.row').click(),
          zoom: () => { for (let n = 0; n < 8; n += 1) document.getElementById('zoom-in').click(); },
          whole: () => document.getElementById('zoom-all').click(),
        };
        const took = {};
        const scroll = document.getElementById('scroll'), search = document.getElementById('search');
        const done = arguments[0];
        (async () => {
          for (const [name, step] of Object.entries(steps)) {
            const begun = performance.now();
            step();
            await new Promise((next) => requestAnimationFrame(() => setTimeout(next, 0)));
            took[name] = (performance.now() - begun) / 1000;
          }
          done(took);
        })();
    """
    took = browser.driver.execute_async_script(timed)
    assert {name: seconds for name, seconds in took.items() if seconds > BOUND_S} == {}
    assert len(browser.all("#rows tr")) < 60
    assert len(browser.all("#graph-box .node")) <= 140
    assert browser.complaints() == []
    assert set(browser.requests()) == {path.as_uri()}
