"""Tables, as a pipe and as a terminal get them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztnode.cli.table import GAP, NARROWEST, display_width, lay_out


def test_columns_are_as_wide_as_they_need_to_be() -> None:
    table = lay_out(("NWID", "NAME"), [("9ad07d01093a69e3", "lab"), ("8056c2e21c000001", "")], None)
    assert table.headings == ("NWID              NAME",)
    assert table.rows == ("9ad07d01093a69e3  lab", "8056c2e21c000001")


def test_a_pipe_gets_one_line_a_row_however_long() -> None:
    assert lay_out(("A", "B"), [("x" * 5000, "end")], None).rows == ("x" * 5000 + "  end",)


def test_a_terminal_gets_folded_cells_cut_at_spaces() -> None:
    table = lay_out(("A", "DETAIL"), [("1", "ask the administrator to authorize it")], 24)
    assert table.rows == ("1  ask the administrator", "   to authorize it")


def test_wide_and_combining_characters_count_as_they_show() -> None:
    assert [display_width(text) for text in ("abc", "網路", "e\N{COMBINING ACUTE ACCENT}", "☃")] == [3, 4, 1, 1]
    table = lay_out(("A", "B"), [("網路", "x"), ("ab", "y")], None)
    assert table.rows == ("網路  x", "ab    y")


texts = st.text(alphabet=st.one_of(st.sampled_from(" ab網é\N{COMBINING ACUTE ACCENT}"), st.characters(codec="utf-8")))


@given(rows=st.lists(st.tuples(texts, texts, texts), min_size=1, max_size=5), width=st.integers(1, 100))
def test_no_character_is_lost_and_no_line_is_too_long(rows: list[tuple[str, str, str]], width: int) -> None:
    table = lay_out(("A", "B", "C"), rows, width)
    longest = max(width, 3 * NARROWEST + 2 * len(GAP))
    assert all(display_width(line) <= longest for line in table.rows)
    shown = sorted("".join(table.rows).replace(" ", ""))
    given_characters = sorted(each for row in rows for cell in row for each in cell)
    assert [each for each in shown if not each.isspace()] == [each for each in given_characters if not each.isspace()]


@pytest.mark.parametrize("width", [1, 2, NARROWEST])
def test_a_terminal_too_narrow_for_anything_still_gets_its_table(width: int) -> None:
    assert lay_out(("A", "B"), [("網" * 10, "x" * 30)], width).rows
