"""Judge run files: read what is untrusted, estimate with intervals, decide with reasons. Free of torch and streamlit."""
