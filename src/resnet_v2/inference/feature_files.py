"""Files of features: parquet by pyarrow, npz by numpy; both hold a header that says which network saw the pictures."""

import contextlib
import json
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from resnet_v2.config.features import ENDINGS
from resnet_v2.errors import ResnetError
from resnet_v2.files import parse_json, replacing
from resnet_v2.interchange.optional import package

BLOCK = 1024  # rows that are written, and read, at once
KEY = "resnet_v2_features"  # of the header in a parquet file's metadata; the entry of an npz is called `header`
UNREADABLE = (ValueError, KeyError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error)
Format = Any  # numpy.lib.format has no types for what is needed of it


@dataclass(frozen=True)
class Origin:
    """What saw the pictures: the network, the fingerprint of its weights below the last layer, the pixels of its view.

    `width` is how many numbers a picture has.
    """

    network: str
    weights: str
    crop: int
    resize: int
    width: int

    def __str__(self) -> str:
        """In words."""
        return f"{self.network}, weights {self.weights[:8]}, {self.width} numbers, crop {self.crop} of {self.resize}"


@dataclass(frozen=True)
class Rows:
    """n pictures: name (text), label (int64, -1: unknown; several: n x labels, float32, nan: unknown), the most
    probable class `top` (int64), its name and probability (of several tasks n x tasks), features (n x width, float32).
    """

    name: NDArray[Any]
    label: NDArray[Any]
    top: NDArray[np.int64]
    top_name: NDArray[Any]
    probability: NDArray[np.float64]
    features: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.name)


NAMES = tuple(field.name for field in fields(Rows))


def joined(blocks: list[Rows]) -> Rows:
    """The rows of all blocks, of which there is one at least."""
    return Rows(**{name: np.concatenate([getattr(block, name) for block in blocks]) for name in NAMES})


def is_feature_file(place: str) -> bool:
    """Whether a name is that of a file of features."""
    return Path(place).suffix.lower() in ENDINGS


def refuse_other(origin: Origin, name: str, other: Origin, other_name: str) -> None:
    """Raise ResnetError where two sources of features are not of the same network and view."""
    if origin != other:
        raise ResnetError(
            f"The features of {name} ({origin}) are another network's than those of {other_name} ({other}); give the "
            "`prefix` that the file of features was made with, or make the file anew."
        )


@contextlib.contextmanager
def writing_features(path: Path, origin: Origin) -> Iterator[Callable[[Rows], None]]:
    """Yield what writes rows, block by block; the file gets its name when all are there.

    Raises ResnetError without pyarrow, which parquet needs, and where there were no rows.
    """
    writing = _parquet if path.suffix.lower() == ".parquet" else _npz
    if writing is _parquet:
        package("pyarrow.parquet", "features")  # before anything is written
    with replacing(path) as temporary, writing(temporary, origin) as write:
        yield write


@contextlib.contextmanager
def _parquet(path: Path, origin: Origin) -> Iterator[Callable[[Rows], None]]:
    arrow, parquet = package("pyarrow", "features"), package("pyarrow.parquet", "features")
    writers: list[Any] = []
    waiting: list[Rows] = []

    def flush() -> None:
        rows = joined(waiting)
        waiting.clear()
        table = _table(arrow, rows).replace_schema_metadata({KEY: json.dumps(asdict(origin))})
        if not writers:
            writers.append(parquet.ParquetWriter(path, table.schema, use_dictionary=["top_name"]))
        writers[0].write_table(table)

    def write(rows: Rows) -> None:
        waiting.append(rows)
        if sum(map(len, waiting)) >= BLOCK:
            flush()

    try:
        yield write
        if waiting:
            flush()
    finally:
        for writer in writers:
            writer.close()


def _table(arrow: Any, rows: Rows) -> Any:
    unknown = rows.label < 0 if rows.label.ndim == 1 else None
    columns = {
        name: arrow.array(values, mask=unknown if name == "label" else None)
        if values.ndim == 1
        else _lists(arrow, values)
        for name, values in ((name, getattr(rows, name)) for name in NAMES)
    }
    return arrow.table(columns)


def _lists(arrow: Any, values: NDArray[Any]) -> Any:
    return arrow.FixedSizeListArray.from_arrays(arrow.array(values.ravel()), values.shape[1])


@contextlib.contextmanager
def _npz(path: Path, origin: Origin) -> Iterator[Callable[[Rows], None]]:
    """How many rows there are is known at the end, and has to stand before them: the features wait in a file."""
    others: dict[str, list[NDArray[Any]]] = {name: [] for name in NAMES if name != "features"}
    form: Format = np.lib.format
    with tempfile.TemporaryFile(dir=path.parent) as waiting:

        def write(rows: Rows) -> None:
            for name, blocks in others.items():
                blocks.append(getattr(rows, name))
            waiting.write(np.ascontiguousarray(rows.features, "<f4").data)

        yield write
        arrays = {name: np.concatenate(blocks) for name, blocks in others.items() if blocks}
        shape = (len(arrays.get("name", ())), origin.width)
        waiting.seek(0)
        with zipfile.ZipFile(path, "w") as archive:
            for name, array in (arrays | {"header": np.array(json.dumps(asdict(origin)))}).items():
                with _entry(archive, name) as file:
                    form.write_array(file, array, allow_pickle=False)
            with _entry(archive, "features") as file:
                form.write_array_header_2_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
                shutil.copyfileobj(waiting, file, 1 << 20)


