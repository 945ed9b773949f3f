"""The choice of a claim, which stays the same in the views of Compare that ask for one."""

import streamlit as st

from validation.judgement.judge import Judgement
from validation.verdict.claims import DISTINCT
from validation.verdict.groups import PEERS


def choose_claim(judgement: Judgement) -> str:
    """Return the claim to show: awakening or divergence; of peers, that they are distinct."""
    if all(group.role == PEERS for group in judgement.verdict.groups):
        return DISTINCT
    chosen: str = st.segmented_control(
        "Claim",
        ["Awakening", "Divergence"],
        default="Awakening",
        required=True,
        key="claim",
        bind="query-params",
    )
    return chosen.lower()
