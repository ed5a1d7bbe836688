"""A large model behind a server: the same signal and rows as a pass on this machine, also where the server fails."""

from __future__ import annotations

import email.utils
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from completions_server import Served, serve
from pydantic import ValidationError

import catsweep.endpoint
import catsweep.served
from catsweep.endpoint import Endpoint
from catsweep.errors import EndpointError, ModelError, SpecError
from catsweep.models import build_model, load_tokenizer, model_key
from catsweep.prepare import load_prepared, prepare_task
from catsweep.records import read_json
from catsweep.space import build_trial
from catsweep.spec.endpoint import EndpointSpec
from catsweep.spec.load import Sweep
from catsweep.spec.model import CharTokenizer, LargePretrained, PretrainedModel, ScratchModel
from catsweep.sweep.changes import _fixed
from catsweep.tokenization import make_tokenizer
from catsweep.trial import run_trial

LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "initializer_range": 0.3,
}
KEY = "sk-very-secret-0123"
FEW = {"max_train_rows": 70, "max_evaluation_rows": 20}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small and a large checkpoint with one tokeniser. Stop texts and choices are written in its letters."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = make_tokenizer(CharTokenizer(), ["abcdefunvo >\n"])
    for seed, name in enumerate(("small", "large")):
        build_model(ScratchModel(config=LLAMA), tokenizer, seed=seed).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


