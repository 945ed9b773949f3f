"""What the pages share: the shell around a page, and the pieces that several pages show. Only streamlit lives here."""
