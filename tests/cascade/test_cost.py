import json

import numpy as np
import pytest

from catsweep.cascade.cost import ModelShape, forward_flops, train_flops_per_step
from catsweep.cascade.ragged import Ragged

DECODER = ModelShape(
    "decoder", decoder_parameters=100, head_parameters=10, num_decoder_layers=2, decoder_attention_width=3
)
ENCODER_DECODER = ModelShape(
    "encoder_decoder",
    decoder_parameters=100,
    head_parameters=10,
    num_decoder_layers=2,
    decoder_attention_width=3,
    encoder_parameters=50,
    cross_key_value_parameters=7,
    num_encoder_layers=4,
    encoder_attention_width=5,
)


def attention_flops(width: int, layers: int, keys_of_each_token: list[int]) -> int:
    """2 FLOPs a multiplication for scores and as many for the mix of values, token by token."""
    return sum(2 * 2 * width * layers * keys for keys in keys_of_each_token)


def test_a_decoder_costs_body_head_and_causal_attention() -> None:
    # P = 3, N = 2: body 2*100*5, head 2*10*2, attention of tokens 1..5.
    expected = 1000 + 40 + attention_flops(3, 2, [1, 2, 3, 4, 5])
    assert expected == 1400
    assert forward_flops(DECODER, [3], [2]).tolist() == [expected]


def test_an_encoder_decoder_costs_the_encoder_on_the_prompt_and_cross_keys_once() -> None:
    # P = 3, N = 2.
    encoder = 2 * 50 * 3 + attention_flops(5, 4, [3, 3, 3])
    decoder = 2 * 100 * 2 + 2 * 10 * 2 + attention_flops(3, 2, [1, 2])
    cross = 2 * 7 * 3 + attention_flops(3, 2, [3, 3])
    assert encoder + decoder + cross == 1020 + 512 + 186
    assert forward_flops(ENCODER_DECODER, [3], [2]).tolist() == [encoder + decoder + cross]


def test_choices_of_a_decoder_pay_the_prompt_once_and_each_choice_behind_it() -> None:
    # P = 3, choices of 2 and 1 tokens.
    expected = 2 * 100 * (3 + 3) + 2 * 10 * 3 + attention_flops(3, 2, [1, 2, 3, 4, 5, 4])
    assert forward_flops(DECODER, [3], [2], Ragged.from_lists([[2, 1]])).tolist() == [expected]


def test_choices_of_an_encoder_decoder_pay_encoder_and_cross_keys_once() -> None:
    encoder = 2 * 50 * 3 + attention_flops(5, 4, [3, 3, 3])
    decoder = 2 * (100 + 10) * 3 + attention_flops(3, 2, [1, 2, 1])
    cross = 2 * 7 * 3 + attention_flops(3, 2, [3, 3, 3])
    flops = forward_flops(ENCODER_DECODER, [3], [2], Ragged.from_lists([[2, 1]]))
    assert flops.tolist() == [encoder + decoder + cross]


def test_queries_without_choices_cost_their_output_and_totals_are_one_long_choice() -> None:
    mixed = forward_flops(DECODER, [3, 3], [2, 2], Ragged.from_lists([[], [4]]))
    np.testing.assert_array_equal(mixed, forward_flops(DECODER, [3, 3], [2, 4]))
    np.testing.assert_array_equal(mixed, forward_flops(DECODER, [3, 3], [2, 2], np.array([0, 4])))


def test_no_tokens_cost_nothing_and_large_counts_do_not_overflow() -> None:
    for shape in (DECODER, ENCODER_DECODER):
        assert forward_flops(shape, [0], [0]).tolist() == [0.0]
        assert forward_flops(shape, np.array([2**20], dtype=np.int32), np.array([2**20], dtype=np.int32))[0] > 2**41
    assert forward_flops(DECODER, np.zeros(0), np.zeros(0)).shape == (0,)


def test_a_training_step_costs_three_forward_passes() -> None:
    step = train_flops_per_step(DECODER, batch_size=8, mean_prompt_tokens=3, mean_target_tokens=2)
    assert step == 3 * 8 * 1400


def test_a_shape_survives_json() -> None:
    assert ModelShape.from_dict(json.loads(json.dumps(ENCODER_DECODER.to_dict()))) == ENCODER_DECODER


@pytest.mark.parametrize(
    "values",
    [
        {"architecture": "encoder"},
        {"decoder_parameters": -1},
        {"encoder_parameters": 5},
    ],
)
def test_a_shape_that_is_no_model_is_refused(values: dict[str, int | str]) -> None:
    with pytest.raises(ValueError, match=r"architecture|negative|no encoder"):
        ModelShape.from_dict(DECODER.to_dict() | values)
