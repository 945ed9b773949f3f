"""Home: choose run files and read the verdict. `streamlit run app.py` serves it and the pages.

Streamlit imports this file once for the server around the pages, and runs it for each look at the home page.
"""

import streamlit as st

if __name__ == "__main__":
    from ui.layout.frame import frame

    frame("Home")
    st.title("Did perturbation change what the experts learn?")
    st.caption(
        "Prismatic reads the gradient dynamics of a training run and judges three claims, awakening, divergence and "
        "sustainment, beyond what routing alone would show."
    )
    from ui.sections.home import home  # after the first words: it needs all that reads, judges and draws

    home()
else:
    from ui.server import app_options

    app = st.App(**app_options(__file__))
