"""The interactive page: what is in it, and that a real browser draws it, without a network, as it says."""

import json
import math
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import Run
from processes import PATIENCE_SECONDS
from resnet_v2.logs.runlog import RunLog
from test_logs import MXNET_2016, REAL_LOGS

PATIENCE_MS = 1000 * PATIENCE_SECONDS


def make_log(prefix: Path, epochs: int, shift: float = 0.0, last_rate: float = 0.001) -> Path:
    log = RunLog(str(prefix), append=False, echo=lambda line: None)
    log.start({"depth": 20}, "cpu")
    for epoch in range(epochs):
        rate = 0.1 if epoch < 5 else last_rate
        log.trained(
            epoch,
            accuracy=0.08 * epoch,
            seconds=12.0,
            loss=2.3 / (epoch + 1),
            learning_rate=rate,
            samples_per_second=500.0 + epoch,
            data_wait=0.01,
        )
        log.validated(epoch, top1_error=80.0 - 7 * epoch + shift, top5_error=40.0 - epoch, loss=2.0, images=100)
    log.close()
    return prefix.with_suffix(".log")


def page_data(page: Path) -> Any:
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found
    return json.loads(found[1])


def test_every_measure_of_our_logs(tmp_path: Path, run: Run) -> None:
    log, out = make_log(tmp_path / "run", 8), tmp_path / "report.html"
    status, text, _ = run("plot", "--logs", log, "--out", out, "--metric", "top5")
    assert status == 0
    assert f"curve: {out}" in text
    data = page_data(out)
    assert data["metric"] == "top5"
    (one,) = data["runs"]
    assert one["name"] == "run"
    assert one["summary"]["top1_error"] == 31.0
    assert set(one["series"]) == {
        "train_top1",
        "top1",
        "top5",
        "train_loss",
        "loss",
        "learning_rate",
        "samples_per_second",
    }
    assert one["series"]["samples_per_second"][7] == [7, 507.0]
    assert one["series"]["learning_rate"][5] == [5, 0.001]
    run("plot", "--logs", tmp_path / "run.jsonl", "--out", out)
    assert page_data(out)["runs"][0]["series"] == one["series"]


def test_text_logs_of_2016(tmp_path: Path, run: Run) -> None:
    (tmp_path / "a.log").write_text(MXNET_2016)
    assert run("plot", "--logs", tmp_path / "a.log", "--out", tmp_path / "a.html")[0] == 0
    series = page_data(tmp_path / "a.html")["runs"][0]["series"]
    assert set(series) == {"train_top1", "train_top5", "top1", "top5", "samples_per_second"}
    assert series["samples_per_second"] == [[0, 226.19], [1, 226.19]]


def test_a_speed_that_is_no_number_is_passed_over(tmp_path: Path, run: Run) -> None:
    (tmp_path / "a.log").write_text(MXNET_2016.replace("226.19", "226.19.", 1))
    assert run("plot", "--logs", tmp_path / "a.log", "--out", tmp_path / "a.html")[0] == 0
    series = page_data(tmp_path / "a.html")["runs"][0]["series"]
    assert series["samples_per_second"] == [[0, 226.19], [1, 226.19]]


@pytest.mark.parametrize(
    "line",
    [
        f"Epoch[{'9' * 5000}] Batch [1]\tSpeed: 1.0 samples/sec",
        f"Epoch[0] Batch [1]\tSpeed: {'9' * 400} samples/sec",
        f"Epoch[0] Batch [1]\tSpeed: 0.{'0' * 400}1 samples/sec",
        "Epoch[1] Validation-accuracy=1e308",
        "Epoch[1000001] Validation-accuracy=0.5",
        "Epoch[1] Batch [1]\tTrain-accuracy=1e308\nEpoch[1] Batch [2]\tTrain-accuracy=1e308",
    ],
    ids=lambda line: line[-40:],
)
def test_numbers_beyond_all_measure_are_passed_over(tmp_path: Path, run: Run, line: str) -> None:
    (tmp_path / "a.log").write_text(f"Epoch[0] Validation-accuracy=0.5\n{line}\n")
    assert run("plot", "--logs", tmp_path / "a.log", "--out", tmp_path / "a.html")[0] == 0
    assert page_data(tmp_path / "a.html")["runs"][0]["series"] == {"top1": [[0, 50]]}


