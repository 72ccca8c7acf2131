"""Grad-CAM, and the page in a real browser (Chromium, headless)."""

import base64
import importlib.util
import shutil
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from conftest import picture, read_image
from processes import PATIENCE_SECONDS, Command
from resnet_v2.config.serving import DemoConfig
from resnet_v2.data.jpeg import encode
from resnet_v2.errors import ResnetError
from resnet_v2.inference.card import about
from resnet_v2.inference.output import CSV_HEADER, csv_rows
from resnet_v2.inference.predict import Predictor
from resnet_v2.networks import weights
from resnet_v2.networks.architecture import Architecture
from resnet_v2.networks.header import Header
from resnet_v2.networks.resnet import resnet
from resnet_v2.serving.demo import Explainer, _shown, serve, training_curve
from resnet_v2.serving.gradcam import heat_map, overlay
from resnet_v2.serving.several import name_all, table

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
NAMELESS = """[...document.querySelectorAll('button, input, a, textarea')].filter(one => one.offsetParent && !(
    one.ariaLabel || one.innerText.trim() || one.title || (one.labels && one.labels.length)))
    .map(one => one.outerHTML)"""
# What is wider than its box, which does not scroll, or breaks a short word.
CUT_OFF = """[...document.querySelectorAll('pre, td, li, th[scope=col]')].filter(one => one.offsetParent &&
    getComputedStyle(one).overflowX == 'visible' && (one.scrollWidth > one.clientWidth + 1 ||
    one.scope == 'col' && one.clientHeight > 45)).map(one => one.outerHTML)"""
PATIENCE_MS = 1000 * PATIENCE_SECONDS


def test_heat_maps_are_grad_cam(trained: str, digits: Path) -> None:
    network, header = weights.load(trained, 4)
    image = read_image(digits / "examples" / "7.png")
    heat = heat_map(network, image, 7)
    assert heat.shape == (32, 32)
    assert (heat.min(), heat.max()) >= (0, 0.5)
    # Grad-CAM as the paper defines it, with the gradient itself.
    maps = network.maps(torch.from_numpy(image).permute(2, 0, 1)[None].float()).detach().requires_grad_()
    logits = network.fc1(maps.mean((2, 3)))[0]
    for score, found in ((logits[7], heat), (logits[7] - logits[1], heat_map(network, image, 7, 1))):
        (gradient,) = torch.autograd.grad(score, maps, retain_graph=True)
        cam = (gradient.mean((2, 3), keepdim=True) * maps).sum(1).relu()[0].detach().numpy()
        wanted = cv2.resize(cam / cam.max(), (32, 32), interpolation=cv2.INTER_CUBIC).clip(0, 1)
        assert np.abs(found - wanted).max() < 1e-4
    assert overlay(image, heat).shape == image.shape
    assert header.crop == 32


def test_heat_maps_of_v1() -> None:
    network = resnet(20, 10, "v1").eval()
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert heat_map(network, image, 3).shape == (32, 32)


def test_what_the_page_shows(trained: str, digits: Path) -> None:
    network, header = weights.load(trained, 4)
    found = Explainer(network, header, torch.device("cpu")).explain(digits / "examples" / "7.png")
    assert len(found.answers) == 5
    assert found.crop.shape == found.heat.shape == (32, 32, 3)


def test_several_pictures() -> None:
    predictor = Predictor.open("", device="cpu")
    good, strange = encode(picture(0, 50, 60), ".png", 3), '<b>"ü, \x1b.png'
    given = [("a.png", lambda: good), ("b.png", lambda: b"nothing"), (strange, lambda: good)]
    found = list(name_all(predictor, given, 3))
    assert [len(one.answers) for one in found] == [3, 0, 3]
    (first, *_) = predictor.classify(good)
    assert found[0].answers[0] == first
    shown = table(found)
    assert "b.png is no readable image" in shown and f"{100 * first.probability:.2f} %" in shown
    assert "&lt;b&gt;&quot;ü, \\x1b.png" in shown and '<b>"' not in shown
    rows = base64.b64decode(shown.partition("base64,")[2].partition('"')[0]).decode()
    assert rows == "\n".join([CSV_HEADER, csv_rows(found[0]), csv_rows(found[2]), ""])


def test_what_everybody_may_know_of_a_network(trained: str) -> None:
    network, header = weights.load(trained, 4)
    said = about(replace(header, class_names=("a[b](c)", *header.class_names[1:])), network)
    assert said.startswith("## The network\n\nA residual network of 8 layers")
    assert "| top-1 error |" in said and "a\\[b\\]" in said
    assert str(Path(trained).parent) not in said


def test_the_curve_tells_no_folder(trained: str, tmp_path: Path) -> None:
    shown = training_curve(Path(f"{trained}-0004.safetensors"))
    assert shown.startswith("<img") and "resnet-digits-8" in shown
    (tmp_path / "b.log").write_text("nothing")
    (tmp_path / "a<b>.log").write_text("nothing")
    for name, wanted in (
        ("b", "b.log has no epochs"),
        ("a<b>", "a&lt;b&gt;.log has no"),
        ("c", "There is no log c.jsonl"),
    ):
        sentence = training_curve(tmp_path / f"{name}-0001.safetensors")
        assert sentence.startswith(wanted)
        assert str(tmp_path) not in sentence


