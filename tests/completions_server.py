"""A server with OpenAI's completions interface, vLLM's extensions in it, and faults on demand; it serves a tiny model.

Ranks count from 1 and take every token that is as probable as the prompt's for more probable, as vLLM's do; an answer's
end token stands among its tokens, but not in its text.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

Json = dict[str, Any]
Fault = Callable[[int], Json | None]
"""From the number of a request to what goes wrong with it: {"status", "headers"}, {"cut": True}, {"sleep": seconds}."""


class Served:
    """What the server saw: bodies of requests, their keys and start times; and the most that were in flight at once."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.fault: Fault = lambda number: None
        self.key: str | None = None
        self.max_logprobs = 20
        self.lock = threading.Lock()
        self.forget()
        self.url = ""

    def forget(self) -> None:
        self.bodies: list[Json] = []
        self.answered: list[Json] = []
        self.keys: list[str | None] = []
        self.times: list[float] = []
        self.in_flight = self.most_in_flight = 0

    @torch.no_grad()
    def logprobs(self, ids: list[int]) -> torch.Tensor:
        return self.model(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(1)

    def complete(self, body: Json) -> Json:
        choice: Json = {"index": 0, "text": "", "finish_reason": "length"}
        prompt = body["prompt"]
        if "prompt_logprobs" in body:
            top = min(body["prompt_logprobs"], self.max_logprobs)
            rows = self.logprobs(prompt)
            tops = [self.entry(rows[place - 1], prompt[place], top) for place in range(1, len(prompt))]
            return {"choices": [choice | {"prompt_logprobs": [None, *tops]}]}
        ids, tokens, values, tops = list(prompt), [], [], []
        for _ in range(body["max_tokens"]):
            row = self.logprobs(ids)[-1]
            token = int(row.argmax())
            best = row.topk(body["logprobs"])
            ids.append(token)
            tokens.append(f"token_id:{token}")
            values.append(float(row[token]))
            tops.append({f"token_id:{i}": v for i, v in zip(best.indices.tolist(), best.values.tolist(), strict=True)})
            text = self.tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True)
            if token in body["stop_token_ids"] or any(stop in text for stop in body.get("stop", [])):
                break
        return {"choices": [choice | {"logprobs": {"tokens": tokens, "token_logprobs": values, "top_logprobs": tops}}]}

    def entry(self, row: torch.Tensor, token: int, top: int) -> Json:
        ids = [token, *(row.topk(top).indices.tolist() if top else [])]
        return {
            str(one): {"logprob": float(row[one]), "rank": int((row >= row[one]).sum()), "decoded_token": "?"}
            for one in ids
        }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: Served

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        served = self.served
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with served.lock:
            number = len(served.bodies)
            served.bodies.append(body)
            served.keys.append(self.headers.get("Authorization"))
            served.times.append(time.monotonic())
            served.in_flight += 1
            served.most_in_flight = max(served.most_in_flight, served.in_flight)
        try:
            self.answer(body, served.fault(number) or {})
        finally:
            with served.lock:
                served.in_flight -= 1

    def answer(self, body: Json, fault: Json) -> None:
        served = self.served
        time.sleep(fault.get("sleep", 0))
        status = fault.get("status", 200)
        if served.key is not None and self.headers.get("Authorization") != f"Bearer {served.key}":
            status = 401
        if status == 200:
            with served.lock:
                answer = served.complete(body)
        else:
            answer = {"error": {"message": f"no: {self.headers.get('Authorization')}"}}
        data = json.dumps(answer).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            for name, value in fault.get("headers", {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if fault.get("cut") else data)
        except OSError:  # the client has given up
            self.close_connection = True
            return
        if fault.get("cut"):
            self.close_connection = True
        elif status == 200:
            with served.lock:
                served.answered.append(body)


@contextmanager
def serve(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Iterator[Served]:
    """The server, on a free port of this machine."""
    served = Served(model, tokenizer)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"served": served}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
