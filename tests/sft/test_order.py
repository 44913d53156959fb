"""The order of training samples: seeded epochs that show each sample as often as its weight says."""

from collections import Counter

import numpy as np
import pytest

from components.sft.data import epoch_length, order


def test_weights_of_one_are_permutations():
    sequence = order([1.0] * 7, 3, range(21))
    assert [sequence[k : k + 7] for k in (0, 7, 14)] == [
        np.random.default_rng([3, epoch]).permutation(7).tolist() for epoch in range(3)
    ]


@pytest.mark.parametrize(
    ("weights", "length"),
    [
        ([2.0, 1.0, 3.0], 6),
        ([0.5] * 4, 2),
        ([1.5, 1.0, 0.5, 2.0], 5),
        ([0.1] * 3, 1),
        ([0.9, 0.1], 1),
        ([0.3] * 10 + [1.7] * 10, 20),
    ],
)
def test_an_epoch_shows_a_sample_as_often_as_its_weight_says(weights, length):
    epochs, rest = 400, sum(weight % 1 for weight in weights)
    assert epoch_length(weights) == length
    sequence = order(weights, 7, range(epochs * length))
    counts = [Counter(sequence[k : k + length]) for k in range(0, epochs * length, length)]
    share = (length - sum(int(weight) for weight in weights)) / rest if rest else 1
    for index, weight in enumerate(weights):
        seen = [count[index] for count in counts]
        assert {*seen} <= {int(weight), int(weight) + (weight % 1 > 0)}
        expected = int(weight) + weight % 1 * share
        assert sum(seen) / epochs == pytest.approx(expected, abs=4 * (0.25 / epochs) ** 0.5)
    assert order(weights, 7, range(length + 1, 3 * length)) == sequence[length + 1 : 3 * length]
    assert order(weights, 8, range(epochs * length)) != sequence


def test_samples_of_a_broken_weight_meet_in_every_combination():
    sequence = order([0.5] * 4, 7, range(400))
    assert {frozenset(sequence[k : k + 2]) for k in range(0, 400, 2)} == {
        frozenset((one, other)) for one in range(4) for other in range(one)
    }
