"""MXNet's side of the parity tests of records and augmentation; used by worker.py, in MXNet's own Python."""

import importlib
from typing import Any

import cv2
import numpy as np

mx: Any = importlib.import_module("mxnet")

Arrays = dict[Any, Any]
Answer = tuple[dict[str, Any], Arrays]


def _split(arrays: Arrays) -> list[bytes]:
    """The payloads that stand one after the other in `data`."""
    ends = np.cumsum(arrays["lengths"])
    data = arrays["data"].tobytes()
    return [data[end - length : end] for end, length in zip(ends, arrays["lengths"], strict=True)]


def _join(payloads: list[bytes]) -> Arrays:
    return {
        "data": np.frombuffer(b"".join(payloads), np.uint8),
        "lengths": np.array([len(payload) for payload in payloads], np.int64),
    }


def write_records(settings: dict[str, Any], arrays: Arrays) -> Answer:
    """Write payloads with MXIndexedRecordIO under the keys 0, 1, ...; gives what tell() told before each."""
    writer = mx.recordio.MXIndexedRecordIO(settings["idx"], settings["rec"], "w")
    positions = []
    for key, payload in enumerate(_split(arrays)):
        positions.append(writer.tell())
        writer.write_idx(key, payload)
    writer.close()
    return {"positions": positions}, {}


def read_records(settings: dict[str, Any], arrays: Arrays) -> Answer:
    """Read a file twice, by key and from the front, which must give the same; the payloads and keys."""
    reader = mx.recordio.MXIndexedRecordIO(settings["idx"], settings["rec"], "r")
    by_key = [reader.read_idx(key) for key in reader.keys]
    stream = mx.recordio.MXRecordIO(settings["rec"], "r")
    in_order = []
    while (payload := stream.read()) is not None:
        in_order.append(payload)
    assert by_key == in_order
    return {"keys": reader.keys}, _join(in_order)


def pack_headers(settings: dict[str, Any], arrays: Arrays) -> Answer:
    """The bytes of pack() for each label: a number, or an array."""
    records = [
        mx.recordio.pack((0, label if isinstance(label, (int, float)) else np.array(label), 7, 1), b"image")
        for label in settings["labels"]
    ]
    return {}, _join(records)


def iterate(settings: dict[str, Any], arrays: Arrays) -> Answer:
    """Everything ImageRecordIter gives in one epoch: `images` (n x 3 x H x W, float32) and `labels`."""
    images, labels = [], []
    for batch in mx.io.ImageRecordIter(**settings):
        count = batch.data[0].shape[0] - batch.pad
        images.append(batch.data[0].asnumpy()[:count])
        labels.append(batch.label[0].asnumpy()[:count])
    return {}, {"images": np.concatenate(images), "labels": np.concatenate(labels)}


def warp_then_crop(settings: dict[str, Any], arrays: Arrays) -> Answer:
    """The steps of MXNet's augmenter one after the other, with the OpenCV of MXNet's environment, for given draws."""
    grey = (127, 127, 127)
    size, pad = settings["size"], settings["pad"]
    crops = []
    for draw in settings["draws"]:
        pixels = arrays["pixels"]
        if draw["matrix"] is not None:
            height, width = draw["canvas"]
            pixels = cv2.warpAffine(
                pixels,
                np.array(draw["matrix"]),
                (width, height),
                flags=cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_CONSTANT,
                borderValue=grey,
            )
        pixels = cv2.copyMakeBorder(pixels, pad, pad, pad, pad, cv2.BORDER_CONSTANT, value=grey)
        top, left = draw["top"] + pad, draw["left"] + pad
        crop = pixels[top : top + size, left : left + size]
        crops.append(crop[:, ::-1] if draw["mirror"] else crop)
    return {"opencv": cv2.__version__}, {"crops": np.stack(crops)}


