from __future__ import annotations

from pathlib import Path

import pytest
from pool_checks import read_pool

from catsweep.errors import DataError
from catsweep.spec.package import PythonFunctions, PythonStatements
from catsweep.tasks.packages import python_code

SOURCE = '''
class Shelf:
    def put(self, book, *, at=0):
        """Put a book on the shelf.

        More of it.
        """
        self.books.insert(at, book)
        return self


def loud(text):
    """Make a text loud."""
    for word in text.split():
        print(word)
    if not text:
        raise ValueError
    text = text.upper()
    return text


def silent():
    """Only a docstring."""


def undocumented(x):
    return x
'''


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A standard library of a few lines."""
    for name in ("shop/__init__.py", "shop/shelf.py", "zoo.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(SOURCE if name != "shop/__init__.py" else "")
    (tmp_path / "broken.py").write_text("def (")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "left_out.py").write_text(SOURCE.replace("loud", "left_out"))
    monkeypatch.setattr(python_code.sysconfig, "get_path", lambda name: str(tmp_path))
    return tmp_path


def test_functions_have_name_signature_summary_and_body_each_once(library: Path) -> None:
    pool = read_pool(PythonFunctions())
    assert [(row["name"], row["module"]) for row in pool] == [("loud", "shop.shelf"), ("put", "shop.shelf")]
    put = pool[1]
    assert put["signature"] == "def put(self, book, *, at=0)"
    assert put["summary"] == "Put a book on the shelf."
    assert put["body"] == "self.books.insert(at, book) return self"
    assert put["num_arguments"] == "2"
    assert put["group"] == "shop.shelf"


def test_statements_follow_the_last_line_of_the_one_before(library: Path) -> None:
    pool = read_pool(PythonStatements())
    assert {(row["previous"], row["next"]) for row in pool} == {
        ("self.books.insert(at, book)", "return"),
        ("print(word)", "if"),
        ("raise ValueError", "assignment"),
        ("text = text.upper()", "return"),
    }
    assert {row["group"] for row in pool} == {"shop.shelf"}


def test_a_python_without_sources_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python_code.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(DataError, match="found no sources of Python's standard library"):
        read_pool(PythonFunctions())


@pytest.mark.slow
def test_the_standard_library_has_thousands_of_functions_in_hundreds_of_modules() -> None:
    pool = read_pool(PythonFunctions())
    assert len(pool) > 4_500
    assert len({row["group"] for row in pool}) > 250
    assert len({row["summary"].casefold() for row in pool}) == len(pool)
    assert read_pool(PythonFunctions()) == pool
