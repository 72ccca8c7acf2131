"""Features in files, pictures that look alike, and last layers trained on features."""

import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import resnet_v2
from conftest import Run, picture
from resnet_v2.data.jpeg import encode
from resnet_v2.data.records import IRHeader, pack, writing
from resnet_v2.errors import ResnetError
from resnet_v2.inference import feature_files, features, head, similar
from resnet_v2.inference.feature_files import FeatureFile, Origin, Rows, writing_features
from resnet_v2.inference.features import Places
from resnet_v2.inference.head import logistic_regression
from resnet_v2.networks import weights
from test_ensemble import COLOURS, quiet, record, save

pyarrow = pytest.importorskip("pyarrow", reason="missing pyarrow: pip install -e '.[features]'")
BOTH = pytest.mark.parametrize("ending", [".parquet", ".npz"])
ON_CPU = ("--device", "cpu")


@pytest.fixture(name="run")
def _run(run: Run) -> Run:
    return quiet(run)


def image(path: Path, seed: int, side: int = 32) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(encode(picture(seed, side, side), ".png", 3))
    return path


def origin(width: int = 4) -> Origin:
    return Origin("ResNet-8-v2", "0" * 64, 32, 32, width)


def rows(features: Any, label: Any = None, start: int = 0) -> Rows:
    numbers: NDArray[np.float32] = np.asarray(features, np.float32)
    count = len(numbers)
    names = np.array([f"{start + row}.jpg" for row in range(count)])
    labels = np.full(count, -1) if label is None else np.asarray(label)
    return Rows(names, labels, np.zeros(count, np.int64), np.array(["cat"] * count), np.full(count, 0.5), numbers)


def written(path: Path, its: Rows, of: Origin | None = None) -> Path:
    with writing_features(path, of or origin(its.features.shape[1])) as write:
        write(its)
    return path


def placed(path: Path) -> Places:
    return Places([str(path)], lambda: pytest.fail("no network is needed"), 8, 1)


@BOTH
def test_what_is_written(tmp_path: Path, run: Run, ending: str) -> None:
    prefix, rec, out = save(tmp_path / "m", 1), record(tmp_path / "v.rec"), tmp_path / f"f{ending}"
    lone = image(tmp_path / "a.png", 50, side=50)
    status, told, err = run("features", rec, lone, "--prefix", prefix, "--out", out, "--batch-size", 5, *ON_CPU)
    assert (status, err) == (0, "") and told == f"{out}: 13 pictures, 64 numbers each, of ResNet-8-v2\n"
    found = feature_files.joined(list(FeatureFile(out).blocks()))
    assert found.name.tolist() == [*(f"{rec}#{number}" for number in range(12)), str(lone)]
    assert found.label.tolist() == [*(key % 3 for key in range(12)), -1]
    network = resnet_v2.load(prefix)
    pictures = [*(picture(key, 32, 32) for key in range(12)), lone]
    assert np.allclose(found.features, network.features(pictures), rtol=1e-4, atol=1e-5)
    best = [answers[0] for answers in network.classify(pictures)]
    assert found.top.tolist() == [one.class_index for one in best]
    assert found.top_name.tolist() == [one.name for one in best]
    assert np.allclose(found.probability, [one.probability for one in best], rtol=1e-4)
    if ending == ".npz":
        with np.load(out) as arrays:
            assert np.array_equal(arrays["features"], found.features) and arrays["name"].tolist() == found.name.tolist()
            assert json.loads(arrays["header"].item())["network"] == "ResNet-8-v2"
    else:
        table = pyarrow.parquet.read_table(out).to_pydict()
        assert table["label"] == [*(key % 3 for key in range(12)), None]
        assert np.array_equal(np.array(table["features"], np.float32), found.features)
    before = out.read_bytes()
    assert run("features", rec, lone, "--prefix", prefix, "--out", out, "--batch-size", 5, *ON_CPU)[0] == 0
    assert out.read_bytes() == before


