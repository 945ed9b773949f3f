"""The commands that train the runs that a view of the Compare page lacks."""

from __future__ import annotations

import streamlit as st

from ui.layout.glance import next_step
from ui.session.catalog import examples
from ui.session.library import library
from ui.widgets.placeholder import placeholder
from validation.judgement.glance import step_of
from validation.judgement.judge import Judgement
from validation.verdict.claims import INVALID

SEEDS = "seed=0..5 --with-controls"
DOSES = "perturbation_scale=0,0.5,1,2 seed=0..2"
FACTS = """callback.attach(model, optimizer, seed=1, perturbation_scale=0.5)
prismatic import ... --set seed=1 perturbation_scale=0.5"""


def too_few_runs(judgement: Judgement) -> None:
    """Show what would be here, the study among the examples, and how to train more runs, if there is only one."""
    if any(run.peers for run in judgement.runs):
        st.info("Compare needs at least two runs. Six seeds can decide whether the experts are distinct.")
        st.page_link("app.py", label="Choose more files on the home page")
        return
    st.info("Compare needs at least two runs. Six seeds with their sham runs can decide.")
    placeholder("Compare")
    study = next((entry for entry in examples() if entry.path.is_dir()), None)
    if study and st.button("Show the example study", key="show-study", help="24 runs, in place of the chosen run"):
        library().sources = [study.source]
        st.rerun()
    steps = [step_of(advice, judgement, portable=True) for advice in judgement.advice]
    step = next((step for step in steps if " sweep " in step.command), None)
    if judgement.verdict.status == INVALID and steps:  # more runs of it would carry no verdict either
        next_step(steps[0])
    elif step is not None:
        next_step(step)
    else:
        st.caption(
            "Train more seeds, and sham runs, in which nothing is perturbed, then choose all their files on Home:"
        )
        how_to_train(judgement, SEEDS)
    st.page_link("app.py", label="Choose more files on the home page")


def how_to_train(judgement: Judgement, grid: str) -> None:
    """Show the command that trains a sweep, or the facts that runs of other trainers must record."""
    if any(run.by_trainer for run in judgement.runs):
        line = f"prismatic sweep --config experiments/per-example.yml --grid {grid}"
        st.code(line, language=None, wrap_lines=True)
    else:
        st.caption(
            "Each run must record its seed and scale as the facts seed and perturbation_scale; its other "
            "options define its group. Record them in your own loop, or when you import runs of a tracker:"
        )
        st.code(FACTS, language=None, wrap_lines=True)
