"""Which file a checkpoint's name means."""

import re
from pathlib import Path

import pytest

from resnet_v2.errors import ResnetError
from resnet_v2.networks import finding


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_names(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "a-0003.safetensors",
        "a-0012.safetensors",
        "mx-0000.params",
        "b/model.safetensors",
        "c-1001-0005.safetensors",
        "c-1001-0007.params",
    )
    for name, epoch, found in (
        ("a", 3, "a-0003.safetensors"),
        ("a", None, "a-0012.safetensors"),
        ("a-0003", None, "a-0003.safetensors"),
        ("a-0003.safetensors", None, "a-0003.safetensors"),
        ("mx", 0, "mx-0000.params"),
        ("mx", None, "mx-0000.params"),
        ("mx-0000", None, "mx-0000.params"),
        ("b", None, "b/model.safetensors"),
        ("c-1001", None, "c-1001-0007.params"),
    ):
        assert finding.find_checkpoint(str(tmp_path / name), epoch) == tmp_path / found, (name, epoch)


def test_what_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a-0003.safetensors")
    with pytest.raises(ResnetError, match=r"a-0004.safetensors is missing: there is \S+a-0003.safetensors"):
        finding.find_checkpoint(str(tmp_path / "a"), 4)
    with pytest.raises(ResnetError, match="There is no checkpoint"):
        finding.find_checkpoint(str(tmp_path / "b"))
    monkeypatch.setattr(finding, "SHIPPED", tmp_path / "none")
    with pytest.raises(ResnetError, match="No network ships"):
        finding.find_checkpoint("")


def test_best_and_latest(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "a-0001.safetensors",
        "a-0003.safetensors",
        "a-best.safetensors",
        "a-latest.safetensors",
        "b-0002.safetensors",
        "mx-0005.params",
    )
    for name, epoch, found in (
        ("a", "best", "a-best.safetensors"),
        ("a", "latest", "a-latest.safetensors"),
        ("a-best", None, "a-best.safetensors"),
        ("b", "latest", "b-0002.safetensors"),
        ("mx", "latest", "mx-0005.params"),
    ):
        for prefix in (tmp_path / name, str(tmp_path / name)):
            assert finding.find_checkpoint(prefix, epoch) == tmp_path / found, (name, epoch)  # type: ignore[arg-type]
    with pytest.raises(ResnetError, match=r"b-best.safetensors is missing: there is \S+b-0002.safetensors"):
        finding.find_checkpoint(tmp_path / "b", "best")
    for wrong in ("1", "nonsense", 1.0, -1, [1]):
        with pytest.raises(ResnetError, match=f"There is no epoch {re.escape(repr(wrong))}; give the number of a"):
            finding.find_checkpoint(tmp_path / "a", wrong)  # type: ignore[arg-type]


def test_ranks_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The script of 2016 put the rank into the name; all ranks wrote the same."""
    touch(tmp_path, *(f"a-{rank}-00{epoch}.params" for rank in (0, 1) for epoch in (70, 95)))
    touch(tmp_path, "b-0-0070.params", "b-0001.safetensors", "c-20-0003.params")
    for epoch, found in ((70, "a-0-0070"), (None, "a-0-0095"), ("latest", "a-0-0095")):
        path = tmp_path / f"{found}.params"
        for _ in range(2):
            assert finding.find_checkpoint(str(tmp_path / "a"), epoch) == path  # type: ignore[arg-type]
    said = capsys.readouterr().err.splitlines()
    of_ranks = f"{tmp_path / 'a'} has checkpoints of ranks alone, and that of rank 0 is taken: {tmp_path}/a-0-00"
    assert said == [f"{of_ranks}70.params", f"{of_ranks}95.params"]
    assert finding.find_checkpoint(str(tmp_path / "a-1"), 70) == tmp_path / "a-1-0070.params"
    assert capsys.readouterr().err == ""
    for prefix, epoch in (("a", 71), ("a", "best"), ("b", 70), ("c", 3), ("c", None)):  # c-20 is no rank but a depth
        with pytest.raises(ResnetError, match=r"is missing|There is no checkpoint"):
            finding.find_checkpoint(str(tmp_path / prefix), epoch)  # type: ignore[arg-type]


def test_a_run_without_an_epoch_yet(tmp_path: Path) -> None:
    touch(tmp_path, "a-latest.safetensors", "b-best.safetensors", "c-latest.safetensors", "c-best.safetensors")
    for name, found in (("a", "a-latest"), ("b", "b-best"), ("c", "c-latest")):
        assert finding.find_checkpoint(tmp_path / name) == tmp_path / f"{found}.safetensors"
    with pytest.raises(ResnetError, match=r"a-best.safetensors is missing: there is \S+a-latest.safetensors; check"):
        finding.find_checkpoint(tmp_path / "a", "best")


def test_a_folder_of_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "model.safetensors")
    monkeypatch.chdir(tmp_path)
    for name in (".", "./", str(tmp_path), f"{tmp_path}/"):
        assert finding.find_checkpoint(name).samefile(tmp_path / "model.safetensors")
    with pytest.raises(ResnetError, match="There is no checkpoint /"):
        finding.find_checkpoint("/")


def test_what_somebody_trained_comes_before_what_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "shipped/small.safetensors", "small-0001.safetensors")
    monkeypatch.setattr(finding, "SHIPPED", tmp_path / "shipped")
    monkeypatch.chdir(tmp_path)
    assert finding.find_checkpoint("small") == Path("small-0001.safetensors")


def test_networks_that_ship(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "small.safetensors")
    monkeypatch.setattr(finding, "SHIPPED", tmp_path)
    assert finding.find_checkpoint("") == finding.find_checkpoint("small") == tmp_path / "small.safetensors"


def test_paths_are_split() -> None:
    assert finding.split_path(Path("model/a-0030.safetensors")) == ("model/a", 30)
    assert finding.split_path(Path("b/model.safetensors")) == ("b/model", 0)
    for name in ("a-0030", "a-best", "a-latest", "a"):
        assert finding.run_prefix(Path(f"model/{name}.safetensors")) == "model/a"


def test_what_is_there_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "one-0000.params", "many-0002.params", *(f"many-000{epoch}.safetensors" for epoch in (3, 4, 7)))
    for name, epoch, said in (
        ("one", 2, "one-0002.params is missing: there is ONE-0000.params; check the prefix and the epoch."),
        ("many", 5, "many-0005.safetensors is missing: saved epochs are 2 to 4, 7, the last in MANY-0007.safetensors;"),
        ("none", 5, "none-0005.safetensors is missing: no checkpoint starts with NONE-;"),
        ("one-0002.params", None, "one-0002.params is missing: there is ONE-0000.params; check the prefix"),
        (
            "one-0000.params",
            0,
            "one-0000.params is a file, which has one epoch; leave `epoch` out, or give `prefix` ONE.",
        ),
        ("one-symbol.json", None, "one-symbol.json holds no weights: there is ONE-0000.params; give `prefix` ONE."),
        ("one-symbol.json", 0, "one-symbol.json holds no weights: there is ONE-0000.params; give `prefix` ONE."),
        ("many.log", None, "many.log holds no weights: saved epochs are 2 to 4, 7, the last in "),
        ("other.rec", None, "other.rec holds no weights: give another file."),
    ):
        with pytest.raises(ResnetError) as raised:
            finding.find_checkpoint(tmp_path / name, epoch)
        for start in ("none", "one", "many"):
            said = said.replace(start.upper(), str(tmp_path / start))
        assert str(raised.value).startswith(f"{tmp_path}/{said}"), name
