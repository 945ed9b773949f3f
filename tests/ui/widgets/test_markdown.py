"""Escaping for Streamlit's markdown keeps every character."""

import html

from ui.widgets.markdown import escape_markdown


def test_our_own_sentences_keep_every_character():
    sentence = "train with --set merge=example control_experts=1 [0.98, 1.00] (see *this*)"
    assert html.unescape(escape_markdown(sentence)) == sentence
    assert not set("_[]()*=") & set(escape_markdown(sentence))
