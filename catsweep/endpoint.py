"""Requests to a server with OpenAI's completions interface: paced, repeated where it makes sense, in order.

The key is read from the environment for each request and stands in no error, log or file.
"""

from __future__ import annotations

import email.utils
import os
import random
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from catsweep.errors import EndpointError
from catsweep.spec.endpoint import EndpointSpec

BACKOFF_SECONDS = 0.5
"""The first pause after a failed request; each further one is twice as long."""
MAX_PAUSE_SECONDS = 60.0
RETRIED = {408, 429, 500, 502, 503, 504, 529}

_BROKEN = (
    requests.exceptions.ConnectionError,  # refused, reset, also a time-out while connecting
    requests.exceptions.Timeout,
    requests.exceptions.ChunkedEncodingError,  # cut in the middle of an answer
    requests.exceptions.ContentDecodingError,
    requests.exceptions.JSONDecodeError,
)


class Endpoint:
    """A served model that answers requests from several threads. Raises EndpointError where its key is missing."""

    def __init__(self, spec: EndpointSpec) -> None:
        self.spec = spec
        self.url = f"{spec.url.rstrip('/')}/completions"
        self.num_requests = 0
        """Requests that were sent, repeated ones too."""
        self._lock = threading.Lock()
        self._free_at = 0.0
        self._spacing = 1.0 / spec.max_requests_per_second if spec.max_requests_per_second else 0.0
        self._session = requests.Session()
        self._session.auth = self._authorise  # else a .netrc could send another key
        adapter = HTTPAdapter(pool_connections=1, pool_maxsize=spec.max_concurrent)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, adapter)
        self._key()

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        """The server's answer to one request. Raises EndpointError where it refuses, or fails after all retries."""
        failure = ""
        for attempt in range(self.spec.retries + 1):
            self._wait_for_turn()
            pause = min(MAX_PAUSE_SECONDS, BACKOFF_SECONDS * 2**attempt) * random.uniform(0.5, 1.0)
            try:
                response = self._session.post(
                    self.url,
                    json={"model": self.spec.model, **body},
                    timeout=self.spec.timeout_s,
                    allow_redirects=False,
                )
                if response.status_code == 200:
                    answer: dict[str, Any] = response.json()
                    return answer
                failure = f"status {response.status_code}: {self._shown(response.text)}"
                if response.status_code not in RETRIED:
                    raise EndpointError(
                        f"{self.url} refuses a request ({failure}); {self._advice(response.status_code)}"
                    )
                asked = _retry_after(response.headers.get("Retry-After"))
                if asked is not None:
                    self._hold(asked)
                    pause = 0.0
            except _BROKEN as error:
                failure = type(error).__name__
            if attempt < self.spec.retries:
                time.sleep(pause)
        raise EndpointError(
            f"{self.url} failed {self.spec.retries + 1} times, last with {failure}; expected an answer. What it has answered "
            "is kept: run the same command again when the server is back, or raise large.endpoint.retries or timeout_s"
        )

    def map(self, bodies: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """The answers to many requests in their order, `max_concurrent` in flight; few are read ahead of the answers that
        have been taken. Raises EndpointError."""
        waiting: deque[Future[dict[str, Any]]] = deque()
        with ThreadPoolExecutor(self.spec.max_concurrent) as pool:
            try:
                for body in bodies:
                    waiting.append(pool.submit(self.complete, body))
                    if len(waiting) >= 2 * self.spec.max_concurrent:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def _authorise(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        key = self._key()
        if key is not None:
            request.headers["Authorization"] = f"Bearer {key}"
        return request

    def _key(self) -> str | None:
        name = self.spec.api_key_env
        if name is None:
            return None
        key = os.environ.get(name, "")
        if not key:
            raise EndpointError(
                f"large.endpoint.api_key_env: the environment variable {name} is empty or not set on this machine; expected "
                f"the key of {self.spec.url}. On a cluster it must be set on the workers"
            )
        return key

    def _wait_for_turn(self) -> None:
        with self._lock:
            self.num_requests += 1
            start = max(time.monotonic(), self._free_at)
            self._free_at = start + self._spacing
        time.sleep(max(0.0, start - time.monotonic()))

    def _hold(self, seconds: float) -> None:
        """Let no request start before so many seconds from now."""
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic() + seconds)

    def _shown(self, text: str) -> str:
        key = self._key()
        return " ".join((text.replace(key, "***") if key else text).split())[:300]

    def _advice(self, status: int) -> str:
        if status in (401, 403):
            return f"expected a key that it takes in the variable {self.spec.api_key_env or 'named by api_key_env'}"
        if status == 404:
            return f"expected the address up to /v1, and a model that is served under the name {self.spec.model!r}"
        return "expected a server that takes prompts as token ids, and enough positions (vllm serve --max-model-len)"


def _retry_after(value: str | None) -> float | None:
    """The seconds that a Retry-After header asks for, given as seconds or as a date."""
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
