"""The app's entry point and home page: `streamlit run app.py`, or `prismatic app`.

Streamlit imports this file once to start the server, and runs it as a script for each visit of the home page.
"""

import streamlit as st

if __name__ == "__main__":
    from ui.layout.frame import frame

    frame("Home")
    st.title("Do the experts learn differently?")
    st.caption(
        "Prismatic judges it from the gradients of your runs: whether experts that were perturbed at the start learn "
        "differently from unperturbed copies, and go on doing so, or whether the experts of any other mixture differ."
    )
    from ui.sections.home import home  # after the first words: this import loads what reads, judges and draws

    home()
else:
    from ui.server import app_options

    app = st.App(**app_options(__file__))
