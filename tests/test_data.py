"""Tokens on storage are what the tokeniser itself gives for prompt, and for prompt with answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from catsweep import data
from catsweep.errors import DataError
from catsweep.spec.task import TaskSpec
from catsweep.tasks.examples import Example

WORDS = ["low", "lower", "newest", "widest", "new", "wide", "slow", "slower"]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    """A byte-level BPE whose merges cross from a colon to the text behind it, so that some answers change the prompt."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    texts = [f"the {word}:{other} end" for word in WORDS for other in WORDS]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<pad>", "<end>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    made.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<end>")


def task(**update: object) -> TaskSpec:
    spec = {
        "task": "made/words",
        "group": "made",
        "source": {"kind": "files", "format": "jsonl", "train": "x.jsonl"},
        "output_type": "generate_until",
        "doc_to_text": "{{word}}",
        "doc_to_target": "{{other}}",
        "target_delimiter": ":",
        "metric_list": [{"metric": "exact_match"}],
    }
    return TaskSpec.model_validate(spec | update)


def generation_examples(num: int) -> list[Example]:
    answers = [WORDS[i % 7] if i % 2 else "42" for i in range(num)]  # no merge crosses from the colon to a digit
    return [Example(str(i), str(i), f"the {WORDS[i % 8]}", text, (text, "other")) for i, text in enumerate(answers)]


def choice_examples(num: int) -> list[Example]:
    choices = ("new", "lower end", "wide")
    return [
        Example(str(i), str(i), f"the {WORDS[i % 8]}", choices[i % 3], (choices[i % 3],), choices, i % 3)
        for i in range(num)
    ]


def reference_answer(tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str) -> list[int]:
    """What joint tokenisation puts behind the prompt's tokens, or the answer alone: one text at a time."""
    before, whole = tokenizer(prompt)["input_ids"], tokenizer(prompt + answer)["input_ids"]
    return whole[len(before) :] if whole[: len(before)] == before else tokenizer(answer)["input_ids"]


def write(folder: Path, examples: list[Example], spec: TaskSpec, tokenizer: PreTrainedTokenizerBase) -> data.TokenSplit:
    written = data.write_task_data(
        folder, {"train": examples}, spec, tokenizer, "decoder", max_prompt_tokens=99, max_target_tokens=99
    )
    return written.tokens("train")


def test_generated_targets_are_the_joint_tokens_and_the_end_token(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "CHUNK_ROWS", 7)  # 30 rows: four full chunks and a short one
    examples = generation_examples(30)
    split = write(tmp_path / "data", examples, task(), tokenizer)
    joined = 0
    for index, example in enumerate(examples):
        assert split.prompts[index].tolist() == tokenizer(f"{example.prompt}:")["input_ids"]
        wanted = reference_answer(tokenizer, f"{example.prompt}:", example.target)
        joined += tokenizer(f"{example.prompt}:{example.target}")["input_ids"][-len(wanted) :] != wanted
        assert split.targets[index].tolist() == [*wanted, tokenizer.eos_token_id]
    assert 0 < joined < 30, "expected answers of both sorts: some change the tokens of their prompt, some do not"
    assert len(split.choices) == 0


def test_choices_are_scored_with_the_same_tokens_that_the_right_one_is_trained_on(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "CHUNK_ROWS", 4)
    examples = choice_examples(10)
    spec = task(
        output_type="multiple_choice", doc_to_choice=["new", "lower end", "wide"], metric_list=[{"metric": "accuracy"}]
    )
    split = write(tmp_path / "data", examples, spec, tokenizer)
    assert split.choice_offsets.tolist() == list(range(0, 31, 3))
    for index, example in enumerate(examples):
        of_choices = [split.choices[3 * index + number].tolist() for number in range(3)]
        prompt = f"{example.prompt}:"
        assert of_choices == [reference_answer(tokenizer, prompt, choice) for choice in example.choices]
        assert split.targets[index].tolist() == of_choices[example.label]


