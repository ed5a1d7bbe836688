"""sacrebleu's test sets from local files and from its own cache; the real WMT22 files where their folder is present."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import sacrebleu.dataset
from sacrebleu.dataset.wmt_xml import WMTXMLDataset

from catsweep.errors import DataError
from catsweep.spec.source import SacrebleuSource
from catsweep.tasks.sacrebleu_sets import read_sacrebleu, sacrebleu_fingerprint

SHARED = Path(__file__).parents[3] / "shared"
DIRECTIONS = sorted(sacrebleu.dataset.DATASETS["wmt22"].langpairs)


def source(langpair: str = "cs-en", references: list[str] | None = None, test_set: str = "wmt22") -> SacrebleuSource:
    return SacrebleuSource.model_validate({"langpair": langpair, "references": references, "test_set": test_set})


def written(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8", newline="")
    return folder


SOURCE = "Ahoj  světe\u00a0!\nDobrý\u2028den \n"
FIRST, SECOND = "Hello world!\nGood day\n", "Hi world!\nGood morning\r\n"
ROWS = [
    {"translation": {"cs": "Ahoj světe !", "en": "Hello world!"}, "references": ["Hello world!"]},
    {"translation": {"cs": "Dobrý den", "en": "Good day"}, "references": ["Good day"]},
]


@pytest.mark.parametrize(
    ("source_file", "reference_file"),
    [
        ("generaltest2022.cs-en.src.cs", "generaltest2022.cs-en.ref.B.en"),
        ("sources/generaltest2022.cs-en.src.cs", "references/generaltest2022.cs-en.ref.B.en"),
        ("txt/sources/generaltest2022.cs-en.src.cs", "txt/references/generaltest2022.cs-en.ref.B.en"),
        ("wmt22.cs-en.src", "wmt22.cs-en.ref-B"),
    ],
)
def test_rows_come_from_each_layout_with_white_space_as_sacrebleu_has_it(
    tmp_path: Path, source_file: str, reference_file: str
) -> None:
    written(tmp_path / "wmt22", {source_file: SOURCE, reference_file: FIRST})
    assert read_sacrebleu(source(), tmp_path) == ROWS
    assert read_sacrebleu(source(), tmp_path, 1) == ROWS[:1]


def test_the_references_are_those_that_are_named_and_the_first_is_the_translation(tmp_path: Path) -> None:
    files = {"t.cs-en.src.cs": SOURCE, "t.cs-en.ref.B.en": FIRST, "t.cs-en.ref.C.en": SECOND}
    written(tmp_path / "wmt22", files)
    rows = read_sacrebleu(source(references=["C", "B"]), tmp_path)
    assert rows[1] == {
        "translation": {"cs": "Dobrý den", "en": "Good morning"},
        "references": ["Good morning", "Good day"],
    }
    assert read_sacrebleu(source(), tmp_path) == ROWS  # B is sacrebleu's default of this direction


def test_copies_of_a_set_in_two_layouts_are_one_set(tmp_path: Path) -> None:
    files = {"t.cs-en.src.cs": SOURCE, "t.cs-en.ref.C.en": SECOND, "wmt22.cs-en.src.cs": SOURCE}
    written(tmp_path / "wmt22", files | {"wmt22.cs-en.ref.B.en": FIRST})
    assert read_sacrebleu(source(), tmp_path) == ROWS
    assert read_sacrebleu(source(references=["C"]), tmp_path)[0]["references"] == ["Hi world!"]


def test_segments_without_a_text_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = {"t.cs-en.src.cs": "a\n \nc\nd", "t.cs-en.ref.B.en": "A\nB\n\n\n", "t.cs-en.ref.C.en": "1\n2\n3\n\n"}
    written(tmp_path / "wmt22", files)
    rows = read_sacrebleu(source(references=["B", "C"]), tmp_path)
    assert [row["references"] for row in rows] == [["A", "1"], ["3"]]
    assert "test set wmt22 cs-en: left out 2 of 4 segments: they have no text on one side" in caplog.text


@pytest.mark.parametrize("name", ["t.liv-en.ref.A.en", "t.liv-en.ref.en", "t.liv-en.ref-A"])
def test_an_unnamed_default_may_lie_in_a_file_with_a_name(tmp_path: Path, name: str) -> None:
    written(tmp_path / "wmt22", {"t.liv-en.src.liv": "Tēriņtš!\n", name: "Hello!\n"})
    row = {"translation": {"liv": "Tēriņtš!", "en": "Hello!"}, "references": ["Hello!"]}
    assert read_sacrebleu(source("liv-en"), tmp_path) == [row]


def test_the_fingerprint_follows_content_not_place(tmp_path: Path) -> None:
    written(tmp_path / "one" / "wmt22", {"t.cs-en.src.cs": SOURCE, "t.cs-en.ref.B.en": FIRST})
    written(
        tmp_path / "two" / "wmt22" / "txt", {"sources/x.cs-en.src.cs": SOURCE, "references/x.cs-en.ref.B.en": FIRST}
    )
    written(tmp_path / "three" / "wmt22", {"t.cs-en.src.cs": SOURCE, "t.cs-en.ref.B.en": SECOND})
    one, two, three = (sacrebleu_fingerprint(source(), tmp_path / name) for name in ("one", "two", "three"))
    assert one == two != three


def test_the_fingerprint_of_a_download_needs_no_download() -> None:
    keys = {sacrebleu_fingerprint(source(pair), None) for pair in DIRECTIONS}
    keys.add(sacrebleu_fingerprint(source("cs-en", ["C"]), None))
    assert len(keys) == 22


XML = """<dataset id="t">
<doc id="d1" origlang="cs"><src lang="cs"><p><seg id="1">Ahoj</seg><seg id="2">Dobrý  den</seg></p></src>
<ref lang="en" translator="B"><p><seg id="1">Hello</seg><seg id="2">Good day</seg></p></ref>
<ref lang="en" translator="C"><p><seg id="1">Hi</seg><seg id="2">Good morning</seg></p></ref></doc></dataset>"""


@pytest.fixture
def downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A cache of sacrebleu as its download leaves it: the archive, and the XML file of cs-en unpacked from it."""

    def make(xml: str) -> None:
        known = sacrebleu.dataset.DATASETS["wmt22"]
        assert isinstance(known, WMTXMLDataset)
        file = tmp_path / "raw" / known.langpairs["cs-en"]["path"]
        written(file.parent, {file.name: xml})
        written(tmp_path / "raw", {"wmt22.v1.1.tar.gz": "an archive"})
        monkeypatch.setattr(known, "_outdir", str(tmp_path))
        monkeypatch.setattr(known, "_rawdir", str(tmp_path / "raw"))

    return make


