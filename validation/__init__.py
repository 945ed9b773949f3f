"""Judge run files: read what is untrusted, estimate with intervals, decide with reasons. No torch, no streamlit."""
