from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import pytest

from catsweep.errors import DataError
from catsweep.spec.package import EmojiNames, PackageReader, PythonFunctions
from catsweep.spec.source import PackageSource
from catsweep.tasks import package
from catsweep.tasks.package import package_versions, read_package


def read(reader: PackageReader, cache: Path) -> list[dict[str, Any]]:
    return list(read_package(PackageSource(reader=reader), cache))


def test_a_pool_is_made_once_and_made_again_when_it_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = EmojiNames(target_language="de")
    pool = read(reader, tmp_path)
    files = list(tmp_path.rglob("pool.parquet"))
    assert len(files) == 1
    with monkeypatch.context() as patched:
        patched.setattr(package, "emoji_names", lambda reader: pytest.fail("the pool is made again"))
        assert read(reader, tmp_path) == pool
    files[0].write_bytes(b"damaged")
    assert read(reader, tmp_path) == pool
    read(EmojiNames(target_language="it"), tmp_path)
    assert len(list(tmp_path.rglob("pool.parquet"))) == 2


def test_a_reader_that_fails_leaves_nothing_in_the_cache(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="package emoji: found no language 'xx'"):
        read(EmojiNames(target_language="xx"), tmp_path)
    assert not list(tmp_path.rglob("*.parquet"))


def test_a_missing_package_names_the_extra_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EmojiNames, "packages", ("no-such-package",))
    with pytest.raises(DataError) as error:
        read(EmojiNames(target_language="fr"), tmp_path)
    assert str(error.value) == (
        "package no-such-package: found no installed version; reader emoji_names takes its rows from it. Run: "
        "pip install 'catsweep[offline]'"
    )


def test_the_version_of_the_standard_library_is_pythons() -> None:
    assert package_versions(PythonFunctions()) == {"python": platform.python_version()}