def test_without_local_files_sacrebleu_reads_its_own(tmp_path: Path, downloaded: Callable[[str], None]) -> None:
    downloaded(XML)
    rows = read_sacrebleu(source(), tmp_path / "empty")
    assert rows == read_sacrebleu(source(), None)
    assert rows[1] == {"translation": {"cs": "Dobrý den", "en": "Good day"}, "references": ["Good day"]}
    assert read_sacrebleu(source(references=["B", "C"]), None)[0]["references"] == ["Hello", "Hi"]


def test_a_failed_download_says_where_the_files_may_lie(tmp_path: Path, downloaded: Callable[[str], None]) -> None:
    downloaded("<dataset>")
    with pytest.raises(DataError) as error:
        read_sacrebleu(source(), tmp_path)
    text = str(error.value)
    assert text.startswith(
        f"test set wmt22 cs-en: found no local files below {tmp_path}/wmt22 and no download (XMLSyntax"
    )
    assert text.endswith("put wmt22.cs-en.src.cs and wmt22.cs-en.ref.B.en, one segment a line, into <data root>/wmt22")


def test_what_is_wrong_with_the_name_is_said() -> None:
    with pytest.raises(DataError) as unknown_set:
        read_sacrebleu(source(test_set="wmt2"), None)
    with pytest.raises(DataError) as unknown_pair:
        read_sacrebleu(source("en-fi"), None)
    assert str(unknown_set.value) == (
        "test set: found 'wmt2'; expected one that sacrebleu knows. Did you mean 'wmt24'?"
    )
    assert str(unknown_pair.value).startswith(
        "test set wmt22: found the direction 'en-fi'; expected one of cs-en, cs-uk"
    )


@pytest.mark.parametrize(
    ("files", "references", "message"),
    [
        ({"t.cs-en.src.cs": SOURCE, "t.cs-en.ref.B.en": FIRST}, ["A"],
         "test set wmt22 cs-en in {folder}: found the reference sets B; expected A. Change `references`, or add the file"),
        ({"t.cs-en.src.cs": SOURCE}, None,
         "test set wmt22 cs-en in {folder}: found the reference sets none; expected B. Change `references`, or add the file"),
        ({"t.cs-en.src.cs": SOURCE, "t.cs-en.ref.B.en": "Hello\n"}, None,
         "test set wmt22 cs-en: found files of different length: {folder}/t.cs-en.src.cs 2, {folder}/t.cs-en.ref.B.en 1 "
         "lines; expected the same number"),
        ({"t.cs-en.src.cs": SOURCE, "u.cs-en.src.cs": FIRST}, None,
         "test set wmt22 cs-en: found several source files: {folder}/t.cs-en.src.cs, {folder}/u.cs-en.src.cs; expected "
         "one. Remove the others"),
    ],
)  # fmt: skip
def test_files_that_do_not_fit_are_refused(
    tmp_path: Path, files: dict[str, str], references: list[str] | None, message: str
) -> None:
    folder = written(tmp_path / "wmt22", files)
    with pytest.raises(DataError) as error:
        read_sacrebleu(source(references=references), tmp_path)
    assert str(error.value) == message.format(folder=folder)


@pytest.fixture
def wmt22() -> Path:
    """The data root with the real WMT22 files; skips where it is absent."""
    if not (SHARED / "data" / "wmt22").is_dir():
        pytest.skip(f"{SHARED / 'data' / 'wmt22'} is absent")
    return SHARED / "data"


@pytest.mark.skipif(not (SHARED / "tasks.tsv").is_file(), reason="the table of facts is absent")
def test_all_21_directions_have_the_segments_that_the_facts_say(wmt22: Path) -> None:
    with (SHARED / "tasks.tsv").open(encoding="utf-8") as file:
        facts = [row for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if row["suite"] == "wmt22"]
    expected = {row["task"]: int(row["sizes"].split()[1]) for row in facts}
    assert {pair: len(read_sacrebleu(source(pair), wmt22)) for pair in DIRECTIONS} == expected
    assert len(expected) == 21


@pytest.mark.parametrize(
    ("langpair", "names"),
    [(pair, ["B", "C"]) for pair in ("cs-en", "en-cs")]
    + [(pair, ["A", "B"]) for pair in ("de-en", "en-de", "en-zh", "zh-en")]
    + [("en-hr", ["A", "stud"])],
)
def test_where_two_reference_sets_exist_both_are_read(wmt22: Path, langpair: str, names: list[str]) -> None:
    rows = read_sacrebleu(source(langpair, names), wmt22)
    assert all(len(row["references"]) == 2 for row in rows)
    assert [row["references"][0] for row in rows] == [
        row["translation"][langpair.split("-")[1]] for row in read_sacrebleu(source(langpair), wmt22)
    ]
