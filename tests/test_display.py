from __future__ import annotations

import numpy as np
import pytest

from lib import display


def test_a_table_formats_its_columns_and_marks_the_best():
    rows = [["ours", 0.91234, 3, None], ["rival", 0.9149, 12, 0.5], ["floor", 0.2, 1, "–"]]
    text = display.format_table(
        rows, ["row", "mIoU", "count", "error"], formats={"mIoU": ".2f"}, best={"mIoU": "max", "count": "min"}
    )
    assert text.splitlines() == [
        "| row | mIoU | count | error |",
        "| --- | ---: | ---: | ---: |",
        "| ours | **0.91** | 3 |  |",
        "| rival | **0.91** | 12 | 0.5 |",
        "| floor | 0.20 | **1** | – |",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"formats": {"IoU": ".2f"}}, "there is no column 'IoU'; the columns are row, a"),
        ({"best": {"a": "largest"}}, 'must be "min" or "max", got \'largest\''),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        display.format_table([["x", 1.0]], ["row", "a"], **options)


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="rows must have 2 entries, one a column; got 3"):
        display.format_table([["x", 1.0, 2.0]], ["row", "a"])


@pytest.mark.parametrize(
    ("value", "text"), [(642.0, "642"), (0.012341, "0.01234"), (1e-9, "1e-09"), (2.5e7, "2.5e+07")]
)
def test_numbers_have_four_digits(value, text):
    assert display.format_number(value) == text


def test_outside_a_notebook_the_plain_text_is_printed(capsys):
    display.show("error: **0.5**")
    assert capsys.readouterr().out == "error: **0.5**\n"


def test_bands_in_words():
    assert display.format_band(0.1, 0.25) == "0.1 to 0.25"
    assert [display.format_band(0.5, None), display.format_band(None, 2), display.format_band(None, None)] == [
        "≥ 0.5",
        "≤ 2",
        "",
    ]


def test_whole_numbers_can_be_the_best_and_nan_never_is():
    nan = float("nan")
    rows = [["a", nan, 1, 12345], ["b", 0.5, 0.5, 3]]
    table = display.format_table(rows, ["row", "x", "y", "z"], formats={"y": ".2f"}, best=dict.fromkeys("xyz", "max"))
    assert table.splitlines()[2:] == ["| a | nan | **1** | **12345** |", "| b | **0.5** | 0.50 | 3 |"]
    assert "**" not in display.format_table([["a", nan]], ["row", "x"], best={"x": "min"})


def test_no_entry_breaks_its_cell():
    table = display.format_table([["a|b", np.int64(3)], ["two\nlines", 3.0]], ["name", "value"])
    assert table.splitlines()[2:] == ["| a\\|b | 3 |", "| two lines | 3 |"]
