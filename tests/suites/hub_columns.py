"""What the public copies of SuperGLUE, FLAN2021 and WMT22's training data look like: an independent table that the task
files are held to.

Typed from dataset cards, file listings and sacrebleu's list, not from the task files. A column is written `"string"` for a value, a
list of one element for a list, a dict for a struct, and a tuple of names for a ClassLabel.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Columns = dict[str, Any]


@dataclass(frozen=True)
class Copy:
    """A public copy of a dataset.

    path, config: as on the hub. sizes: split -> rows; empty where they are not known. columns: see the module. words: the
    answer that each label stands for, by its index. unlabelled: splits whose labels are not public. files: split ->
    file, where the copy has no layout of its own. revision: a branch or commit other than main. json: JSON lines.
    """

    path: str
    config: str | None
    sizes: dict[str, int]
    columns: Columns
    words: tuple[str, ...] = ()
    unlabelled: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    revision: str | None = None
    json: bool = False


def _sizes(train: int, validation: int | None = None, test: int | None = None) -> dict[str, int]:
    given = {"train": train, "validation": validation, "test": test}
    return {split: size for split, size in given.items() if size is not None}


def _super_glue(config: str, sizes: tuple[int, int, int], columns: Columns, words: tuple[str, ...] = ()) -> Copy:
    return Copy("aps/super_glue", config, _sizes(*sizes), columns, words, unlabelled=("test",))


def _glue(config: str, sizes: dict[str, int], columns: Columns, words: tuple[str, ...], labelled: bool = False) -> Copy:
    idx = {"idx": "int32"}
    return Copy("nyu-mll/glue", config, sizes, columns | idx, words, unlabelled=() if labelled else ("test",))


def _translation(path: str, config: str | None, languages: str, sizes: tuple[int, ...]) -> Copy:
    return Copy(path, config, _sizes(*sizes), {"translation": dict.fromkeys(languages.split(), "string")})


def _converted(path: str, config: str, sizes: tuple[int, int, int], columns: Columns) -> Copy:
    files = {split: f"{config}/{split}/0000.parquet" for split in ("train", "validation", "test")}
    gem = {"gem_id": "string", "gem_parent_id": "string", "target": "string", "references": ["string"]}
    return Copy(path, None, _sizes(*sizes), gem | columns, files=files, revision="refs/convert/parquet")


def _templated(name: str) -> Copy:
    files = {split: f"{split}/{name}_10templates_{split}.jsonl" for split in ("train", "validation", "test")}
    columns = {"inputs": "string", "targets": "string", "task": "string"}
    return Copy("Muennighoff/flan", None, {}, columns, files=files, json=True)


_NO_YES, _YES_NO = ("no", "yes"), ("yes", "no")
_THREE_WAY = ("entailment", "neutral", "contradiction")
_SQUAD = {
    "id": "string",
    "title": "string",
    "context": "string",
    "question": "string",
    "answers": {"text": ["string"], "answer_start": ["int32"]},
}
_ARC = {
    "id": "string",
    "question": "string",
    "choices": {"text": ["string"], "label": ["string"]},
    "answerKey": "string",
}
_PAIR = {"premise": "string", "hypothesis": "string"}
_ANLI = {"uid": "string", **_PAIR, "label": _THREE_WAY, "reason": "string"}
_MNLI_SIZES = {"train": 392_702, "validation_matched": 9_815, "validation_mismatched": 9_832}
_OPUS_DA = _translation("Helsinki-NLP/opus-100", "da-en", "da en", (1_000_000, 2_000, 2_000))
_WMT16 = "wmt/wmt16"
_SENTENCES = {"sentence1": "string", "sentence2": "string"}

SUPERGLUE: dict[str, Copy] = {
    "boolq": _super_glue(
        "boolq", (9_427, 3_270, 3_245),
        {"question": "string", "passage": "string", "idx": "int32", "label": ("False", "True")}, _NO_YES,
    ),
    "cb": _super_glue(
        "cb", (250, 56, 250),
        {**_PAIR, "idx": "int32", "label": ("entailment", "contradiction", "neutral")}, ("yes", "no", "maybe"),
    ),
    "copa": _super_glue(
        "copa", (400, 100, 500),
        {"premise": "string", "choice1": "string", "choice2": "string", "question": "string", "idx": "int32",
         "label": ("choice1", "choice2")},
    ),
    "multirc": _super_glue(
        "multirc", (27_243, 4_848, 9_693),
        {"paragraph": "string", "question": "string", "answer": "string",
         "idx": {"paragraph": "int32", "question": "int32", "answer": "int32"}, "label": ("False", "True")}, _NO_YES,
    ),
    "record": _super_glue(
        "record", (100_730, 10_000, 10_000),
        {"passage": "string", "query": "string", "entities": ["string"],
         "entity_spans": {"text": ["string"], "start": ["int32"], "end": ["int32"]}, "answers": ["string"],
         "idx": {"passage": "int32", "query": "int32"}},
    ),
    "rte": _super_glue(
        "rte", (2_490, 277, 3_000), {**_PAIR, "idx": "int32", "label": ("entailment", "not_entailment")}, _YES_NO
    ),
    "wic": _super_glue(
        "wic", (5_428, 638, 1_400),
        {"word": "string", "sentence1": "string", "sentence2": "string", "start1": "int32", "start2": "int32",
         "end1": "int32", "end2": "int32", "idx": "int32", "label": ("False", "True")}, _NO_YES,
    ),
    "wsc": _super_glue(
        "wsc.fixed", (554, 104, 146),
        {"text": "string", "span1_index": "int32", "span2_index": "int32", "span1_text": "string",
         "span2_text": "string", "idx": "int32", "label": ("False", "True")}, _NO_YES,
    ),
}  # fmt: skip

FLAN2021: dict[str, Copy] = {
    "aeslc": Copy(
        "Yale-LILY/aeslc", None, _sizes(14_436, 1_960, 1_906), {"email_body": "string", "subject_line": "string"}
    ),
    "cnn_dailymail": Copy(
        "abisee/cnn_dailymail", "3.0.0", _sizes(287_113, 13_368, 11_490),
        {"article": "string", "highlights": "string", "id": "string"},
    ),
    "gigaword": Copy(
        "Harvard/gigaword", None, _sizes(3_803_957, 189_651, 1_951), {"document": "string", "summary": "string"},
        files={"train": "train.jsonl", "validation": "validation.jsonl", "test": "test.jsonl"}, json=True,
    ),
    "multi_news": Copy(
        "Awesome075/multi_news_parquet", None, _sizes(44_972, 5_622, 5_622),
        {"document": "string", "summary": "string"},
    ),
    "newsroom": Copy(
        "lil-lab/newsroom", None, _sizes(995_041, 108_837, 108_862),
        {"text": "string", "summary": "string", "title": "string", "url": "string", "date": "string",
         "density_bin": "string", "coverage_bin": "string", "compression_bin": "string", "density": "float32",
         "coverage": "float32", "compression": "float32"},
        files={"train": "train.jsonl", "validation": "dev.jsonl", "test": "test.jsonl"}, json=True,
    ),
    "samsum": Copy(
        "knkarthick/samsum", None, _sizes(14_732, 818, 819), {"id": "string", "dialogue": "string", "summary": "string"}
    ),
    "xsum": Copy(
        "EdinburghNLP/xsum", None, _sizes(204_045, 11_332, 11_334),
        {"document": "string", "summary": "string", "id": "string"},
    ),
    "ag_news_subset": Copy(
        "fancyzhx/ag_news", None, _sizes(120_000, test=7_600),
        {"text": "string", "label": ("World", "Sports", "Business", "Sci/Tech")},
        ("World", "Sports", "Business", "Science and technology"),
    ),
    "opinion_abstracts_rotten_tomatoes": _templated("opinion_abstracts_rotten_tomatoes"),
    "opinion_abstracts_idebate": _templated("opinion_abstracts_idebate"),
    "wiki_lingua_english_en": _converted(
        "GEM/gem", "wiki_lingua_english_en", (99_020, 13_823, 28_614),
        {"source_aligned": {"en": "string"}, "target_aligned": {"en": "string"}, "source": "string"},
    ),
    "web_nlg_en": _converted(
        "GEM/web_nlg", "en", (35_426, 1_667, 1_779),
        {"input": ["string"], "category": "string", "webnlg_id": "string"},
    ),
    "common_gen": Copy(
        "allenai/common_gen", None, _sizes(67_389, 4_018, 1_497),
        {"concept_set_idx": "int32", "concepts": ["string"], "target": "string"}, unlabelled=("test",),
    ),
    "e2e_nlg": _converted("GEM/e2e_nlg", "default", (33_525, 4_299, 4_693), {"meaning_representation": "string"}),
    "dart": _converted(
        "GEM/gem", "dart", (62_659, 2_768, 5_097),
        {"dart_id": "int32", "tripleset": [["string"]], "subtree_was_extended": "bool", "target_sources": ["string"]},
    ),
    "squad_v1": Copy("rajpurkar/squad", "plain_text", _sizes(87_599, 10_570), _SQUAD),
    "squad_v2": Copy("rajpurkar/squad_v2", None, _sizes(130_319, 11_873), _SQUAD),
    "drop": Copy(
        "ucinlp/drop", None, _sizes(77_400, 9_535),
        {"section_id": "string", "query_id": "string", "passage": "string", "question": "string",
         "answers_spans": {"spans": ["string"], "types": ["string"]}},
    ),
    "multirc": SUPERGLUE["multirc"],
    "openbookqa": Copy(
        "allenai/openbookqa", "additional", _sizes(4_957, 500, 500),
        {"id": "string", "question_stem": "string", "choices": _ARC["choices"], "answerKey": "string",
         "fact1": "string", "humanScore": "float32", "clarity": "float32", "turkIdAnonymized": "string"},
    ),
    "bool_q": Copy(
        "google/boolq", None, _sizes(9_427, 3_270), {"question": "string", "answer": "bool", "passage": "string"},
        _NO_YES,
    ),
    "trivia_qa": Copy(
        "mandarjoshi/trivia_qa", "rc.nocontext", _sizes(138_384, 17_944, 17_210),
        {"question": "string", "question_id": "string", "question_source": "string",
         "entity_pages": {"doc_source": ["string"], "filename": ["string"], "title": ["string"],
                          "wiki_context": ["string"]},
         "search_results": {"description": ["string"], "filename": ["string"], "rank": ["int32"], "title": ["string"],
                            "url": ["string"], "search_context": ["string"]},
         "answer": {"aliases": ["string"], "normalized_aliases": ["string"], "matched_wiki_entity_name": "string",
                    "normalized_matched_wiki_entity_name": "string", "normalized_value": "string", "type": "string",
                    "value": "string"}},
        unlabelled=("test",),
    ),
    "natural_questions": Copy(
        "google-research-datasets/nq_open", "nq_open", _sizes(87_925, 3_610),
        {"question": "string", "answer": ["string"]},
    ),
    "arc_challenge": Copy("allenai/ai2_arc", "ARC-Challenge", _sizes(1_119, 299, 1_172), _ARC),
    "arc_easy": Copy("allenai/ai2_arc", "ARC-Easy", _sizes(2_251, 570, 2_376), _ARC),
    "glue_mrpc": _glue(
        "mrpc", _sizes(3_668, 408, 1_725), {**_SENTENCES, "label": ("not_equivalent", "equivalent")}, _NO_YES,
        labelled=True,
    ),
    "glue_qqp": _glue(
        "qqp", _sizes(363_846, 40_430, 390_965),
        {"question1": "string", "question2": "string", "label": ("not_duplicate", "duplicate")}, _NO_YES,
    ),
    "paws_wiki": Copy(
        "google-research-datasets/paws", "labeled_final", _sizes(49_401, 8_000, 8_000),
        {"id": "int32", **_SENTENCES, "label": ("0", "1")}, _NO_YES,
    ),
    "stsb": _glue("stsb", _sizes(5_749, 1_500, 1_379), {**_SENTENCES, "label": "float32"}, ()),
    "imdb_reviews": Copy(
        "stanfordnlp/imdb", "plain_text", _sizes(25_000, test=25_000), {"text": "string", "label": ("neg", "pos")},
        ("negative", "positive"),
    ),
    "sentiment140": Copy(
        "stanfordnlp/sentiment140", "sentiment140", _sizes(1_600_000, test=498),
        {"text": "string", "date": "string", "user": "string", "sentiment": "int32", "query": "string"},
        revision="refs/pr/6",
    ),
    "yelp_polarity_reviews": Copy(
        "fancyzhx/yelp_polarity", "plain_text", _sizes(560_000, test=38_000), {"text": "string", "label": ("1", "2")},
        ("negative", "positive"),
    ),
    "sst2": _glue(
        "sst2", _sizes(67_349, 872, 1_821), {"sentence": "string", "label": ("negative", "positive")},
        ("negative", "positive"),
    ),
    "true_case": _OPUS_DA,
    "fix_punct": _OPUS_DA,
    "word_segment": _OPUS_DA,
    "copa": SUPERGLUE["copa"],
    "hellaswag": Copy(
        "Rowan/hellaswag", None, _sizes(39_905, 10_042, 10_003),
        {"ind": "int32", "activity_label": "string", "ctx_a": "string", "ctx_b": "string", "ctx": "string",
         "endings": ["string"], "source_id": "string", "split": "string", "split_type": "string", "label": "string"},
        unlabelled=("test",),
    ),
    "story_cloze": Copy(
        "MoE-UNC/story_cloze", None, {"validation": 1_871, "test": 1_871},
        {"story_id": "string", **{f"input_sentence_{index}": "string" for index in (1, 2, 3, 4)},
         "sentence_quiz1": "string", "sentence_quiz2": "string", "answer_right_ending": "int32"},
    ),
    "piqa": Copy(
        "baber/piqa", None, _sizes(16_113, 1_838, 3_084),
        {"goal": "string", "sol1": "string", "sol2": "string", "label": ("0", "1")}, unlabelled=("test",),
    ),
    "para_crawl_enes": _translation("Helsinki-NLP/opus-100", "en-es", "en es", (1_000_000, 2_000, 2_000)),
    "wmt14_enfr": _translation("wmt/wmt14", "fr-en", "fr en", (40_836_715, 3_000, 3_003)),
    "wmt16_translate_deen": _translation(_WMT16, "de-en", "de en", (4_548_885, 2_169, 2_999)),
    "wmt16_translate_tren": _translation(_WMT16, "tr-en", "tr en", (205_756, 1_001, 3_000)),
    "wmt16_translate_csen": _translation(_WMT16, "cs-en", "cs en", (997_240, 2_656, 2_999)),
    "wmt16_translate_fien": _translation(_WMT16, "fi-en", "fi en", (2_073_394, 1_370, 6_000)),
    "wmt16_translate_roen": _translation(_WMT16, "ro-en", "ro en", (610_320, 1_999, 1_999)),
    "wmt16_translate_ruen": _translation(_WMT16, "ru-en", "ru en", (1_516_162, 2_818, 2_998)),
    "definite_pronoun_resolution": Copy(
        "community-datasets/definite_pronoun_resolution", "plain_text", _sizes(1_322, test=564),
        {"sentence": "string", "pronoun": "string", "candidates": ["string"], "label": ("0", "1")},
    ),
    "winogrande": Copy(
        "allenai/winogrande", "winogrande_xl", _sizes(40_398, 1_267, 1_767),
        {"sentence": "string", "option1": "string", "option2": "string", "answer": "string"}, unlabelled=("test",),
    ),
    "wsc": SUPERGLUE["wsc"],
    "anli_r1": Copy(
        "facebook/anli", "plain_text", {"train_r1": 16_946, "dev_r1": 1_000, "test_r1": 1_000}, _ANLI,
        ("yes", "maybe", "no"),
    ),
    "anli_r2": Copy(
        "facebook/anli", "plain_text", {"train_r2": 45_460, "dev_r2": 1_000, "test_r2": 1_000}, _ANLI,
        ("yes", "maybe", "no"),
    ),
    "anli_r3": Copy(
        "facebook/anli", "plain_text", {"train_r3": 100_459, "dev_r3": 1_200, "test_r3": 1_200}, _ANLI,
        ("yes", "maybe", "no"),
    ),
    "cb": SUPERGLUE["cb"],
    "rte": SUPERGLUE["rte"],
    "mnli_matched": _glue("mnli", _MNLI_SIZES, {**_PAIR, "label": _THREE_WAY}, ("yes", "maybe", "no")),
    "mnli_mismatched": _glue("mnli", _MNLI_SIZES, {**_PAIR, "label": _THREE_WAY}, ("yes", "maybe", "no")),
    "qnli": _glue(
        "qnli", _sizes(104_743, 5_463, 5_463),
        {"question": "string", "sentence": "string", "label": ("entailment", "not_entailment")}, _YES_NO,
    ),
    "wnli": _glue("wnli", _sizes(635, 71, 146), {**_SENTENCES, "label": ("not_entailment", "entailment")}, _NO_YES),
    "snli": Copy(
        "stanfordnlp/snli", "plain_text", _sizes(550_152, 10_000, 10_000), {**_PAIR, "label": _THREE_WAY},
        ("yes", "maybe", "no"),
    ),
    "math_dataset": Copy(
        "deepmind/math_dataset", "algebra__linear_1d", _sizes(1_999_998, test=10_000),
        {"question": "string", "answer": "string"},
    ),
    "quac": Copy(
        "allenai/quac", "plain_text", _sizes(11_567, 1_000),
        {"dialogue_id": "string", "wikipedia_page_title": "string", "background": "string", "section_title": "string",
         "context": "string", "turn_ids": ["string"], "questions": ["string"], "followups": [("y", "n", "m")],
         "yesnos": [("y", "n", "x")], "answers": {"texts": [["string"]], "answer_starts": [["int32"]]},
         "orig_answers": {"texts": ["string"], "answer_starts": ["int32"]}},
        revision="f0afadd97c1b0234ed5dc589b2259b9c2efa1743",
    ),
    "coqa": Copy(
        "stanfordnlp/coqa", None, _sizes(7_199, 500),
        {"source": "string", "story": "string", "questions": ["string"],
         "answers": {"input_text": ["string"], "answer_start": ["int32"], "answer_end": ["int32"]}},
    ),
    "wic": SUPERGLUE["wic"],
    "cola": _glue(
        "cola", _sizes(8_551, 1_043, 1_063), {"sentence": "string", "label": ("unacceptable", "acceptable")},
        ("unacceptable", "acceptable"),
    ),
    "trec": Copy(
        "SetFit/TREC-QC", None, _sizes(5_452, test=500),
        {"text": "string", "label": "int64", "label_text": "string", "label_original": "string",
         "label_coarse": "int64", "label_coarse_text": "string", "label_coarse_original": "string"},
        files={"train": "train.jsonl", "test": "test.jsonl"}, json=True,
    ),
    "record": SUPERGLUE["record"],
    "cosmos_qa": Copy(
        "Samsoup/cosmos_qa", None, _sizes(25_262, 2_985, 6_963),
        {"id": "string", "context": "string", "question": "string",
         **{f"answer{index}": "string" for index in (0, 1, 2, 3)}, "label": "int32"},
        unlabelled=("test",),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Direction:
    """A direction of WMT22's general test.

    train: its training data. validation: "own", a split of the training data; "wmt21", a test set of sacrebleu; None, cut
    from train. references: the reference sets that the organisers' text files have. scored: the one that sacrebleu takes.
    num_segments: of the test. tokenize: sacrebleu's tokeniser of the target language.
    """

    train: Copy
    validation: str | None
    references: tuple[str, ...]
    scored: str
    num_segments: int
    tokenize: str = "13a"


_WMT19 = {  # sizes of train are rounded on its card
    pair: _translation("wmt/wmt19", pair, pair.replace("-", " "), sizes)
    for pair, sizes in {
        "cs-en": (7_270_000, 2_983),
        "de-en": (38_700_000, 2_998),
        "fr-de": (9_820_000, 1_512),
        "ru-en": (37_500_000, 3_000),
        "zh-en": (26_000_000, 3_981),
    }.items()
}
_OPUS = {
    pair: _translation("Helsinki-NLP/opus-100", pair, pair.replace("-", " "), (1_000_000, 2_000, 2_000))
    for pair in ("en-hr", "en-ja", "en-uk")
}
_LIVONIAN = _translation("tartuNLP/liv4ever", None, "en liv", (600,))
_YAKUT = Copy(
    "wmt/yakut", None, _sizes(30_146), {"translation": {"sah": "string", "ru": "string"}},
    files={"train": "sah-ru/train/0000.parquet"}, revision="refs/convert/parquet",
)  # fmt: skip
_OWN = {pair: _translation(f"local/opus-100/{pair}", None, pair.replace("-", " "), (1_000,)) for pair in ("cs-uk",)}

WMT22: dict[str, Direction] = {
    "cs-en": Direction(_WMT19["cs-en"], "wmt21", ("B", "C"), "B", 1_448),
    "cs-uk": Direction(_OWN["cs-uk"], None, ("A",), "A", 1_930),
    "de-en": Direction(_WMT19["de-en"], "wmt21", ("A", "B"), "A", 1_984),
    "de-fr": Direction(_WMT19["fr-de"], "wmt21", ("A",), "A", 1_984),
    "en-cs": Direction(_WMT19["cs-en"], "wmt21", ("B", "C"), "B", 2_037),
    "en-de": Direction(_WMT19["de-en"], "wmt21", ("A", "B"), "A", 2_037),
    "en-hr": Direction(_OPUS["en-hr"], "own", ("A", "stud"), "A", 1_671),
    "en-ja": Direction(_OPUS["en-ja"], "wmt21", ("A",), "A", 2_037, "ja-mecab"),
    "en-liv": Direction(_LIVONIAN, None, ("A",), "A", 420),
    "en-ru": Direction(_WMT19["ru-en"], "wmt21", ("A",), "A", 2_037),
    "en-uk": Direction(_OPUS["en-uk"], "own", ("A",), "A", 2_037),
    "en-zh": Direction(_WMT19["zh-en"], "wmt21", ("A", "B"), "A", 2_037, "zh"),
    "fr-de": Direction(_WMT19["fr-de"], "wmt21", ("A",), "A", 2_006),
    "ja-en": Direction(_OPUS["en-ja"], "wmt21", ("A",), "A", 2_008),
    "liv-en": Direction(_LIVONIAN, None, ("A",), "A", 420),  # unnamed for sacrebleu, A in the text files
    "ru-en": Direction(_WMT19["ru-en"], "wmt21", ("A",), "A", 2_016),
    "ru-sah": Direction(_YAKUT, None, ("A",), "A", 1_123),  # unnamed as well
    "sah-ru": Direction(_YAKUT, None, ("A",), "A", 1_123),
    "uk-cs": Direction(_OWN["cs-uk"], None, ("A",), "A", 2_812),
    "uk-en": Direction(_OPUS["en-uk"], "own", ("A",), "A", 2_018),
    "zh-en": Direction(_WMT19["zh-en"], "wmt21", ("A", "B"), "A", 1_875),
}

COPIES = {f"superglue/{name}": copy for name, copy in SUPERGLUE.items()} | {
    f"flan2021/{name}": copy for name, copy in FLAN2021.items()
}
