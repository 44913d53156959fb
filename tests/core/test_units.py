"""Numbers as people read them: units, fixed decimals, no exponents."""

import pytest

from components.core import units


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (999.6, "1 kB"), (12_345, "12.3 kB"), (5e9, "5 GB"), (2e15, "2 PB")]
)
def test_readable_bytes(count, text):
    assert units.readable_bytes(count) == text


@pytest.mark.parametrize(
    ("hours", "text"),
    [
        (0, "0 s"),
        (1.37e-07, "< 1 s"),
        (12 / 3600, "12 s"),
        (59.6 / 3600, "1 min"),
        (40 / 60, "40 min"),
        (59.6 / 60, "1.0 h"),
        (3.54, "3.5 h"),
        (99.97, "100 h"),
        (12_400, "12,400 h"),
    ],
)
def test_readable_hours(hours, text):
    assert units.readable_hours(hours) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1234.6, "1235"),
        (0.0123, "0.0123"),
        (-3.14159, "−3.14"),
        (2e-6, "0.00000200"),
        (3e-9, "< 0.000001"),
        (-3e-9, "> −0.000001"),
        (99.96, "100.0"),
        (2.5e7, "25,000,000"),
    ],
)
def test_number(value, text):
    assert units.number(value) == text


def test_a_column_has_equally_many_decimals():
    assert units.aligned([0.09465, 6.9e-05, -0.02355], 4) == ["0.09465", "0.00007", "−0.02355"]
    assert units.aligned([1234.5, 0.2], 3) == ["1234", "0"]
    assert units.aligned([0.0, 0.0]) == ["0", "0"]
    assert units.aligned([]) == []


@pytest.mark.parametrize(("p", "text"), [(0.0004, "p < 0.001"), (0.0271, "p = 0.027")])
def test_probability(p, text):
    assert units.probability(p) == text


@pytest.mark.parametrize(
    ("value", "text"), [(6.0, "6.0"), (1e-05, "0.00001"), (-2.5e-7, "-0.00000025"), (1e22, "1" + "0" * 22)]
)
def test_a_parameter_is_written_exactly(value, text):
    assert units.parameter(value) == text
    assert float(text) == value


def test_parameters_are_named_with_dots():
    values = {"on": True, "viewing": {"fps": 2.0, "most": None}, "words": ["a_b", 1e-6], "empty": []}
    assert list(units.parameters(values)) == [
        ("on", "true"), ("viewing.fps", "2.0"), ("viewing.most", "none"), ("words", "a_b, 0.000001"), ("empty", "none")
    ]  # fmt: skip


@pytest.mark.parametrize(("value", "text"), [(1e-5, "10⁻⁵"), (3e-6, "3·10⁻⁶"), (1e12, "10¹²")])
def test_power(value, text):
    assert units.power(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(1.25, "+1.2"), (-1.26, "−1.3"), (0.04, "0.0"), (-0.04, "0.0"), (0, "0.0")]
)
def test_signed(value, text):
    assert units.signed(value) == text