def test_one_form_becomes_the_other_and_two_become_one(tmp_path: Path, run: Run) -> None:
    rng = np.random.default_rng(0)
    first = written(tmp_path / "a.npz", rows(rng.normal(size=(3, 4)), [0, 1, -1]))
    second = written(tmp_path / "b.parquet", rows(rng.normal(size=(2, 4)), [2, 2], start=3))
    assert run("features", first, second, "--out", tmp_path / "c.parquet")[0] == 0
    assert run("features", tmp_path / "c.parquet", "--out", tmp_path / "d.npz")[0] == 0
    found = feature_files.joined(list(FeatureFile(tmp_path / "d.npz").blocks()))
    both = feature_files.joined([*FeatureFile(first).blocks(), *FeatureFile(second).blocks()])
    for name in feature_files.NAMES:
        assert np.array_equal(getattr(found, name), getattr(both, name)), name
    status, _, err = run("features", first, "--out", first)
    assert status == 2 and err == f"resnet-v2: --out {first} is one of the files that are read; give another name.\n"


@BOTH
def test_labels_and_answers_of_several(tmp_path: Path, run: Run, ending: str) -> None:
    told: Any
    labels: Any
    for told, labels, wanted in (
        ({"label_kind": "multi"}, [[1, 0, 1], [0, 0, 1]], 1),
        ({"label_kind": "tasks", "tasks": (1, 2), "class_names": ()}, [[0, 1], [0, 0]], 2),
    ):
        prefix, out = save(tmp_path / told["label_kind"], 1, **told), tmp_path / f"f{ending}"
        with writing(tmp_path / "v.rec") as writer:
            stored: list[list[float]] = [*labels, [7.0]]
            for key, label in enumerate(stored):
                writer.write(key, pack(IRHeader(0, label, key, 0), encode(picture(key, 32, 32), ".png", 3)))
        status, _, err = run("features", tmp_path / "v.rec", "--prefix", prefix, "--out", out, *ON_CPU)
        assert status == 0
        assert err == "warning: the labels of 1 image are not what the network tells; they are left out\n"
        found = feature_files.joined(list(FeatureFile(out).blocks()))
        assert found.label[:2].tolist() == labels and np.isnan(found.label[2]).all()
        assert found.top.shape == found.top_name.shape == found.probability.shape == ((3,) if wanted == 1 else (3, 2))


def test_labels_that_are_no_classes(tmp_path: Path, run: Run) -> None:
    prefix = save(tmp_path / "m", 1)
    with writing(tmp_path / "v.rec") as writer:
        for key, label in enumerate((7.0, 0.5, -1.0, float("nan"))):
            writer.write(key, pack(IRHeader(0, label, key, 0), encode(picture(key, 32, 32), ".png", 3)))
    status, _, err = run("features", tmp_path / "v.rec", "--prefix", prefix, "--out", tmp_path / "f.npz", *ON_CPU)
    assert (status, err.count("the labels of 3 images are not what the network tells")) == (0, 1)
    assert feature_files.joined(list(FeatureFile(tmp_path / "f.npz").blocks())).label.tolist() == [7, -1, -1, -1]


def test_blocks_are_small_whatever_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_files, "BLOCK", 3)
    many = rows(np.arange(40).reshape(10, 4))
    for ending in (".npz", ".parquet"):
        path = written(tmp_path / f"f{ending}", many)
        blocks = list(FeatureFile(path).blocks())
        assert len(FeatureFile(path)) == 10 and [len(block) for block in blocks] == [3, 3, 3, 1]
        assert np.array_equal(feature_files.joined(blocks).features, many.features)