def test_events_beside_a_log_that_nest_too_deep_are_passed_over(tmp_path: Path, run: Run) -> None:
    (tmp_path / "a.log").write_text("Epoch[0] Validation-accuracy=0.5\n")
    (tmp_path / "a.jsonl").write_text("[" * 100_000 + "\n")
    assert run("plot", "--logs", tmp_path / "a.log", "--out", tmp_path / "a.html")[0] == 0


def test_many_batches_of_one_epoch_take_no_time(tmp_path: Path, run: Run) -> None:
    lines = [f"Epoch[0] Batch [{number}]\tTrain-accuracy=0.25" for number in range(60_000)]
    (tmp_path / "a.log").write_text("\n".join([*lines, "Epoch[0] Validation-accuracy=0.5"]))
    before = time.process_time()
    assert run("plot", "--logs", tmp_path / "a.log", "--out", tmp_path / "a.html")[0] == 0
    assert time.process_time() - before < 4
    assert page_data(tmp_path / "a.html")["runs"][0]["series"]["train_top1"] == [[0, 75]]


def test_one_line_of_many_beginnings_takes_no_time(tmp_path: Path, run: Run) -> None:
    (tmp_path / "a.log").write_text("Epoch[0] Validation-accuracy=0.5\n" + "Epoch[0] Batch " * 60_000)
    before = time.process_time()
    assert run("plot", "--logs", tmp_path / "a.log", "--out", tmp_path / "a.html")[0] == 0
    assert time.process_time() - before < 4


def test_the_page_needs_nothing_else(tmp_path: Path, run: Run) -> None:
    run("plot", "--logs", make_log(tmp_path / "run", 3), "--out", tmp_path / "a.html")
    text = (tmp_path / "a.html").read_text()
    addresses = set(re.findall(r"https?://[^\s\"']+", text))
    assert addresses == {"http://www.w3.org/2000/svg"}  # the name of SVG, not a place
    assert not re.search(r"<link|<img|src=|@import|url\(", text)


def test_nothing_in_a_log_gets_into_the_page_as_code(tmp_path: Path, run: Run) -> None:
    log = make_log(tmp_path / "a<script>alert(1)<", 2)
    events = log.with_suffix(".jsonl")
    events.write_text(events.read_text().replace('"loss": 2.3', f'"loss": {math.nan}') + "cut by a ki")
    out = tmp_path / "a.html"
    assert run("plot", "--logs", log, "--out", out)[0] == 0
    assert "<script>alert" not in out.read_text()
    (one,) = page_data(out)["runs"]
    assert one["name"] == "a<script>alert(1)<"
    assert one["series"]["train_loss"] == [[1, 1.15]]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium, driven by playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="missing playwright: pip install playwright")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("missing chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"], timeout=PATIENCE_MS)
        yield started
        started.close()


def open_page(browser: Any, path: Path, scheme: str = "light") -> Any:
    """The page in an offline browser; whatever it complains about fails the test."""
    page = browser.new_context(viewport={"width": 1200, "height": 990}, color_scheme=scheme, offline=True).new_page()
    page.set_default_timeout(PATIENCE_MS)

    def complain(message: object) -> None:
        raise AssertionError(f"the page says: {message}")

    page.on("pageerror", complain)
    page.on("console", lambda message: complain(message.text))
    page.on("request", lambda request: None if request.url.startswith("file:") else complain(request.url))
    page.goto(path.as_uri())
    return page


def hover(page: Any, chart: int, share: float) -> str:
    box = page.locator("#charts svg").nth(chart).bounding_box()
    page.mouse.move(box["x"] + 52 + share * (box["width"] - 62), box["y"] + 80)
    return str(page.locator("#tooltip").inner_text())


def has_count(elements: Any, count: int) -> None:
    """Wait until there are so many elements."""
    from playwright.sync_api import expect

    expect(elements).to_have_count(count, timeout=60_000)