def test_one_chunk_and_many_chunks_write_the_same_bytes(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = generation_examples(50)
    write(tmp_path / "one", examples, task(), tokenizer)
    monkeypatch.setattr(data, "CHUNK_ROWS", 3)
    write(tmp_path / "many", examples, task(), tokenizer)
    for file in sorted((tmp_path / "one").glob("*.npy")):
        assert file.read_bytes() == (tmp_path / "many" / file.name).read_bytes()
    one, many = (data.TaskData(tmp_path / name).texts("train") for name in ("one", "many"))
    assert one.equals(many)
    assert np.load(tmp_path / "one" / "train.targets.ids.npy").dtype == np.int32


def test_long_prompts_lose_their_beginning_and_long_targets_their_end(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    examples = generation_examples(3)
    whole = write(tmp_path / "whole", examples, task(), tokenizer)
    cut = data.write_task_data(
        tmp_path / "cut", {"train": examples}, task(), tokenizer, "decoder", max_prompt_tokens=2, max_target_tokens=1
    ).tokens("train")
    for index in range(3):
        assert cut.prompts[index].tolist() == whole.prompts[index][-2:].tolist()
        assert cut.targets[index].tolist() == whole.targets[index][:1].tolist()


def test_a_first_token_that_begins_every_text_stays_when_a_prompt_is_cut(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    beginning = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()), pad_token="<pad>", eos_token="<end>"
    )
    beginning.backend_tokenizer.post_processor = processors.TemplateProcessing(
        "<pad> $A", special_tokens=[("<pad>", 0)]
    )
    examples = generation_examples(3)
    splits = {}
    for limit in (99, 3, 1):
        splits[limit] = data.write_task_data(
            tmp_path / str(limit), {"train": examples}, task(), beginning, "decoder", max_prompt_tokens=limit, max_target_tokens=9
        ).tokens("train")  # fmt: skip
    for index in range(3):
        whole = splits[99].prompts[index].tolist()
        assert whole[0] == 0
        assert splits[3].prompts[index].tolist() == [0, *whole[-2:]]
        assert splits[1].prompts[index].tolist() == whole[-1:]
        assert splits[3].targets[index].tolist() == splits[99].targets[index].tolist()
        assert 0 not in splits[99].targets[index]


def test_texts_that_are_cut_are_counted(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    examples = generation_examples(6)
    lengths = [len(tokenizer(f"{example.prompt}:")["input_ids"]) for example in examples]
    written = data.write_task_data(
        tmp_path / "data", {"train": examples, "test": examples[:2]}, task(), tokenizer, "decoder",
        max_prompt_tokens=1, max_target_tokens=99,
    )  # fmt: skip
    assert min(lengths) > 1
    assert written.warnings("made/words") == [
        "made/words: prompts that are longer than the limit lost their beginning: training.max_prompt_tokens "
        "(6 of 6 in train, 2 of 2 in test)"
    ]
    write(tmp_path / "whole", examples, task(), tokenizer)
    assert data.TaskData(tmp_path / "whole").warnings("made/words") == []


@pytest.mark.parametrize(
    ("prompt", "delimiter"), [("the new:", " "), ("the new: ", ""), ("the new:\n", " "), ("the new", ":\n\n")]
)
def test_white_space_before_the_answer_is_the_answers(
    prompt: str, delimiter: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    spaced = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()), pad_token="<pad>", eos_token="<end>"
    )
    spaced.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=False
    )  # GPT-2's: " low" is one word
    split = write(
        tmp_path / "data", [Example("0", "0", prompt, "lower", ("lower",))], task(target_delimiter=delimiter), spaced
    )
    seen = [*split.prompts[0], *split.targets[0]]
    assert seen == [*spaced(f"{prompt}{delimiter}lower")["input_ids"], spaced.eos_token_id]
    assert split.prompts[0].tolist() == spaced("the new:")["input_ids"]


def test_an_encoder_keeps_the_white_space_of_its_prompt(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    examples = [Example("0", "0", "the new: ", "lower", ("lower",))]
    split = data.write_task_data(
        tmp_path / "data", {"train": examples}, task(), tokenizer, "encoder_decoder", max_prompt_tokens=99, max_target_tokens=99
    ).tokens("train")  # fmt: skip
    assert split.prompts[0].tolist() == tokenizer("the new: ")["input_ids"]
    assert split.targets[0].tolist() == [*tokenizer("lower")["input_ids"], tokenizer.eos_token_id]


def test_a_choice_without_a_token_is_named(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    forgetful = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()), pad_token="<pad>", eos_token="<end>"
    )
    forgetful.backend_tokenizer.normalizer = normalizers.Replace("?", "")
    example = Example("row 7", "7", "the new", "wide", ("wide",), ("wide", "??"), 0)
    spec = task(output_type="multiple_choice", doc_to_choice=["wide", "??"], metric_list=[{"metric": "accuracy"}])
    with pytest.raises(
        DataError, match=r"made/words, example row 7: the tokeniser makes no token of the choice '\?\?'"
    ):
        write(tmp_path / "data", [example], spec, forgetful)
