"""A model behind a server: where it is and how often it may be asked."""

from __future__ import annotations

from pydantic import Field

from catsweep.spec.base import Json, Spec


class EndpointSpec(Spec):
    """A server with OpenAI's completions interface and vLLM's `prompt_logprobs` in it, such as `vllm serve`.

    Only `model` is part of the keys of what it answered: another address or pace asks for nothing again.
    """

    url: str = Field(
        description="Address up to /v1, such as http://host:8000/v1; without a user, a password or a query",
        pattern=r"^https?://[^\s@?#/]+(/[^\s@?#]*)?$",
    )
    model: str = Field(description="Name of the model on the server", min_length=1)
    api_key_env: str | None = Field(
        None,
        description="Environment variable with the key, set on the machine that runs the large model's unit; the key is "
        "never written anywhere. null: the server asks for none",
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
    )
    max_requests_per_second: float | None = Field(None, description="Start at most so many; null: no limit", gt=0)
    max_concurrent: int = Field(8, description="Requests in flight at once", ge=1, le=1024)
    timeout_s: float = Field(
        120, description="Seconds without a byte from the server after which a request failed", gt=0
    )
    retries: int = Field(
        6,
        description="So often is a request repeated, after longer and longer pauses, on status 408, 429 or 5xx, a time-out "
        "or a broken connection; the pause that Retry-After names holds all requests back",
        ge=0,
        le=100,
    )

    def identity(self) -> Json:
        """What the answers depend on."""
        return {"model": self.model}
