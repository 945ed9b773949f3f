"""Home: choose run files and read the verdict. `streamlit run app.py` serves it and the pages.

Streamlit imports this file once for the server around the pages, and runs it for each look at the home page.
"""

import streamlit as st

if __name__ == "__main__":
    from ui.home import home

    home()
else:
    from ui.server import server

    app = st.App(**server(__file__))
