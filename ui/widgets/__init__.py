"""Streamlit widgets that know nothing of the session."""
