"""The Streamlit app: widgets, session, layout and sections of pages; app.py and pages/ put them together."""
