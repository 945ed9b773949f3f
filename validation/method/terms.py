"""The terms that pages and docs use, each in one plain sentence. docs/verdict.md has the same table of words."""

from __future__ import annotations

TERMS = {
    "clean expert": "Expert 0, the untouched original; directions are measured from its gradient.",
    "perturbed expert": "A copy of the clean expert, perturbed by up to 100 %.",
    "control expert": "A copy of the clean expert, perturbed by at most 0.1 %: it shows what copies do by chance.",
    "peer": "An expert of a mixture found by its structure, if nobody said which of its experts are perturbed.",
    "tier": "A part of each weight tensor of an expert: the largest (top), the smallest (bottom), the others (middle).",
    "share": "The part of the mixture that the router gives to an expert; its merged gradient grows with it.",
    "merged gradient": "The gradient that the optimizer uses: each expert's is multiplied by its share.",
    "isolated gradient": "The gradient of one expert alone on the same batch, without the router.",
    "probe": "The measurement of isolated gradients, every `probe_freq` steps.",
    "seed": "The random numbers of one training; runs that differ only in the seed repeat the experiment.",
    "sham run": "A training in which nothing was perturbed: it shows how far experts differ by chance.",
    "twin": "The sham run with the options and the seed of another run; its difference is subtracted.",
    "positive control": "A run whose effect was put in by hand, to test that the method finds it.",
    "premise": "The bottom weights are dormant at first, so that a perturbation could awaken them.",
    "awakening": "The bottom weights of perturbed experts receive larger gradients than those of control experts.",
    "divergence": "The gradients of perturbed experts differ in size or direction from those of control experts.",
    "sustainment": "At least half of an effect of the first third of the training is left in the last third.",
    "distinct": "On the same batch the gradients of each two experts differ in direction, on average over all pairs.",
    "margin": "The smallest effect that counts, fixed before the training begins.",
    "interval": "The range that holds the true effect in 95 of 100 experiments, by Student's t.",
}


def explain(*terms: str) -> str:
    """Return the terms with their sentences as Markdown, for a tooltip."""
    return "\n\n".join(f"**{term.capitalize()}**: {TERMS[term]}" for term in terms)
