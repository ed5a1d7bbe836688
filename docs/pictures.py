"""Draws the README's two pictures again, from a finished quickstart: `make pictures`.

    python docs/pictures.py [ROOT]      ROOT: default CATSWEEP_HOME, else ~/catsweep

docs/curve.png comes from the results with catsweep's own figure code. docs/mlflow.png is a screenshot of the MLflow page,
taken with a headless chromium; without one on the PATH only the first picture is drawn. Needs nothing that catsweep does not
install (aiohttp comes with Ray).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp

from catsweep.curves import results_on_storage
from catsweep.records import storage_root
from catsweep.report.figures import curves_figure, stratum_styles, to_png
from catsweep.report.lines import all_strata, curve_lines

SWEEP, TASK = "quickstart", "lemma/es"
WIDTH, HEIGHT = 1500, 1000
DOCS = Path(__file__).parent
CLOSE_PANELS = (
    "for (const key of ['mlflow.assistant.fab.autoOpenedOnFirstLoad', 'mlflow.telemetry.disabled'])"
    " localStorage.setItem(key + '_v1', 'true')"
)


def draw_curve(root: Path) -> None:
    """docs/curve.png: one task's curves, one line a loss."""
    results, _ = results_on_storage(root, SWEEP)
    result = next(result for result in results if result["task"] == TASK)
    lines = curve_lines(result)
    assert lines is not None, f"{TASK} has no confirmed runs"
    (DOCS / "curve.png").write_bytes(to_png(curves_figure(lines, stratum_styles(all_strata(results), "xent")), 110))


def chart_url(root: Path, server: str) -> str:
    """The page of one task's curves side by side: the link that stands in the note of the sweep's experiment."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient

    experiment = MlflowClient(f"sqlite:///{root / 'mlflow.db'}").get_experiment_by_name(f"catsweep/{SWEEP}")
    assert experiment is not None, f"{root} holds no MLflow experiment of {SWEEP}"
    note = experiment.tags["mlflow.note.content"]
    link = re.search(rf"\[{re.escape(TASK)}\]\((.+?)\)(?=[,\s]|$)", note)
    assert link is not None, f"{TASK} has no link in {note}"
    return f"{server}/{link[1]}"


@contextlib.contextmanager
def mlflow_server(root: Path) -> Iterator[str]:
    """The MLflow server of a root on a free port; yields its address once it answers."""
    port = free_port()
    place = ["--backend-store-uri", f"sqlite:///{root / 'mlflow.db'}", "--host", "127.0.0.1", "--port", str(port)]
    command = [sys.executable, "-m", "mlflow", "server", *place, "--workers", "1"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", seconds=120)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


async def take_screenshot(chromium: str, url: str, path: Path, *, load_seconds: float = 20.0) -> None:
    """A picture of a page, through chromium's own debugging protocol."""
    port = free_port()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={profile}"]
        command = [chromium, *options, f"--remote-debugging-port={port}", "about:blank"]
        browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            await asyncio.to_thread(wait_for, f"http://127.0.0.1:{port}/json", seconds=60)
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port}/json") as answer:
                    page = next(tab for tab in await answer.json() if tab["type"] == "page")
                async with session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0) as socket_:
                    call = Caller(socket_)
                    await call("Page.enable")
                    await call("Page.addScriptToEvaluateOnNewDocument", source=CLOSE_PANELS)
                    size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
                    await call("Emulation.setDeviceMetricsOverride", **size)
                    await call("Page.navigate", url=url)
                    await asyncio.sleep(load_seconds)
                    picture = await call("Page.captureScreenshot", format="png")
                    path.write_bytes(base64.b64decode(picture["data"]))
        finally:
            browser.terminate()
            browser.wait()


class Caller:
    """Calls a method of the debugging protocol and waits for its answer."""

    def __init__(self, connection: aiohttp.ClientWebSocketResponse) -> None:
        self.connection, self.number = connection, 0

    async def __call__(self, method: str, **parameters: Any) -> Any:
        self.number += 1
        await self.connection.send_json({"id": self.number, "method": method, "params": parameters})
        while (message := await self.connection.receive_json()).get("id") != self.number:
            pass
        return message.get("result", message)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def wait_for(url: str, *, seconds: float) -> None:
    """Wait until an address answers. Raises the last error after so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def main() -> None:
    """Draw both pictures."""
    root = storage_root(sys.argv[1] if len(sys.argv) > 1 else None)
    draw_curve(root)
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        sys.exit("docs/curve.png is drawn. Found no chromium; expected one on the PATH to draw docs/mlflow.png")
    with mlflow_server(root) as server:
        asyncio.run(take_screenshot(chromium, chart_url(root, server), DOCS / "mlflow.png"))
    print("docs/curve.png and docs/mlflow.png are drawn")


if __name__ == "__main__":
    main()
