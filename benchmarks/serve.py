"""`resnet-v2 serve` under load: clients that ask one picture after the other, and what each waits.

    python benchmarks/serve.py [--requests 2000] [--clients 50] [--prefix P] [--engine torch]

Starts the command, lets the clients ask half of the requests to warm up and then all of them, and prints figures:
requests a second, the median and the 95th percentile of the time from a request to its answer, the batches, and the
resident memory of the server's process (Linux) before and after. Exit status 1 when an answer is not that of
`predict` within 1e-5, when it is an error, when the 95th percentile is above three times the median, or when the
memory grows by more than a twentieth.
"""

import argparse
import asyncio
import itertools
import json
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
from typing import Any

import httpx
from page import good_pictures, resident

import resnet_v2

PATIENCE_SECONDS = 600
MOST_TIMES_THE_MEDIAN = 3
MOST_GROWTH = 1.05


class Clients:
    """Those who ask; `faults` says what was wrong, `seconds` how long each of the last round's requests took."""

    def __init__(self, port: int, clients: int, prefix: str) -> None:
        self.faults: list[str] = []
        self.seconds: list[float] = []
        self._port, self._clients, self._pictures = port, clients, good_pictures(40)
        self._requests = [request_of(name, data) for name, data in self._pictures]
        network = resnet_v2.load(prefix)
        self._wanted = [network.classify(data) for _, data in self._pictures]

    async def ask(self, requests: int) -> float:
        """A round of so many requests; the seconds that it takes."""
        self.seconds = []
        numbers = iter(range(requests))
        begun = time.perf_counter()
        await asyncio.gather(*(self._client(numbers) for _ in range(self._clients)))
        return time.perf_counter() - begun

    async def _client(self, numbers: Any) -> None:
        # A client of the usual kind takes more of a processor's time than the server, and would measure itself.
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        for number in numbers:
            which = number % len(self._pictures)
            begun = time.perf_counter()
            writer.write(self._requests[which])
            await writer.drain()
            head = await reader.readuntil(b"\r\n\r\n")
            (length,) = re.findall(rb"content-length: (\d+)", head)
            body = await reader.readexactly(int(length))
            self.seconds.append(time.perf_counter() - begun)
            self._judge(int(head.split()[1]), body, which)
        writer.close()

    def _judge(self, status: int, body: bytes, which: int) -> None:
        name, wanted = self._pictures[which][0], self._wanted[which]
        if status != 200:
            self.faults.append(f"{name}: {status} {body.decode()}")
            return
        (found,) = json.loads(body)
        shares = {one["class"]: one["probability"] for one in found["top"]}
        if found["image"] != name or any(abs(shares.get(a.class_index, 9) - a.probability) > 1e-5 for a in wanted):
            self.faults.append(f"{name}: {found}, predict says {wanted}")


def request_of(name: str, data: bytes) -> bytes:
    """A request with a form of one picture."""
    part = f'--x\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'
    body = part.encode() + data + b"\r\n--x--\r\n"
    head = "POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def batches(port: int) -> str:
    """What the server tells of its batches."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE_SECONDS, trust_env=False).text
    total, count = (
        float(re.findall(rf"^resnet_v2_batch_size_{name} (\S+)", text, re.M)[0]) for name in ("sum", "count")
    )
    return f"{count:.0f} batches of {total / count:.1f} pictures"


def measure(server: "subprocess.Popen[str]", port: int, arguments: argparse.Namespace) -> list[str]:
    """All rounds with a server that starts; prints the figures and gives the faults."""
    clients = Clients(port, arguments.clients, arguments.prefix)
    assert server.stderr is not None
    line = next((line for line in server.stderr if "answers at" in line), "")
    if not line:
        return ["the server did not start"]
    asyncio.run(clients.ask(max(arguments.clients, arguments.requests // 2)))
    before = resident(server.pid)
    took = asyncio.run(clients.ask(arguments.requests))
    after = resident(server.pid)
    median, slow = statistics.median(clients.seconds), statistics.quantiles(clients.seconds, n=20)[-1]
    asked, speed = f"{len(clients.seconds)} requests of {arguments.clients} clients", arguments.requests / took
    print(f"{asked} in {took:.1f} s: {speed:.0f} a second")
    print(f"median {1000 * median:.0f} ms, 95th percentile {1000 * slow:.0f} ms, {slow / median:.2f} times the median")
    print(f"resident memory of the server: {before:.0f} MB before, {after:.0f} MB after; {batches(port)} in all")
    faults = clients.faults
    if slow > MOST_TIMES_THE_MEDIAN * median:
        faults.append("the 95th percentile is too far from the median")
    if after > MOST_GROWTH * before:
        faults.append("the memory grows")
    return faults


def main() -> int:
    """Start the server, ask, end it; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--prefix", default="", help="the checkpoint (default: the network that ships)")
    parser.add_argument("--engine", default="torch", choices=("torch", "onnx", "openvino"))
    arguments = parser.parse_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["serve", "--prefix", arguments.prefix, "--engine", arguments.engine, "--gpus", "", "--port", str(port)]
    server = subprocess.Popen([sys.executable, "-m", "resnet_v2", *words], stderr=subprocess.PIPE, text=True)
    try:
        faults = measure(server, port, arguments)
    finally:
        server.send_signal(signal.SIGTERM)
        told = server.communicate()[1]
    print(f"exit status after SIGTERM: {server.returncode}, {told.strip()}")
    if server.returncode or "Traceback" in told:
        faults.append("it did not end well")
    for fault in itertools.islice(faults, 20):
        print(f"FAULT: {fault[:3000]}")
    print(f"{len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
