"""Fingerprints of a checkpoint's tensors, which its header holds. No torch."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from resnet_v2.console import following
from resnet_v2.errors import naming
from resnet_v2.files import fingerprint, parse_json
from resnet_v2.networks.header import METADATA_KEY, read_header
from resnet_v2.packing.findings import Finding, Report

SUMS_KEY = "sums"
OF_HEADER = ""  # the name, which no tensor has, under which the header's own fingerprint stands


def sums_text(header: Mapping[str, Any], body: memoryview) -> str:
    """The metadata entry `sums`: JSON, each tensor's fingerprint of type, shape and bytes, 16 hexadecimal digits.

    `header` is that of a safetensors file, `body` what stands behind it.
    """
    sums = {OF_HEADER: _of_text(header["__metadata__"].get(METADATA_KEY, ""))}
    for name, entry in _tensors(header):
        start, end = entry["data_offsets"]
        sums[name] = _of_tensor(entry, body[start:end])
    return json.dumps(sums, separators=(",", ":"))


def _tensors(header: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    return ((name, entry) for name, entry in header.items() if name != "__metadata__")


def _of_text(text: str) -> str:
    return f"{fingerprint(text.encode()):016x}"


def _of_tensor(entry: Mapping[str, Any], data: bytes | memoryview) -> str:
    what = f"{entry['dtype']} {entry['shape']} {fingerprint(data):016x}"
    return _of_text(what)


def verify_checkpoint(path: Path) -> Report:
    """Compare every tensor of a `.safetensors` with its fingerprint; a ResnetError when it is none of ours."""
    read_header(path)
    report = Report(path, file_bytes=path.stat().st_size, things="tensors")
    with naming(path), path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        tensors = dict(_tensors(header))
        report.count = len(tensors)
        try:
            sums = parse_json(header["__metadata__"].get(SUMS_KEY, "{}"))
            if not isinstance(sums, dict):
                raise ValueError
        except ValueError:
            report.findings.append(Finding("header", "its fingerprints cannot be read"))
            return report
        if not sums:
            report.notes.append("it holds no fingerprints, an earlier version wrote it: only its header was read")
            return report
        if sums.pop(OF_HEADER, "") != _of_text(header["__metadata__"][METADATA_KEY]):
            report.findings.append(Finding("header", "what it says of the network is not what was written"))
        for name, entry in following(tensors.items(), path.name, len(tensors), "tensors"):
            start, end = entry["data_offsets"]
            file.seek(8 + size + start)
            if name not in sums:
                report.findings.append(Finding("added", "the header has no fingerprint of it", tensor=name))
            elif sums.pop(name) != _of_tensor(entry, file.read(end - start)):
                report.findings.append(Finding("damaged", "its bytes are not those that were written", tensor=name))
        report.findings += [Finding("missing", "the file holds it no more", tensor=name) for name in sums]
    return report
