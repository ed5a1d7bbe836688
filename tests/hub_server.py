"""A server that answers as the hub does for models: files by commit, and what `main` names now. Counts what it is asked."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Hub(ThreadingHTTPServer):
    """Checkpoints in folders. commits: the folder of each commit of the only repository. main: the newest of them."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.commits: dict[str, Path] = {}
        self.main = ""
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing on the tests' output."""

    def _answer(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append(f"{self.command} {path}")
        kind, *rest = path.removeprefix("/").split("/")
        if kind != "api":  # /<owner>/<name>/resolve/<revision>/<file>
            _, _, revision, *names = rest
            commit = self.server.main if revision == "main" else revision
            file = self.server.commits[commit].joinpath(*names)
            self._send(file.read_bytes() if file.is_file() else None, commit)
        elif rest[0] == "models" and "tree" not in rest:
            files = [{"rfilename": file.name} for file in self.server.commits[self.server.main].iterdir()]
            name = "/".join(rest[1:3])
            info = {"id": name, "sha": self.server.main, "private": False, "tags": [], "siblings": files}
            self._send(json.dumps(info).encode(), self.server.main)
        else:
            self._send(None, self.server.main)

    def _send(self, body: bytes | None, commit: str) -> None:
        self.send_response(404 if body is None else 200)
        self.send_header("X-Repo-Commit", commit)
        if body is None:
            self.send_header("X-Error-Code", "EntryNotFound")
        else:
            self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        if body and self.command == "GET":
            self.wfile.write(body)


@contextmanager
def hub() -> Iterator[Hub]:
    """A hub that serves while the block runs."""
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
