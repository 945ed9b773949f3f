"""The words of the method are those of docs/verdict.md, and every claim finds its line."""

import re

import pytest

from tests.support.source_tree import ROOT
from validation.method.table import (
    BEYOND_THE_TABLE,
    DISTINCT_LINES,
    LINES,
    SUSTAINMENT,
    deciding_line,
    lines_before,
)
from validation.method.terms import TERMS, explain
from validation.verdict.claims import CLAIMS, REFUTED, SUPPORTED, Claim, Reason

PAGE = (ROOT / "docs" / "verdict.md").read_text(encoding="utf-8")


def table(head):
    """Return the rows of the page's table with this head, as cells."""
    rows = PAGE[PAGE.index(f"\n{head}") + 1 :].partition("\n\n")[0].splitlines()[2:]
    return [tuple(cell.strip() for cell in row.strip("|").split(" | ")) for row in rows]


def rows_of(lines, *, numbered):
    """Return the lines as cells of a Markdown table."""
    rows = []
    for number, line in enumerate(lines, 1):
        status = f"**{line.status}**" if line.status in (SUPPORTED, REFUTED) else line.status
        names = ", ".join(f"`{reason.value}`" for reason in line.reasons)
        rows.append((*([str(number)] if numbered else []), names, line.condition, status))
    return rows


def test_the_page_has_the_decision_table_word_for_word():
    assert table("| # | reason |") == rows_of(LINES, numbered=True)


def test_the_page_has_the_table_of_sustainment_word_for_word():
    assert table("| reason | the line applies if") == rows_of(SUSTAINMENT, numbered=False)


def test_the_page_has_the_table_of_distinct_experts_word_for_word():
    assert table("| reason of `distinct` |") == rows_of(DISTINCT_LINES, numbered=False)


def test_the_page_has_the_terms_word_for_word():
    assert table("| word | meaning |") == [*TERMS.items()]


def test_the_page_has_the_sentences_beside_the_tables():
    text = " ".join(PAGE.split())
    assert not [sentence for sentence in BEYOND_THE_TABLE.values() if sentence not in text]


def test_each_reason_has_its_words_once():
    listed = [reason for line in (*LINES, *SUSTAINMENT) for reason in line.reasons]
    of_distinct = [reason for line in DISTINCT_LINES for reason in line.reasons]
    assert len({*of_distinct}) == len(of_distinct)
    assert sorted([*listed, *({*of_distinct} - {*listed}), *BEYOND_THE_TABLE]) == sorted(Reason)


@pytest.mark.parametrize("name", CLAIMS)
def test_the_lines_before_the_deciding_one_are_those_that_the_claim_was_asked(name):
    claim = Claim(name, "inconclusive", "", Reason.TOO_FEW_SEEDS)
    assert deciding_line(claim) == LINES[8]
    assert lines_before(claim) == [*LINES[:8]]


def test_awakening_is_not_asked_what_only_divergence_is():
    before = lines_before(Claim("awakening", "refuted", "", Reason.INSIDE_MARGIN))
    assert not [line for line in before if line.only]
    assert [line for line in lines_before(Claim("divergence", "refuted", "", Reason.INSIDE_MARGIN)) if line.only]


def test_a_reason_beyond_the_table_has_no_line():
    assert deciding_line(Claim("awakening", "refuted", "", Reason.AS_WRITTEN)) is None


def test_a_term_is_one_sentence_that_begins_with_a_capital():
    for term, sentence in TERMS.items():
        assert re.fullmatch(r"[A-Z][^.]*(0\.1 %[^.]*)?\.", sentence), term
    assert explain("twin", "seed").count("\n\n") == 1
