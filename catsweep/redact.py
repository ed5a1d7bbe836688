"""Texts without the secrets in them. Whatever is written for people or onto storage passes through `redact`."""

from __future__ import annotations

import json
import os
import re
from typing import Any

_USER_INFO = re.compile(r"(?<=://)[^/\s@'\"?#]+(?=@)")
_SECRET_NAME = re.compile(r"(TOKEN|PASSWORD|PASSWD|SECRET|SECRET_ACCESS_KEY|API_KEY|CREDENTIALS)$", re.IGNORECASE)
_PLAIN = re.compile(r"[a-z_/.-]+|[0-9.eE+-]+")
MIN_SECRET = 8
"""Shorter values of secret variables stand in ordinary words: they are left."""


def redact(text: str) -> str:
    """The text without the user names and passwords of URIs, and without the values of environment variables that are
    named as secrets: ..._TOKEN, ..._PASSWORD, ..._SECRET, ..._API_KEY and so on."""
    for secret in secrets():
        text = text.replace(secret, "***").replace(json.dumps(secret)[1:-1], "***")
    return _USER_INFO.sub(lambda found: "***" if _is_secret(found[0]) else found[0], text)


def redacted(value: Any) -> Any:
    """Plain JSON data without secrets; what is redacted already comes back equal."""
    return json.loads(redact(json.dumps(value, ensure_ascii=False)))


def has_credentials(text: str) -> bool:
    """Whether a URI in the text names a password (a user alone, as in git@host, is no secret)."""
    return any(map(_is_secret, _USER_INFO.findall(text)))


def secrets() -> list[str]:
    """The values of this process's environment that nobody may read elsewhere, the longest first.

    Plain lower-case words and numbers are none: a secret that is one could not be told from settings and results.
    """
    found = {
        value
        for name, value in os.environ.items()
        if _SECRET_NAME.search(name) and len(value) >= MIN_SECRET and not _PLAIN.fullmatch(value)
    }
    return sorted(found, key=len, reverse=True)


def _is_secret(user_info: str) -> bool:
    """Whether what stands before the @ of a URI is a password or a token; git of ssh://git@host is neither."""
    return ":" in user_info or len(user_info) >= MIN_SECRET