def _entry(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    # By ZipInfo, whose date is always the same, so that the same features are the same bytes.
    return archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True)


class FeatureFile:
    """A file of features: `origin`, how many rows it has, and its rows block by block.

    Raises ResnetError for a file that is not there, damaged, or was not written by `features`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._told():
            self.origin, self._count = self._read_header()

    def __len__(self) -> int:
        return self._count

    def blocks(self) -> Iterator[Rows]:
        """The rows in their order; a ResnetError names a picture whose features are no numbers."""
        with self._told():
            for rows in self._parquet_rows() if self._is_parquet else self._npz_rows():
                if not (bad := np.isfinite(rows.features).all(1)).all():
                    raise ResnetError(
                        f"{self.path}: the features of {rows.name[~bad][0]} are no numbers; make it anew."
                    )
                yield rows

    @property
    def _is_parquet(self) -> bool:
        return self.path.suffix.lower() == ".parquet"

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            what = error.strerror or "it is no such file"
            raise ResnetError(f"{self.path} cannot be read ({what}); check the path.") from None
        except UNREADABLE as error:
            why = str(error).partition("\n")[0]
            raise ResnetError(f"{self.path} is damaged or no file of features ({why}); make it anew.") from None

    def _read_header(self) -> tuple[Origin, int]:
        with self.path.open("rb"):
            pass
        if self._is_parquet:
            file = self._open_parquet()
            text, count = (file.schema_arrow.metadata or {}).get(KEY.encode(), b""), file.metadata.num_rows
        else:
            with zipfile.ZipFile(self.path) as archive:
                names = archive.namelist()
                text = _read_array(archive, "header").item() if "header.npy" in names else ""
                with archive.open("features.npy") as entry:
                    count = _shape(entry)[0]
        if not text:
            raise ResnetError(
                f"{self.path} has no header of resnet-v2, so its network is unknown; make it with `resnet-v2 features`."
            )
        return _origin(parse_json(text)), count

    def _open_parquet(self) -> Any:
        arrow, parquet = package("pyarrow", "features"), package("pyarrow.parquet", "features")
        try:
            return parquet.ParquetFile(self.path)
        except arrow.ArrowException as error:
            raise ValueError(error) from None

    def _parquet_rows(self) -> Iterator[Rows]:
        arrow = package("pyarrow", "features")
        try:
            for batch in self._open_parquet().iter_batches(BLOCK, columns=list(NAMES)):
                columns = {name: _column(arrow, name, batch.column(name)) for name in NAMES}
                yield self._checked(columns)
        except arrow.ArrowException as error:
            raise ValueError(error) from None

    def _npz_rows(self) -> Iterator[Rows]:
        with zipfile.ZipFile(self.path) as archive:
            others = {name: _read_array(archive, name) for name in NAMES if name != "features"}
            with archive.open("features.npy") as entry:
                _shape(entry)
                for start in range(0, self._count, BLOCK):
                    count, width = min(BLOCK, self._count - start), self.origin.width
                    data = entry.read(4 * count * width)
                    its = {name: array[start : start + count] for name, array in others.items()}
                    yield self._checked(its | {"features": np.frombuffer(data, "<f4").reshape(count, width)})

    def _checked(self, columns: Mapping[str, NDArray[Any]]) -> Rows:
        rows = Rows(**columns)
        if {len(values) for values in columns.values()} != {len(rows)} or rows.features.shape[1:] != (
            self.origin.width,
        ):
            raise ValueError("its columns do not fit each other")
        return rows


def _origin(values: Any) -> Origin:
    kinds = {field.name: field.type for field in fields(Origin)}
    if not isinstance(values, dict) or values.keys() != kinds.keys():
        raise ValueError("its header is another program's")
    if not all(type(values[name]) is kind for name, kind in kinds.items()):
        raise ValueError("its header says what cannot be")
    return Origin(**values)


def _read_array(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    form: Format = np.lib.format
    with archive.open(f"{name}.npy") as entry:
        found: NDArray[Any] = form.read_array(entry, allow_pickle=False)
    return found


def _shape(entry: IO[bytes]) -> tuple[int, int]:
    """The shape of the features, whose numbers come next."""
    form: Format = np.lib.format
    version = form.read_magic(entry)
    shape, by_columns, kind = (form.read_array_header_1_0 if version == (1, 0) else form.read_array_header_2_0)(entry)
    if len(shape) != 2 or by_columns or kind != np.dtype("<f4"):
        raise ValueError("its features are no table of float32")
    return int(shape[0]), int(shape[1])


def _column(arrow: Any, name: str, column: Any) -> NDArray[Any]:
    if arrow.types.is_fixed_size_list(column.type):
        values: NDArray[Any] = column.flatten().to_numpy(zero_copy_only=False)
        return values.reshape(len(column), column.type.list_size)
    if name == "label":
        column = column.fill_null(-1)
    found: NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return found.astype(np.str_) if found.dtype == object else found
