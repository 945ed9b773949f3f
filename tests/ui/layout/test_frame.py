"""The login: a session that is not logged in sees no run and no page."""

import pytest
from streamlit.testing.v1 import AppTest

from tests.support.app_pages import ROOT
from ui.layout.frame import PAGES
from ui.session.library import Library, Source

AUTH = {"redirect_uri": "http://127.0.0.1/oauth2callback", "cookie_secret": "not one", "client_id": "prismatic"}


@pytest.mark.parametrize("page", PAGES)
def test_who_is_not_logged_in_sees_no_run_and_no_page(page):
    at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=30)
    at.secrets["auth"] = AUTH
    at.session_state["library"] = Library([Source(ROOT / "examples" / "as-is.db", "as-is")])
    at.run()
    if page != "app.py":
        at.switch_page(page).run()
    assert not at.exception
    assert [button.label for button in at.button] == ["Log in"]
    assert not at.get("page_link")
    assert not at.get("vega_lite_chart")
    assert "07bfa2d26" not in " ".join(str(element.value) for element in (*at.markdown, *at.caption, *at.subheader))


def test_without_a_login_nobody_is_asked():
    at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=30).run()
    assert "Log in" not in [button.label for button in at.button]
