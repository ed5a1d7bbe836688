"""An S3 server on loopback, and a proxy before it that cuts connections or slows them down."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}


@contextmanager
def s3_server(bucket: str = "bucket") -> Iterator[int]:
    """The port of a server with one empty bucket, which ends with the block."""
    from moto.server import ThreadedMotoServer
    from pyarrow import fs

    before = {name: os.environ.get(name) for name in CREDENTIALS}
    os.environ.update(CREDENTIALS)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        port = server.get_host_and_port()[1]
        store = fs.S3FileSystem(
            endpoint_override=f"127.0.0.1:{port}",
            scheme="http",
            region="us-east-1",
            allow_bucket_creation=True,
            request_timeout=300,  # its first answer takes seconds
        )
        store.create_dir(bucket)
        yield port
    finally:
        server.stop()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def uri(port: int, folder: str = "sweeps", bucket: str = "bucket") -> str:
    return f"s3://{bucket}/{folder}?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"


class Proxy:
    """A TCP proxy on loopback.

    num_cuts: so many connections are cut, once `cut_after` bytes went through either way: the next ones, or of the next ones
    each n-th (`every`). delay_seconds: before each piece that is passed on, of 64 kB or less. refuse: whether connections are
    closed at once.
    """

    def __init__(
        self, target: int, *, num_cuts: int = 0, cut_after: int = 0, every: int = 1, delay_seconds: float = 0.0
    ) -> None:
        self.target, self.num_cuts, self.cut_after, self.every = target, num_cuts, cut_after, every
        self.delay_seconds = delay_seconds
        self.refuse = False
        self.num_cut = self.num_seen = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self.listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            if self.refuse:
                client.close()
                continue
            self.num_seen += 1
            cut = self.num_cut < self.num_cuts and self.num_seen % self.every == 0
            self.num_cut += cut
            server = socket.create_connection(("127.0.0.1", self.target))
            budget = [self.cut_after if cut else -1]
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pass, args=(source, sink, budget), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, budget: list[int]) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                time.sleep(self.delay_seconds)
                if budget[0] >= 0:
                    budget[0] -= len(data)
                    if budget[0] < 0:
                        break
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