def test_neighbours_are_the_largest_cosines(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    some, all_of_them = rng.normal(size=(5, 4)), rng.normal(size=(2500, 4))
    all_of_them[2000] = 7 * all_of_them[3]  # as alike: the earlier comes first
    asked = placed(written(tmp_path / "a.npz", rows(some)))
    among = placed(written(tmp_path / "b.npz", rows(all_of_them, np.arange(2500) - 1)))
    unit = all_of_them / np.linalg.norm(all_of_them, axis=1, keepdims=True)
    cosines = some @ unit.T / np.linalg.norm(some, axis=1, keepdims=True)
    for its, wanted in zip(similar.neighbours(asked, among, 7), cosines, strict=True):
        best = np.argsort(-np.round(wanted, 6), kind="stable")[:7]
        assert [one.image for one in its.neighbours] == [f"{row}.jpg" for row in best]
        assert [one.similarity for one in its.neighbours] == pytest.approx(wanted[best], abs=2e-6)
        assert [one.label for one in its.neighbours] == [int(row) - 1 if row else None for row in best]
    (three,) = similar.neighbours(placed(written(tmp_path / "c.npz", rows(all_of_them[3:4]))), among, 2)
    assert [one.image for one in three.neighbours] == ["3.jpg", "2000.jpg"]


def test_duplicates_are_told_with_what_they_are_like(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similar, "ROWS", 7)
    monkeypatch.setattr(similar, "COLUMNS", 5)
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(40, 4))
    numbers[30], numbers[31], numbers[12], numbers[33:35] = 2 * numbers[2], numbers[30], 3 * numbers[11], 0
    unit = numbers / np.maximum(np.linalg.norm(numbers, axis=1, keepdims=True), 1e-30)
    cosines = np.round(np.tril(unit @ unit.T, -1) - 2 * np.triu(np.ones((40, 40))), 6)
    for least in (0.9, 1.0):
        found = list(similar.duplicates(placed(written(tmp_path / "a.npz", rows(numbers))), least))
        wanted = [(row, int(cosines[row].argmax())) for row in range(40) if cosines[row].max() >= least]
        assert [(one.image, one.like) for one in found] == [(f"{row}.jpg", f"{like}.jpg") for row, like in wanted]
    assert wanted == [(12, 11), (30, 2), (31, 2)]


def test_the_commands_tell_what_is_alike(tmp_path: Path, run: Run) -> None:
    prefix, rec = save(tmp_path / "m", 1), record(tmp_path / "v.rec")
    lone, out = image(tmp_path / "a.png", 4), tmp_path / "f.parquet"
    assert run("features", rec, "--prefix", prefix, "--out", out, *ON_CPU)[0] == 0
    words = ("features", lone, "--prefix", prefix, "--neighbours", 2, "--among", *ON_CPU)
    for among in (out, rec):
        status, told, err = run(*words[:-2], among, *ON_CPU)
        assert (status, err) == (0, "")
        first, second, third = told.splitlines()
        assert (first, second) == (str(lone), f"  1.0000  {rec}#4  label 1") and third.startswith("  0.")
    found = json.loads(run(*words[:-2], out, "--json", *ON_CPU)[1])
    assert found[0]["image"] == str(lone)
    assert found[0]["neighbours"][0] == {"image": f"{rec}#4", "label": 1, "similarity": 1.0}
    status, told, err = run("features", out, lone, "--prefix", prefix, "--duplicates", 1, *ON_CPU)
    assert (status, told) == (0, f"1.0000  {lone}  is like  {rec}#4\n")
    assert err == "1 of 13 has a cosine of 1 or more to an earlier one\n"
    status, told, err = run("features", out, "--duplicates", 1, "--json")
    assert (status, json.loads(told), err) == (0, [], "0 of 12 have a cosine of 1 or more to an earlier one\n")


def test_unreadable_pictures_are_named_and_left_out(tmp_path: Path, run: Run) -> None:
    prefix, bad = save(tmp_path / "m", 1), tmp_path / "p" / "bad.jpg"
    image(tmp_path / "p" / "a.png", 1)
    bad.write_text("none")
    status, told, err = run("features", tmp_path / "p", "--prefix", prefix, "--out", tmp_path / "f.npz", *ON_CPU)
    assert status == 1 and told.endswith("1 picture, 64 numbers each, of ResNet-8-v2; 1 left out\n")
    assert err.startswith(f"left out: {bad} is no readable image")
    status, told, err = run("features", bad, "--prefix", prefix, "--out", tmp_path / "g.npz", *ON_CPU)
    assert (status, told) == (2, "") and not (tmp_path / "g.npz").exists()
    assert err.endswith(f"resnet-v2: {bad} holds no picture that can be read; give others.\n")
    status, _, err = run("features", bad, "--among", tmp_path / "f.npz", "--neighbours", 1, "--prefix", prefix, *ON_CPU)
    assert status == 2 and err.endswith("holds no picture that can be read; give others.\n")


def sentence(run: Run, *words: object) -> str:
    """What a command says that is refused, in one line."""
    status, out, err = run(*words)
    assert (status, out, err.count("\n")) == (2, "", 1), err
    return err.removeprefix("resnet-v2: ").rstrip()