def test_the_page_says_what_is_wrong() -> None:
    class Page:
        class Error(Exception):
            def __init__(self, message: str, print_exception: bool) -> None:
                super().__init__(message)

    def damaged() -> None:
        raise ResnetError("The picture is no readable image: it ends too early.")

    with pytest.raises(Page.Error, match="The picture is no readable image: it ends too early"):
        _shown(Page, damaged)
    explainer = Explainer(resnet(20, classes=3), Header.of_epoch(Architecture(20, 3, "cifar"), 1), torch.device("cpu"))
    with pytest.raises(ResnetError, match=r"^The picture cannot be read"):
        explainer.explain("/tmp/gradio/0d1f/cat.png")


def test_addresses_where_nothing_can_listen() -> None:
    """Told before the network is even looked for."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for host in ("127.0.0.1", "203.0.113.7", "nonsense.invalid", "a" * 300, ""):
            with pytest.raises(ResnetError, match=f"Nothing can listen at {host}, port {port}: .+; give another"):
                serve(DemoConfig("none", host=host, port=port))
    with pytest.raises(ResnetError, match="Nothing can listen at , port"):
        serve(DemoConfig("none", host="", port=port))  # free by now; an empty host is every address


@pytest.fixture
def address(trained: str, tmp_path: Path) -> Iterator[str]:
    """The page of the trained digits network, served by the command."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = Command(["demo", "--prefix", trained, "--port", port], tmp_path)

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    command.wait_for(listens, "the page", 0.1)
    yield f"http://127.0.0.1:{port}"
    command.kill()


@pytest.fixture
def browser_page() -> Iterator[Any]:
    """A page of Debian's Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=PATIENCE_MS)
        page = browser.new_page(viewport={"width": 1100, "height": 820})
        page.set_default_timeout(PATIENCE_MS)
        yield page
        browser.close()


@pytest.mark.skipif(
    CHROMIUM is None or any(importlib.util.find_spec(name) is None for name in ("gradio", "playwright")),
    reason="missing chromium, gradio or playwright: apt-get install chromium, pip install -e '.[dev]'",
)
def test_the_page_in_a_browser(address: str, browser_page: Any, digits: Path, tmp_path: Path) -> None:
    page = browser_page
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.set_input_files("input[type=file]", str(digits / "examples" / "7.png"))
    page.get_by_text("heat map").wait_for()
    for count, what in (
        (5, "[data-testid$=-confidence-set]"),
        (1, "img[src*='/file=']"),
        (3, "img[src^='data:image/png']"),
    ):
        page.wait_for_function(
            "([count, what]) => [...document.querySelectorAll(what)].filter(one => one.tagName != 'IMG' || "
            "one.naturalWidth > 0).length >= count",
            arg=[count, what],
        )
    assert page.locator("[data-testid$=-confidence-set]").count() == 5
    page.screenshot(path=str(tmp_path / "picture.png"))
    # A file that is no picture, and one that ends early, are answered with a sentence, and the page goes on.
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "short.png").write_bytes((digits / "examples" / "7.png").read_bytes()[:120])
    for name, sentence in (
        ("text.png", "The picture is no readable image"),
        ("short.png", "The picture is no readable image"),
    ):
        page.get_by_label("Remove Image").click()
        page.set_input_files("input[type=file]", str(tmp_path / name))
        page.get_by_text(sentence).first.wait_for()
    page.get_by_label("Remove Image").click()
    page.set_input_files("input[type=file]", str(digits / "examples" / "8.png"))
    page.get_by_text("heat map").wait_for()
    # Each picture of ours says what it shows; gradio's own preview has the label beside it.
    alts = page.locator("img[src^='data:image/png']").evaluate_all("all => all.map(one => one.alt)")
    assert [alt.split()[0] for alt in alts[:3]] == ["What", "The", "The"]
    page.get_by_role("tab", name="Several").click()
    names = ["7.png", "8.png"]
    both = [*(str(digits / "examples" / name) for name in names), str(tmp_path / "text.png")]
    page.locator("input[type=file]").last.set_input_files(both)
    link = page.get_by_role("link", name="Answers as CSV")
    link.wait_for()
    assert page.get_by_role("rowheader").all_inner_texts() == [*names, "text.png"]
    page.get_by_role("cell", name="text.png is no readable image").wait_for()
    with page.expect_download() as download:
        link.click()
    rows = [line.split(",") for line in Path(download.value.path()).read_text().splitlines()]
    assert download.value.suggested_filename == "answers.csv"
    assert rows[0] == ["image", "rank", "class", "name", "probability"]
    assert [row[0] for row in rows[1:]] == [name for name in names for _ in range(5)]
    page.get_by_role("tab", name="Network").click()
    page.get_by_text("A residual network of 8 layers").wait_for()
    page.get_by_role("tab", name="Curve").click()
    page.get_by_text("best epoch").wait_for()
    page.screenshot(path=str(tmp_path / "curve.png"))
    # At a telephone's width nothing stands beside the screen, and all that the keyboard reaches has a name.
    page.set_viewport_size({"width": 390, "height": 844})
    for tab in ("Curve", "Network", "Several", "Picture"):
        page.get_by_role("tab", name=tab).click()
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        assert page.evaluate(NAMELESS) == []
        assert page.evaluate(CUT_OFF) == []
    page.reload()
    page.get_by_role("tab", name="Curve").wait_for()
    reached: list[str] = []
    while "rather than for" not in reached and len(reached) < 30:
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.ariaLabel || document.activeElement.innerText"))
    wanted = ["Picture", "Several", "Network", "Curve", "Upload file", "Capture from camera", "Paste from clipboard"]
    assert [name for name in reached if name in wanted] == wanted
    assert reached[-2:] == ["What speaks for", "rather than for"]
    outside = [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    assert not outside
    assert not complaints
