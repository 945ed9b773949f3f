"""Escaping for Streamlit's markdown keeps every character."""

import html

from ui.widgets.markdown import escape_markdown


def test_our_own_sentences_keep_every_character():
    sentence = "train with --set merge=example control_experts=1 [0.98, 1.00] (see *this*)"
    assert html.unescape(escape_markdown(sentence)) == sentence
    assert not set("_[]()*=") & set(escape_markdown(sentence))


def test_an_address_is_broken_where_it_would_become_a_link():
    shown = html.unescape(escape_markdown("see http://a.example, WWW.a.example and a@b.example; 3 @ 4 and awww"))
    for address in ("http:", "WWW.", "@b"):
        assert address not in shown
    assert shown.replace("\u2060", "").endswith("a@b.example; 3 @ 4 and awww")
    assert shown.count("\u2060") == 3