@pytest.fixture
def served(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setattr(catsweep.endpoint, "BACKOFF_SECONDS", 0.01)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    spec = PretrainedModel(pretrained=str(checkpoint / "large"))
    tokenizer = load_tokenizer(spec, [])
    with serve(build_model(spec, tokenizer, seed=0), tokenizer) as server:
        yield server


Make = Callable[..., Sweep]


def sweep_of(make_sweep: Make, checkpoint: Path, url: str | None, *, task: str = "reverse.yaml", **more: Any) -> Sweep:
    """A sweep whose large model is served at `url`, or is loaded where that is None. more: fields of the endpoint."""
    endpoint = {"url": url, "model": "large", "timeout_s": 20, **more}
    large = {"pretrained": str(checkpoint / "large"), **({"endpoint": endpoint} if url else {})}
    space = {"loss": {"space": "choice", "options": [{"kind": "xent"}, {"kind": "cat_dist"}]}}
    return make_sweep(
        tasks=(task,), small={"pretrained": str(checkpoint / "small")}, large=large, data=FEW,
        distribution={"kind": "top_k", "num_entries": 4}, search={"num_samples": 1, "confirm_seeds": 1, "space": space},
    )  # fmt: skip


def prepare(sweep: Sweep, root: Path) -> dict[str, Any]:
    return prepare_task(sweep.tasks[0], sweep.spec, root=root)


def assert_same(one: Path, other: Path, task: str) -> None:
    """Signals agree to float16 and rows to float32."""
    first, second = (load_prepared(root, "tiny", task) for root in (one, other))
    for name in ("rank", "ids"):
        arrays = [np.load(found.signal / f"{name}.npy") for found in (first, second)]
        assert arrays[0].dtype == arrays[1].dtype
        assert np.mean(arrays[0] == arrays[1]) > 0.995  # but for tokens that are equally probable to the last bit
    for name in ("logprob", "weights"):
        arrays = [np.load(found.signal / f"{name}.npy") for found in (first, second)]
        np.testing.assert_allclose(*(array.astype(float) for array in arrays), rtol=2**-10, atol=1e-6)
    rows, served = first.large_rows(), second.large_rows()
    for column in rows.column_names:
        values = [table[column].to_pylist() for table in (rows, served)]
        if column == "token_entropies":
            assert np.isnan(np.concatenate(values[1])).all()  # a server does not tell them
        elif column in ("token_logprobs", "token_margins", "choice_logprobs"):
            assert [len(value) for value in values[0]] == [len(value) for value in values[1]]
            both = [np.concatenate([[0.0], *value]) for value in values]
            np.testing.assert_allclose(both[0], both[1], rtol=1e-4, atol=1e-5)
        else:
            assert values[0] == values[1], column


@pytest.mark.parametrize("task", ["made/reverse", "made/parity"])
def test_a_served_model_gives_the_signal_and_the_rows_of_a_local_one_through_all_faults(
    served: Served, make_sweep: Make, checkpoint: Path, tmp_path: Path, task: str
) -> None:
    faults: list[dict[str, Any] | None] = [
        {"status": 429, "headers": {"Retry-After": "0.05"}},
        {"status": 500},
        {"cut": True},
        {"status": 503, "headers": {"Retry-After": email.utils.formatdate(time.time() - 1)}},
        {"sleep": 5},
    ]
    served.fault = lambda number: faults[number // 11 % 5] if number % 11 == 3 else None
    file = f"{task.split('/')[1]}.yaml"
    prepare(sweep_of(make_sweep, checkpoint, None, task=file), tmp_path / "local")
    sweep = sweep_of(make_sweep, checkpoint, served.url, task=file, timeout_s=4)
    facts = prepare(sweep, tmp_path / "served")
    assert_same(tmp_path / "local", tmp_path / "served", task)
    assert len(served.bodies) > len(served.answered) > 100
    assert facts["keys"]["large"] is None
    num_requests = len(served.bodies)
    prepare(sweep, tmp_path / "served")
    assert len(served.bodies) == num_requests  # all of it stands
    assert not list((tmp_path / "served" / "cache").rglob("*.unfinished"))
    trial = build_trial(
        sweep.spec, sweep.tasks[0], "any", 0, {**sweep.spec.training.to_json(), "loss": {"kind": "cat_dist"}}, {}
    )
    (tmp_path / "trial").mkdir()
    record = run_trial(trial, root=tmp_path / "served", folder=tmp_path / "trial", report=lambda metrics: None)
    assert record.status == "finished"


def test_an_interrupted_pass_goes_on_without_asking_again_for_what_stands(
    served: Served, make_sweep: Make, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catsweep.served, "PART", 8)
    sweep = sweep_of(make_sweep, checkpoint, served.url, retries=0, max_concurrent=2)
    served.fault = lambda number: {"status": 500} if number >= 45 else None
    with pytest.raises(EndpointError, match=r"failed 1 times, last with status 500.*What it has answered is kept"):
        prepare(sweep, tmp_path)
    (parts,) = (tmp_path / "cache" / "signal").glob("*.unfinished")
    stands = 8 * len(list(parts.glob("*.npz")))
    assert stands >= 32  # all but the part that was being asked for, and what was in flight
    served.fault = lambda number: None
    served.forget()
    prepare(sweep, tmp_path)
    asked = [json.dumps(body["prompt"]) for body in served.bodies if "prompt_logprobs" in body]
    num_targets = len(load_prepared(tmp_path, "tiny", "made/reverse").task_data().tokens("train"))
    assert len(asked) == num_targets - stands
    assert len(set(asked)) == len(asked)


def test_requests_are_paced_and_at_most_so_many_are_in_flight(served: Served) -> None:
    endpoint = Endpoint(
        EndpointSpec(url=served.url, model="large", max_requests_per_second=50, max_concurrent=3, timeout_s=5)
    )
    served.fault = lambda number: {"sleep": 0.15}
    bodies = [{"prompt": [3, 4, number], "max_tokens": 1, "prompt_logprobs": 0} for number in range(3, 13)]
    answers = list(endpoint.map(bodies))
    assert [answer["choices"][0]["prompt_logprobs"][2].keys() for answer in answers] == [
        {str(number)} for number in range(3, 13)
    ]
    assert served.most_in_flight == 3
    assert served.times[-1] - served.times[0] >= 9 / 50 - 0.005


def test_a_pause_that_the_server_asks_for_holds_every_request_back(served: Served) -> None:
    endpoint = Endpoint(EndpointSpec(url=served.url, model="large", max_concurrent=4, timeout_s=5))
    served.fault = lambda number: {"status": 429, "headers": {"Retry-After": "0.6"}} if number == 0 else None
    body = {"prompt": [3, 4, 5], "max_tokens": 1, "prompt_logprobs": 0}
    assert endpoint.complete(body)["choices"]
    assert served.times[1] - served.times[0] >= 0.6
    served.forget()
    served.fault = lambda number: {"status": 400}
    with pytest.raises(EndpointError, match=r"refuses a request \(status 400"):
        endpoint.complete(body)
    assert len(served.bodies) == 1  # it would be refused again


def test_the_key_comes_from_the_environment_and_is_written_nowhere(
    served: Served, make_sweep: Make, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.key = KEY
    sweep = sweep_of(make_sweep, checkpoint, served.url, api_key_env="MY_SERVERS_KEY", max_concurrent=2)
    with pytest.raises(EndpointError, match="the environment variable MY_SERVERS_KEY is empty or not set"):
        prepare(sweep, tmp_path)
    monkeypatch.setenv("MY_SERVERS_KEY", f"{KEY}-wrong")
    with pytest.raises(EndpointError, match="refuses a request") as caught:
        prepare(sweep, tmp_path)
    assert "no: Bearer ***" in str(caught.value)
    assert KEY not in str(caught.value)
    monkeypatch.setenv("MY_SERVERS_KEY", KEY)
    prepare(sweep, tmp_path)
    assert set(served.keys) == {f"Bearer {KEY}", f"Bearer {KEY}-wrong"}
    assert KEY not in json.dumps(sweep.spec.to_json())
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 20
    assert not [path for path in written if KEY.encode() in path.read_bytes()]


def test_a_server_without_the_extension_or_with_too_few_tokens_is_named(
    served: Served, make_sweep: Make, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.max_logprobs = 2
    with pytest.raises(EndpointError, match=r"fewer than 4 tokens at a place.*--max-logprobs 4"):
        prepare(sweep_of(make_sweep, checkpoint, served.url), tmp_path)
    monkeypatch.setattr(served, "complete", lambda body: {"choices": [{"text": "yes", "logprobs": None}]})
    with pytest.raises(EndpointError, match=r"expected vLLM's `prompt_logprobs`"):
        prepare(sweep_of(make_sweep, checkpoint, served.url), tmp_path)


def test_only_the_models_name_is_part_of_the_keys(make_sweep: Make, checkpoint: Path) -> None:
    one, moved, other = (
        sweep_of(make_sweep, checkpoint, url, **more)
        for url, more in (
            ("http://a:1/v1", {}),
            ("http://b:2/v1", {"retries": 1, "api_key_env": "X"}),
            ("http://a:1/v1", {"model": "y"}),
        )
    )
    assert model_key(one.spec.large) == model_key(moved.spec.large) != model_key(other.spec.large)
    assert _fixed(one.spec, one.tasks) == _fixed(moved.spec, moved.tasks) != _fixed(other.spec, other.tasks)
    assert "endpoint" not in LargePretrained(pretrained="x").to_json()
    assert LargePretrained.model_validate({"endpoint": {"url": "http://a/v1", "model": "org/m"}}).pretrained == "org/m"


@pytest.mark.parametrize(
    ("url", "wrong"), [("http://me:pw@host/v1", "me:pw"), ("https://host/v1?key=1", "key"), ("ftp://host", "ftp")]
)
def test_addresses_with_secrets_are_refused(url: str, wrong: str) -> None:
    with pytest.raises(ValidationError, match="url"):
        EndpointSpec(url=url, model="m")
    assert wrong in url


def test_what_a_server_cannot_do_is_refused(make_sweep: Make, checkpoint: Path, tmp_path: Path) -> None:
    endpoint = {"url": "http://127.0.0.1:9/v1", "model": "large"}
    large = {"pretrained": str(checkpoint / "large"), "endpoint": endpoint}
    small = {"pretrained": str(checkpoint / "small")}
    with pytest.raises(SpecError, match="endpoint and finetune; expected one of them"):
        make_sweep(small=small, large={**large, "finetune": {"steps": 1, "learning_rate": 1e-3}})
    with pytest.raises(SpecError, match=r"large\.endpoint with resources\.large\.num_workers: 2"):
        make_sweep(small=small, large=large, resources={"large": {"num_workers": 2}})
    with pytest.raises(SpecError, match=r"chain: endpoint of medium; expected endpoint of `large` alone"):
        make_sweep(small=small, large=large, chain=[{"name": "medium", **large}])
    sampled = make_sweep(small=small, large=large, training={"steps": 2, "loss": {"kind": "dist"}})
    with pytest.raises(ModelError, match=r"expected \{kind: top_k\}"):
        prepare(sampled, tmp_path)


def test_what_is_stored_of_a_served_pass_says_so(
    served: Served, make_sweep: Make, checkpoint: Path, tmp_path: Path
) -> None:
    prepare(sweep_of(make_sweep, checkpoint, served.url), tmp_path)
    found = load_prepared(tmp_path, "tiny", "made/reverse")
    assert read_json(found.signal / "manifest.json")["facts"]["distribution"] == {"kind": "top_k", "num_entries": 4}
    assert read_json(found.answers / "manifest.json")["facts"]["latency"] is None
