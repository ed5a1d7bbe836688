"""Texts without the secrets in them. Whatever is written for people or onto storage passes through `redact`."""

from __future__ import annotations

import json
import os
import re
from typing import Any

_USER_INFO = re.compile(r"(?<=://)(?:[^\s@'\"/:]*:(?!\d+[/?#])[^\s'\"]*|[^/\s@'\"?#]+)(?=@)")
"""What stands before the last @ of a URI. A password may hold any sign, also those that would end it if it were written as it
should be; what follows host:PORT/ is none."""
_SECRET_IN_QUERY = re.compile(r"://[^\s'\"]*[?&][\w.-]*(?:secret|key|token|password)[\w.-]*=", re.IGNORECASE)
_SECRET_NAME = re.compile(r"(TOKEN|PASSWORD|PASSWD|SECRET|_KEY|CREDENTIALS|CONNECTION_STRING)$", re.IGNORECASE)
_PLAIN = re.compile(r"[a-z_/.-]+|[0-9.eE+-]+")
_WORD = re.compile(r"[a-z_]+")
MIN_SECRET = 8
"""Shorter values of secret variables stand in ordinary words: they are left."""


def redact(text: str) -> str:
    """The text without the user names and passwords of URIs, and without the values of environment variables that are
    named as secrets: ..._TOKEN, ..._PASSWORD, ..._SECRET, ..._KEY and so on."""
    for secret in secrets():
        text = text.replace(secret, "***").replace(json.dumps(secret)[1:-1], "***")
    return _USER_INFO.sub(lambda found: "***" if _is_secret(found[0]) else found[0], text)


def redacted(value: Any) -> Any:
    """Plain JSON data without secrets; what is redacted already comes back equal."""
    return json.loads(redact(json.dumps(value, ensure_ascii=False)))


def has_credentials(text: str) -> bool:
    """Whether a URI in the text names a password (a user alone, as in git@host, is no secret), or a key in its query."""
    return any(map(_is_secret, _USER_INFO.findall(text))) or _SECRET_IN_QUERY.search(text) is not None


def secrets() -> list[str]:
    """The values of this process's environment that nobody may read elsewhere, the longest first.

    Plain lower-case words, paths and numbers are none: a secret that is one could not be told from settings and results.
    Of passwords only a single such word is none.
    """
    found = {
        value
        for name, value in os.environ.items()
        if (kind := _SECRET_NAME.search(name)) and len(value) >= MIN_SECRET and not _is_plain(value, kind[1].upper())
    }
    return sorted(found, key=len, reverse=True)


def _is_plain(value: str, kind: str) -> bool:
    return bool((_WORD if kind in ("PASSWORD", "PASSWD") else _PLAIN).fullmatch(value))


def _is_secret(user_info: str) -> bool:
    """Whether what stands before the @ of a URI is a password or a token; git of ssh://git@host is neither."""
    return ":" in user_info or len(user_info) >= MIN_SECRET