def test_features_of_two_networks_do_not_mix(tmp_path: Path, run: Run) -> None:
    first, second = save(tmp_path / "a", 1), save(tmp_path / "b", 2)
    lone = image(tmp_path / "a.png", 4)
    for name, prefix in (("a", first), ("b", second), ("wide", save(tmp_path / "c", 1, depth=11))):
        run("features", lone, "--prefix", prefix, "--out", tmp_path / f"{name}.npz", *ON_CPU)
    pairs = [
        (tmp_path / "a.npz", tmp_path / "b.npz"),
        (tmp_path / "a.npz", tmp_path / "wide.npz"),
        (tmp_path / "b.npz", lone),
    ]
    for one, other in pairs:
        words = ("--prefix", first, *ON_CPU)
        for told in (
            sentence(run, "features", one, other, "--duplicates", 0.9, *words),
            sentence(run, "features", one, other, "--out", tmp_path / "x.npz", *words),
            sentence(run, "features", other, "--among", one, "--neighbours", 1, *words),
        ):
            assert "are another network's than those of" in told
            assert told.endswith("give the --prefix that the file of features was made with, or make the file anew.")
    asked = ("features", lone, "--among", tmp_path / "b.npz", "--neighbours", 1, *ON_CPU)
    told = sentence(run, *asked, "--prefix", first)
    assert (
        told.startswith(f"The features of the network {first} (ResNet-") and f"those of {tmp_path / 'b.npz'} (" in told
    )
    assert "The features of the network that ships (ResNet-14-v2" in sentence(run, *asked)
    assert not (tmp_path / "x.npz").exists()
    other_view = save(tmp_path / "view", 1, resize=40)
    assert "crop 32 of 40" in sentence(
        run, "features", lone, tmp_path / "a.npz", "--duplicates", 0.9, "--prefix", other_view, *ON_CPU
    )
    # Another last layer gives the same features.
    _, header, tensors = weights.read_checkpoint(first)
    weights.save(tmp_path / "head-0000.safetensors", tensors | {"fc1.bias": tensors["fc1.bias"] + 1}, header)
    again = ("--prefix", tmp_path / "head-0000", "--duplicates", 1, *ON_CPU)
    assert run("features", tmp_path / "a.npz", lone, *again)[0] == 0


def test_what_cannot_be_asked(tmp_path: Path, run: Run) -> None:
    prefix, rec = save(tmp_path / "m", 1), record(tmp_path / "v.rec")
    one = "Give one of --out FILE, --neighbours K with --among, and --duplicates COSINE."
    assert sentence(run, "features", rec) == one
    assert sentence(run, "features", rec, "--out", "a.npz", "--duplicates", 0.9) == one
    assert "give both" in sentence(run, "features", rec, "--neighbours", 3)
    assert "name it .parquet or .npz" in sentence(run, "features", rec, "--out", "a.csv")
    words = ("features", rec, "--prefix", prefix, "--among", rec, *ON_CPU)
    assert sentence(run, *words, "--neighbours", 13) == (
        f"--neighbours 13 are more than the 12 pictures of {rec}; give fewer."
    )
    assert sentence(run, "features", tmp_path / "no.npz", "--duplicates", 0.9) == (
        f"{tmp_path}/no.npz cannot be read (No such file or directory); check the path."
    )
    with writing(tmp_path / "empty.rec"):
        pass
    empty = tmp_path / "empty.rec"
    told = f"{empty} holds no images; pack it again."
    assert sentence(run, "features", empty, "--out", tmp_path / "x.npz", "--prefix", prefix, *ON_CPU) == told
    assert sentence(run, "head", empty, "--out", tmp_path / "x", "--prefix", prefix, *ON_CPU) == told
    assert not list(tmp_path.glob("x*"))


