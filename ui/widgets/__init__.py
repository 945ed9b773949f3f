"""Streamlit widgets that need no session: charts, tables, markdown, fragments, memo and placeholders."""