def test_in_a_browser(browser: Any, tmp_path: Path, run: Run) -> None:
    logs = f"{make_log(tmp_path / 'first', 9)},{make_log(tmp_path / 'second', 6, shift=3)}"
    run("plot", "--logs", logs, "--out", tmp_path / "a.html")
    page = open_page(browser, tmp_path / "a.html")
    titles = page.locator("#charts h2").all_inner_texts()
    assert titles == ["Top-1 error (%)", "Loss (nats)", "Learning rate", "Throughput (images/s)"]
    curves = page.locator("#charts section").nth(0).locator("path.curve")
    has_count(curves, 4)

    text = hover(page, 0, 0.5)
    assert text.splitlines()[0] == "Epoch 4"
    assert re.search(r"first validation\s+52 %", text)
    assert re.search(r"second validation\s+55 %", text)
    assert re.search(r"first training\s+68 %", text)
    assert re.search(r"first\s+0.001", hover(page, 2, 1.0))
    assert re.search(r"first\s+508 images/s", hover(page, 3, 1.0))

    page.get_by_role("button", name="first").click()
    has_count(curves, 2)
    assert "first" not in hover(page, 0, 0.5)
    page.get_by_role("button", name="training").click()
    has_count(curves, 1)
    page.get_by_role("button", name="top-5").click()
    assert page.locator("#charts h2").first.inner_text() == "Top-5 error (%)"
    assert re.search(r"second validation\s+36 %", hover(page, 0, 0.5))
    page.reload()
    has_count(curves, 1)  # what was chosen outlives a reload


def test_on_a_telephone(browser: Any, tmp_path: Path, run: Run) -> None:
    """Nothing is cut off: the numbers of an axis stand in its chart, the best error before the fold of the table."""
    page = tmp_path / "a.html"
    run("plot", "--logs", make_log(tmp_path / "a-run", 9, last_rate=1e-6), "--out", page)
    shown = open_page(browser, page)
    shown.set_viewport_size({"width": 390, "height": 844})
    assert shown.evaluate("document.documentElement.scrollWidth") == 390
    assert "1e-6" in shown.locator("#charts svg text").all_text_contents()
    edges = "all => all.map(one => one.getBoundingClientRect().left - one.ownerSVGElement.getBoundingClientRect().left)"
    assert min(shown.locator("#charts svg text").evaluate_all(edges)) >= 0
    assert shown.get_by_role("cell", name="24.00 %").bounding_box()["x"] < 300


def test_zoom_in_a_browser(browser: Any, tmp_path: Path, run: Run) -> None:
    run("plot", "--logs", make_log(tmp_path / "run", 9), "--out", tmp_path / "a.html")
    page = open_page(browser, tmp_path / "a.html")
    box = page.locator("#charts svg").first.bounding_box()
    page.mouse.move(box["x"] + 52 + 0.5 * (box["width"] - 62), box["y"] + 80)
    page.mouse.down()
    page.mouse.move(box["x"] + 52 + 0.74 * (box["width"] - 62), box["y"] + 90, steps=4)
    page.mouse.up()
    assert hover(page, 1, 0.0).startswith("Epoch 4")
    assert hover(page, 1, 1.0).startswith("Epoch 6")
    page.locator("#charts svg").first.dblclick(position={"x": 300, "y": 60})
    assert hover(page, 1, 1.0).startswith("Epoch 8")


@pytest.mark.skipif(not REAL_LOGS.is_dir(), reason="missing ../shared: the two logs of 2016")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_real_logs_in_a_browser(browser: Any, tmp_path: Path, run: Run, scheme: str) -> None:
    """The curve of ResNet-50 ends where the log does; text is legible against its card in both schemes."""
    logs = f"{REAL_LOGS / 'resnet-50.log'},{REAL_LOGS / 'resnet-164.log'}"
    run("plot", "--logs", logs, "--out", tmp_path / "a.html")
    page = open_page(browser, tmp_path / "a.html", scheme)
    assert page.locator("#charts h2").all_inner_texts() == ["Top-1 error (%)", "Throughput (images/s)"]
    assert re.search(r"resnet-164 validation\s+4.6\d %", hover(page, 0, 281 / 299))
    colours = page.evaluate(
        """() => [getComputedStyle(document.querySelector(".card")).backgroundColor,
                  getComputedStyle(document.querySelector("#charts svg text")).fill,
                  ...[...document.querySelectorAll("path.curve")].map((path) => getComputedStyle(path).stroke)]"""
    )
    assert len(colours) == 2 + 4 + 2
    card, *others = [[int(part) for part in re.findall(r"\d+", colour)[:3]] for colour in colours]
    assert (sum(card) > 600) == (scheme == "light")
    for colour, least in zip(others, [4.5] + [3.0] * (len(others) - 1), strict=True):
        assert contrast(card, colour) >= least


def contrast(first: list[int], second: list[int]) -> float:
    """The ratio of WCAG 2.1: (lighter + 0.05) / (darker + 0.05) in relative luminance."""

    def luminance(colour: list[int]) -> float:
        parts = [part / 255 for part in colour]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted([luminance(first), luminance(second)])
    return (high + 0.05) / (low + 0.05)