def shift_colours(settings: dict[str, Any], arrays: Arrays) -> Answer:
    """RGB pixels through 8-bit HLS and back, offsets (hue, lightness, saturation) added and clamped on the way."""
    hls = cv2.cvtColor(arrays["pixels"], cv2.COLOR_RGB2HLS).astype(int) + settings["offsets"]
    clamped = np.clip(hls, 0, (180, 255, 255)).astype(np.uint8)
    return {}, {"pixels": cv2.cvtColor(clamped, cv2.COLOR_HLS2RGB)}


def write_faces(settings: dict[str, Any], arrays: Arrays) -> Answer:
    """A collection of faces, as InsightFace's face2rec2.py writes one: `each` images of every identity."""
    writer = mx.recordio.MXIndexedRecordIO(settings["idx"], settings["rec"], "w")
    images, each = _split(arrays), settings["each"]
    people, first = len(images) // each, len(images) + 1

    def write(key: int, label: list[float], image: bytes) -> None:
        writer.write_idx(key, mx.recordio.pack(mx.recordio.IRHeader(2, label, key, 0), image))

    write(0, [float(first), float(first + people)], b"")
    for number, image in enumerate(images):
        write(1 + number, [float(number // each), 0.0], image)
    for person in range(people):
        write(first + person, [1.0 + person * each, 1.0 + (person + 1) * each], b"")
    writer.close()
    return {}, {}


def read_faces(settings: dict[str, Any], arrays: Arrays) -> Answer:
    """The identities, keys of images and images, as InsightFace's data loaders read them."""
    reader = mx.recordio.MXIndexedRecordIO(settings["idx"], settings["rec"], "r")
    header, _ = mx.recordio.unpack(reader.read_idx(0))
    keys = list(range(1, int(header.label[0])))
    found = [mx.recordio.unpack(reader.read_idx(key)) for key in keys]
    labels = [int(np.ravel(header.label)[0]) for header, _ in found]  # a number or an array, both are out there
    return {"keys": keys, "labels": labels, "flag": header.flag}, _join([image for _, image in found])


def read_by_all(settings: dict[str, Any], arrays: Arrays) -> Answer:
    """Labels by each of MXNet's readers, in the order of the file, and the pixels of two of them (all of one size)."""
    rec, idx, size = settings["rec"], settings["idx"], settings["size"]
    reader = mx.recordio.MXIndexedRecordIO(idx, rec, "r")
    by_key = [mx.recordio.unpack(reader.read_idx(key))[0] for key in reader.keys]
    data_set = mx.gluon.data.vision.ImageRecordDataset(rec)
    of_gluon = [data_set[number] for number in range(len(data_set))]
    image_iter = mx.image.ImageIter(1, (3, size, size), path_imgrec=rec, path_imgidx=idx)
    of_image_iter = [(batch.data[0].asnumpy()[0], batch.label[0].asnumpy()) for batch in image_iter]
    _, arrays = iterate({"path_imgrec": rec, "data_shape": (3, size, size), "batch_size": 1}, {})
    return {
        "keys": reader.keys,
        "ids": [header.id for header in by_key],
        "labels": [float(np.ravel(header.label)[0]) for header in by_key],
        "gluon": [float(np.ravel(label)[0]) for _, label in of_gluon],
        "image_iter": [float(label.ravel()[0]) for _, label in of_image_iter],
        "record_iter": [float(label) for label in arrays["labels"].ravel()],
    }, {
        "gluon": np.stack([image.asnumpy() for image, _ in of_gluon]),
        "image_iter": np.stack([pixels for pixels, _ in of_image_iter]),
        "record_iter": arrays["images"],
    }


def decode_images(settings: dict[str, Any], arrays: Arrays) -> Answer:
    """The pixels of image files, RGB, all of one size."""
    return {}, {"pixels": np.stack([mx.image.imdecode(data).asnumpy() for data in _split(arrays)])}


COMMANDS = (
    write_records,
    read_records,
    pack_headers,
    write_faces,
    read_faces,
    read_by_all,
    decode_images,
    iterate,
    warp_then_crop,
    shift_colours,
)
