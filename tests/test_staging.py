"""Data sets appear whole: two runs at once, runs that are killed, refused or stopped."""

from pathlib import Path

import pytest

from resnet_v2.errors import ResnetError
from resnet_v2.packing import staging
from resnet_v2.packing.staging import UNFINISHED, staged

OLD = {"synset.txt": "bee\ncow\n", "a_train.rec": "old", "a_val.rec": "old", "a_val.rows": "old", "other.txt": "mine"}
NEW = {"synset.txt": "ant\nbee\ncow\n", "a_train.rec": "new", "a_val.rec": "new"}


def fill(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)


def read(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


def test_a_data_set_takes_the_place_of_another(tmp_path: Path) -> None:
    fill(tmp_path / "d", OLD)
    with staged(tmp_path / "d", "a") as folder:
        fill(folder, NEW)
        (folder / "examples").mkdir()
        (folder / "examples" / "ant.png").write_text("picture")
        assert read(tmp_path / "d") == OLD
    assert read(tmp_path / "d") == {**NEW, "other.txt": "mine"}  # no .rows of another record
    assert (tmp_path / "d" / "examples" / "ant.png").is_file()
    assert not (tmp_path / "d" / UNFINISHED).exists()


def test_killed_at_any_move_no_record_meets_other_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moves, steps = 0, [Path.replace, Path.unlink]

    def counted(step: object, last: int):  # type: ignore[no-untyped-def]
        def do(*args: object, **more: object) -> object:
            nonlocal moves
            moves += 1
            if moves > last:
                raise KeyboardInterrupt  # as a kill: nothing else is done
            return step(*args, **more)  # type: ignore[operator]

        return do

    for last in range(40):
        folder, moves = tmp_path / str(last), 0
        fill(folder, OLD)
        with monkeypatch.context() as patch:
            patch.setattr(staging, "_remove", lambda *_: None)
            for step in steps:
                patch.setattr(Path, step.__name__, counted(step, last))
            try:
                with staged(folder, "a") as new:
                    fill(new, NEW)
            except KeyboardInterrupt:
                pass
            else:
                break
        found = read(folder)
        records = {text for name, text in found.items() if name.endswith(".rec")}
        wanted = {NEW["synset.txt"]: {"new"}, OLD["synset.txt"]: {"old"}}[found["synset.txt"]]
        assert records <= wanted, last
    assert last == 6  # three old files go, three new ones come


def test_a_move_that_fails_loses_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "d", OLD)

    def fail(path: Path, target: Path) -> None:
        raise OSError(5, "Input/output error", str(path))

    with monkeypatch.context() as patch, pytest.raises(OSError, match="Input/output"):
        patch.setattr(Path, "replace", fail)
        with staged(tmp_path / "d", "a") as folder:
            fill(folder, NEW)
    assert read(tmp_path / "d" / UNFINISHED).items() >= NEW.items()
    with staged(tmp_path / "d", "a") as folder:
        fill(folder, NEW)
    assert read(tmp_path / "d") == {**NEW, "other.txt": "mine"}
    assert not (tmp_path / "d" / UNFINISHED).exists()


def test_two_at_once(tmp_path: Path) -> None:
    with staged(tmp_path / "d", "a") as folder:
        with pytest.raises(ResnetError, match="is being filled by another run"), staged(tmp_path / "d", "a"):
            pass
        fill(folder, NEW)
    assert read(tmp_path / "d") == NEW
    with staged(tmp_path / "d", "a"):  # and the lock is gone with its owner
        pass


def test_what_is_refused_leaves_nothing(tmp_path: Path) -> None:
    for folder, there in ((tmp_path / "new" / "d", False), (tmp_path / "old", True)):
        if there:
            fill(folder, OLD)
        with pytest.raises(ResnetError), staged(folder, "a") as new:
            fill(new, NEW)
            raise ResnetError("no")
        assert (read(folder) if folder.exists() else {}) == (OLD if there else {})
    assert not (tmp_path / "new").exists()


def test_what_can_go_on_stays(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), staged(tmp_path / "d", "a") as folder:
        fill(folder, {".a_train.rec.part": "begun", ".a_train.rec.journal": "{}"})
        raise KeyboardInterrupt
    with staged(tmp_path / "d", "a") as folder:
        assert (folder / ".a_train.rec.part").read_text() == "begun"
        (folder / ".a_train.rec.journal").unlink()
