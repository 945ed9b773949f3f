"""Sentences about each page, shown on request beside its title, and the option that logs histograms."""

HISTOGRAM_FREQ = "histogram_freq=100"
LOG_HISTOGRAMS = f"--set {HISTOGRAM_FREQ}"
"""The option of `prismatic train` that logs histograms of gradient entries."""
ABOUT = {
    "Dynamics": "Gradient norms of each expert over the steps: blue is the clean expert, red and orange are perturbed "
    "ones, grey are control experts. Experts without roles have a colour each.",
    "Verdict": "The evidence behind each claim, with its interval and threshold: perturbed experts compared with the "
    "control, or experts without roles with each other.",
    "Layers": "Gradients of each layer beside those of expert 0: orange is larger, blue is smaller.",
    "Compare": "Runs beside each other. Runs that differ only in the seed form a group; a decision needs six seeds.",
    "Diagnostics": "Faults of the data, each with what to change. An error makes a run invalid, a warning does not.",
    "Runs": "What the files record about their runs, and your own questions in SQL.",
}
