"""The choice of a claim, which stays the same in the views of Compare that ask for one."""

import streamlit as st


def choose_claim() -> str:
    """Return the claim to show: awakening or divergence."""
    chosen: str = st.segmented_control(
        "Claim",
        ["Awakening", "Divergence"],
        default="Awakening",
        required=True,
        key="claim",
        bind="query-params",
    )
    return chosen.lower()