@BOTH
def test_files_that_are_none(tmp_path: Path, run: Run, ending: str) -> None:
    good = written(tmp_path / f"good{ending}", rows(np.ones((3, 4))))
    bad = tmp_path / f"bad{ending}"
    data = good.read_bytes()
    for content in (b"", b"text", data[: len(data) // 2], bytes(len(data))):
        bad.write_bytes(content)
        assert str(bad) in sentence(run, "features", bad, "--duplicates", 0.9)
    written(bad, rows([[1, 2, 3, 4], [1, 2, 3, np.nan]]))
    assert sentence(run, "features", bad, "--duplicates", 0.9) == (
        f"{bad}: the features of 1.jpg are no numbers; make it anew."
    )
    if ending == ".npz":
        np.savez(bad, features=np.ones((3, 4), np.float32))
        assert "has no header of resnet-v2" in sentence(run, "features", bad, "--duplicates", 0.9)
        for name, array in (("name", np.array(["a"])), ("features", np.ones((3, 4))), ("name", np.array([None] * 3))):
            with np.load(good) as arrays:
                np.savez(bad, **(dict(arrays) | {name: array}))
            assert "is damaged or no file of features" in sentence(run, "features", bad, "--duplicates", 0.9)
        with zipfile.ZipFile(bad, "w") as archive:
            archive.writestr("a.txt", "a")
    else:
        pyarrow.parquet.write_table(pyarrow.table({"features": [1, 2]}), bad)
    assert str(bad) in sentence(run, "features", bad, "--duplicates", 0.9)


def test_without_pyarrow_a_sentence_says_what_to_install(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix, lone = save(tmp_path / "m", 1), image(tmp_path / "a.png", 1)
    made = written(tmp_path / "there.parquet", rows(np.ones((3, 4))))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    out = tmp_path / "new" / "f.parquet"
    for words in ((lone, "--out", out), (made, "--duplicates", 1)):
        told = sentence(run, "features", *words, "--prefix", prefix, *ON_CPU)
        assert "is not installed; install it with pip install -e '.[features]' in the clone of resnet-v2." in told
    assert not out.parent.exists()
    assert run("features", lone, "--prefix", prefix, "--out", tmp_path / "f.npz", *ON_CPU)[0] == 0


def test_weights_that_are_no_numbers(tmp_path: Path, run: Run) -> None:
    prefix, rec = save(tmp_path / "m", 1), record(tmp_path / "v.rec")
    path, header, tensors = weights.read_checkpoint(prefix)
    tensors["stage1.unit1.conv1.weight"][0, 0, 0, 0] = np.nan
    weights.save(path, tensors, header)
    for words in (("features", rec, "--out", tmp_path / "f.npz"), ("head", rec, "--out", tmp_path / "mine")):
        assert "its weights are damaged" in sentence(run, *words, "--prefix", prefix, *ON_CPU)
    assert not list(tmp_path.glob("f.npz")) and not list(tmp_path.glob("mine*"))


def test_features_that_do_not_fit_into_memory(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    made = written(tmp_path / "a.npz", rows(np.ones((1000, 4))))
    monkeypatch.setattr(features, "free_memory", lambda: 31999)
    assert "of 0 MiB that are free; give fewer." in sentence(run, "features", made, "--duplicates", 1)
    monkeypatch.setattr(features, "free_memory", lambda: 32000)
    assert run("features", made, "--duplicates", 1)[0] == 0
    with pytest.raises(ResnetError, match="give fewer"):
        monkeypatch.setattr(features, "free_memory", lambda: 1)
        placed(made).whole()


@pytest.mark.slow
@pytest.mark.parametrize("strength", [0.01, 1.0])
def test_the_head_is_that_of_scikit_learn(strength: float) -> None:
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    drawn = (rng.normal(size=(300, 6)) + labels[:, None] * rng.normal(size=6)).astype(np.float32) * [1, 9, 1, 0.1, 1, 0]
    x: NDArray[np.float32] = np.asarray(drawn + np.array([0, 100, 0, 5, 0, 2]), np.float32)
    weight, bias = logistic_regression(x, labels, 3, strength)
    scaled = (x - x.mean(0, dtype=np.float64)) / np.where(x.std(0) > 0, x.std(0, dtype=np.float64), 1)
    peer = LogisticRegression(C=strength, tol=1e-8, max_iter=5000).fit(scaled, labels)
    logits = x.astype(np.float64) @ weight.numpy().T.astype(np.float64) + bias.numpy()
    shares = np.exp(logits - logits.max(1, keepdims=True))
    assert np.allclose(shares / shares.sum(1, keepdims=True), peer.predict_proba(scaled), atol=2e-4)


def test_images_that_are_held_out_choose_how_large_weights_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise alone: the smallest weights are best. Classes far apart: the largest."""
    rng, labels = np.random.default_rng(0), np.arange(200) % 2
    noise = rng.normal(size=(200, 20)).astype(np.float32)
    apart: NDArray[np.float32] = noise + np.float32(20) * (labels[:, None] * 2 - 1).astype(np.float32)
    for x, wanted in ((noise, min(head.STRENGTHS)), (apart, max(head.STRENGTHS))):
        ours, theirs = (logistic_regression(x, labels, 2, strength)[0] for strength in (0, wanted))
        assert torch.equal(ours, theirs)
    # At the minimum the mean probability of a class is its share of the images, wherever the features lie.
    weight, bias = logistic_regression(noise + np.float32(9), labels, 2, 1.0)
    shares = torch.softmax(torch.from_numpy(noise + np.float32(9)) @ weight.T + bias, 1).mean(0)
    assert shares.tolist() == pytest.approx([0.5, 0.5], abs=1e-3)
    few = logistic_regression(apart[:8], labels[:8], 2)[0]  # four of each class: none can be held out
    assert torch.equal(few, logistic_regression(apart[:8], labels[:8], 2, head.STRENGTHS[3])[0])


def coloured(path: Path, images: int, first: int, colours: int = 3) -> Path:
    """Pictures of one colour each, with a little noise, which a network that has learned nothing tells apart."""
    with writing(path) as writer:
        for key in range(images):
            pixels = np.random.default_rng(first + key).integers(0, 60, (32, 32, 3)).astype(np.uint8)
            pixels[:, :, key % colours] += 150
            writer.write(key, pack(IRHeader(0, float(key % colours), key, 0), encode(pixels, ".png", 3)))
    return path


def test_a_head_is_an_ordinary_checkpoint(tmp_path: Path, run: Run) -> None:
    prefix = save(tmp_path / "m", 1, label_kind="multi")
    training, validation = coloured(tmp_path / "t.rec", 60, 0), coloured(tmp_path / "v.rec", 31, 1000)
    (tmp_path / "synset.txt").write_text("rose\nleaf\nsky\n")
    mine = tmp_path / "new" / "mine"
    status, out, err = run("head", training, "--val", validation, "--prefix", prefix, "--out", mine, *ON_CPU)
    assert (status, err) == (0, ""), err
    path = f"{mine}-0000.safetensors"
    assert out.startswith(f"{path}: top-1 error 0.00 % on 31 images of {validation}; next: resnet-v2")
    header = resnet_v2.load(mine).header
    assert header.class_names == ("rose", "leaf", "sky") and header.errors == {"top1_error": 0.0, "top5_error": 0.0}
    assert header.label_kind == "class" and not header.training
    found = json.loads(run("evaluate", "--prefix", mine, "--rec", validation, "--json", *ON_CPU)[1])
    assert (found["images"], found["top1_error"]) == (31, 0.0) and found["loss"] < 0.1
    ours, theirs = (weights.read_checkpoint(one)[2] for one in (mine, prefix))
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs if not name.startswith("fc1."))
    assert run("verify", path)[0] == 0
    assert run("features", training, "--prefix", prefix, "--out", tmp_path / "t.npz", *ON_CPU)[0] == 0
    assert run("card", "--prefix", mine)[0] == 0


def test_a_head_on_files_of_features(tmp_path: Path, run: Run) -> None:
    prefix, training = save(tmp_path / "m", 1), coloured(tmp_path / "t.rec", 60, 0)
    assert run("features", training, "--prefix", prefix, "--out", tmp_path / "t.npz", *ON_CPU)[0] == 0
    words = ("--prefix", prefix, *ON_CPU)
    status, out, _ = run("head", tmp_path / "t.npz", "--out", tmp_path / "a", *words)
    assert status == 0 and "the training images themselves (give --val)" in out
    assert resnet_v2.load(tmp_path / "a").header.errors == {}
    run("head", training, "--out", tmp_path / "b", *words)
    assert Path(f"{tmp_path}/a-0000.safetensors").read_bytes() == Path(f"{tmp_path}/b-0000.safetensors").read_bytes()
    other = save(tmp_path / "other", 2)
    told = sentence(run, "head", tmp_path / "t.npz", "--out", tmp_path / "c", "--prefix", other, *ON_CPU)
    assert told.startswith(f"The features of the network {other} (") and f"those of {tmp_path / 't.npz'} (" in told


def test_a_head_learns_class_folders(tmp_path: Path, run: Run) -> None:
    prefix = save(tmp_path / "m", 1)
    for part, first in (("train", 0), ("val", 1000)):
        for number in range(30 if part == "train" else 9):
            pixels = np.random.default_rng(first + number).integers(0, 60, (32, 32, 3)).astype(np.uint8)
            pixels[:, :, number % 3] += 150
            folder = tmp_path / "root" / part / ("rose", "leaf", "sky")[number % 3]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number}.png").write_bytes(encode(pixels, ".png", 3))
    train, val, out = tmp_path / "root" / "train", tmp_path / "root" / "val", tmp_path / "head"
    words = ("--prefix", prefix, *ON_CPU, "--out", out)
    (train / "leaf" / "none.png").write_text("none")
    status, told, err = run("head", train, "--val", val, *words)
    assert status == 0 and told.startswith(f"{out}-0000.safetensors: top-1 error 0.00 % on 9 images of {val}; next"), (
        err
    )
    assert "leaf/none.png is no readable image" in err
    header = resnet_v2.load(out).header
    assert header.class_names == ("leaf", "rose", "sky") and header.errors["top1_error"] == 0
    assert run("evaluate", "--prefix", out, "--rec", coloured(tmp_path / "v.rec", 9, 7), "--json", *ON_CPU)[0] == 0
    (tmp_path / "synset.txt").write_text("rose\nleaf\nsky\n")  # that of the record, whose classes have other numbers
    told = sentence(run, "head", val, "--val", tmp_path / "v.rec", *words)
    assert "synset.txt names other classes than leaf, rose, sky" in told
    assert "top-1 error 0.00 % on 9 images" in run("head", coloured(tmp_path / "t.rec", 30, 0), "--val", val, *words)[1]
    told = sentence(run, "head", tmp_path / "root", *words)
    assert f"holds train and val, a split into two; give {train}, and {val} as --val" in told
    (val / "sky").rename(val / "earth")
    told = sentence(run, "head", train, "--val", val, *words)
    assert f"{val}/earth is none of leaf, rose, sky; give folders of the same classes, or --synset" in told


def test_what_no_head_is_trained_on(tmp_path: Path, run: Run) -> None:
    prefix, training = save(tmp_path / "m", 1), coloured(tmp_path / "t.rec", 12, 0)
    words = ("--prefix", prefix, *ON_CPU)
    alone = coloured(tmp_path / "one.rec", 5, 0, colours=1)
    assert "has images of class 0 alone; a head needs two" in sentence(
        run, "head", alone, "--out", tmp_path / "x", *words
    )
    lone = image(tmp_path / "a.png", 1)
    assert f"{lone} has no class" in sentence(run, "head", lone, "--out", tmp_path / "x", *words)
    (tmp_path / "two.txt").write_text("a\nb\n")
    told = sentence(run, "head", training, "--synset", tmp_path / "two.txt", "--out", tmp_path / "x", *words)
    assert "has images of class 2, but its synset.txt names 2" in told
    assert "has the checkpoints of a run" in sentence(run, "head", training, "--out", prefix, *words)
    several = written(tmp_path / "s.npz", rows(np.ones((2, 4)), np.ones((2, 3), np.float32)))
    assert "another network's than" in sentence(run, "head", several, "--out", tmp_path / "x", *words)
    assert not list(tmp_path.glob("x*"))
    status, _, err = run("head", alone, training, "--val", training, "--out", tmp_path / "y", *words)
    assert status == 0 and err == ""
    status, _, err = run("head", training, "--val", record(tmp_path / "v.rec"), "--out", tmp_path / "y", *words)
    assert status == 0, "a head is made anew over an earlier one"


def test_classes_that_only_the_validation_has(tmp_path: Path, run: Run) -> None:
    prefix = save(tmp_path / "m", 1)
    two, three = coloured(tmp_path / "two.rec", 12, 0, colours=2), coloured(tmp_path / "three.rec", 12, 0)
    status, out, err = run("head", two, "--val", three, "--out", tmp_path / "x", "--prefix", prefix, *ON_CPU)
    assert status == 0 and "top-1 error 33.33 %" in out
    assert err == "warning: 1 class of the validation has no training image, class 2 the first\n"
    assert resnet_v2.load(tmp_path / "x").header.architecture.classes == len(COLOURS)
