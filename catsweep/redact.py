"""Texts without the secrets in them. Whatever is written for people or onto storage passes through `redact`."""

from __future__ import annotations

import json
import os
import re
from typing import Any

_WORDS = re.compile(r"[^\s'\"]+")
_PORT = re.compile(r"\d+[/?#]")
_QUERY = re.compile(r"[?&]([\w.-]+)=")
_SECRET_QUERY = ("secret", "key", "token", "password")
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
    return _WORDS.sub(lambda found: _without_users(found[0]), text) if "://" in text else text


def redacted(value: Any) -> Any:
    """Plain JSON data without secrets; what is redacted already comes back equal."""
    return json.loads(redact(json.dumps(value, ensure_ascii=False)))


def has_credentials(text: str) -> bool:
    """Whether a URI in the text names a password (a user alone, as in git@host, is no secret), or a key in its query."""
    uris = [word for word in _WORDS.findall(text) if "://" in word] if "://" in text else []
    queried = (name.lower() for word in uris for name in _QUERY.findall(word))
    return any(_without_users(word) != word for word in uris) or any(
        secret in name for name in queried for secret in _SECRET_QUERY
    )


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


def _without_users(word: str) -> str:
    """A text without blanks, whose URIs name no users; in time that grows with its length alone."""
    scheme, *parts = word.split("://")
    return "://".join([scheme, *map(_without_user, parts)])


def _without_user(part: str) -> str:
    """What stands behind `://`, with stars in place of a password or token; git of ssh://git@host is neither.

    A password may hold any sign, also those that would end it if it were written as it should be, so it reaches to the last
    @. What follows HOST:PORT/ is none.
    """
    before, at, after = part.rpartition("@")
    name, colon, password = before.partition(":")
    if colon and not {"/", "@"} & set(name) and not _PORT.match(password):
        return f"***@{after}"
    user, _, rest = part.partition("@")
    if at and len(user) >= MIN_SECRET and not set("/?#:") & set(user):
        return f"***@{rest}"
    return part
