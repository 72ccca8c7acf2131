"""The site of docs/: it builds without a warning, and its pages load nothing from other servers."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from processes import PATIENCE_SECONDS

ROOT = Path(__file__).parents[1]
PAGES = (
    "index",
    "photos",
    "formats",
    "records",
    "training",
    "gpu",
    "memory",
    "using",
    "features",
    "inspect",
    "int8",
    "serving",
    "results",
)
LATER_PAGES = ("security", "loader", "reliability", "differences", "api", "architecture")
# Whatever a browser asks for without a click: scripts, pictures and frames, and the links of the head that are not just
# addresses to tell (canonical, next, prev).
TAG = re.compile(r"<(?:script|img|iframe|source|audio|video|embed|link)\b[^>]*>", re.IGNORECASE)
ADDRESS = re.compile(r"""\b(?:src|srcset|href)\s*=\s*["']?\s*(?:https?:)?//""", re.IGNORECASE)
JUST_TOLD = re.compile(r"""\brel\s*=\s*["']?(?:canonical|next|prev)\b""", re.IGNORECASE)
STYLE_ADDRESS = re.compile(r"""(?:@import\s+["']?|url\(\s*["']?)\s*(?:https?:)?//[^\s"')]+""", re.IGNORECASE)


def loaded_from_elsewhere(html: str) -> list[str]:
    tags = [tag for tag in TAG.findall(html) if ADDRESS.search(tag) and not JUST_TOLD.search(tag)]
    return tags + STYLE_ADDRESS.findall(html)


def build(root: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    if any(importlib.util.find_spec(name) is None for name in ("mkdocs", "material", "mkdocstrings")):
        pytest.skip("missing mkdocs: pip install -e '.[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site."""
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_of_the_navigation(site: Path) -> None:
    navigation = re.findall(r"^  - .+: (\w+)\.md$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert tuple(navigation) == PAGES + LATER_PAGES
    assert {path.stem for path in site.glob("*.html")} == {*PAGES, *LATER_PAGES, "404"}


def test_a_broken_link_ends_the_build(tmp_path: Path) -> None:
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    (tmp_path / "docs" / "api.md").write_text("# API\n")  # its source is not there
    (tmp_path / "docs" / "using.md").write_text("[The README](../README.md)\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode == 1
    assert "'using.md' contains a link '../README.md'" in done.stderr
    assert done.stderr.count("WARNING") == 1


def test_what_counts_as_loaded() -> None:
    assert loaded_from_elsewhere('<script async src="https://a.org/a.js"></script>')
    assert loaded_from_elsewhere("<link rel=stylesheet href=//a.org/a.css>")
    assert loaded_from_elsewhere('<link href="https://fonts.a.org" rel="preconnect">')
    assert loaded_from_elsewhere("<style>a{background:url(https://a.org/a.png)}</style>")
    assert not loaded_from_elsewhere('<a href="https://a.org">a</a><img src="a.png"><link rel="next" href="//a.org">')


def test_nothing_comes_from_other_servers(site: Path) -> None:
    files = [path for ending in ("html", "css") for path in site.rglob(f"*.{ending}")]
    assert len(files) > len(PAGES)
    assert {path.name: loaded_from_elsewhere(path.read_text()) for path in files} == {path.name: [] for path in files}


def test_the_python_api(site: Path) -> None:
    page = (site / "api.html").read_text()
    for name in (
        "inference.classifier.load",
        "inference.classifier.Classifier.classify",
        "inference.predict.Answer",
        "inference.results.Results.to_frame",
        "inference.fitting.fit",
        "errors.ResnetError",
        "networks.resnet.resnet",
        "networks.architecture.Architecture",
        "networks.weights.save",
        "data.recordio.MXIndexedRecordIO",
        "data.loader.Loader",
        "data.records.RecordReader",
        "logs.runlog.read_curve",
    ):
        assert f'id="resnet_v2.{name}"' in page
    # Examples are blocks of code; what Markdown makes of >>> by itself are quotations.
    assert "<blockquote>" not in page
    assert "&gt;&gt;&gt;" in page
