"""Forgeries of experts: their roles, their numbers, and the layers in which they are shown."""

from __future__ import annotations

from pathlib import Path

from tests.validation.forgeries.forging import (
    CONTRAST,
    LEVELS,
    Study,
    columns_of,
    each,
    forgery,
    listed,
    of_role,
    opened,
    raise_bottom,
    sql,
)

PERTURBED = "expert IN (SELECT expert FROM experts WHERE role = 'perturbed')"


def levels(path: Path, source: str = "isolated") -> dict[int, float]:
    """Return the mean bottom level of each expert."""
    query = f"SELECT expert, avg({LEVELS['bottom']}) FROM layers WHERE source = ? GROUP BY expert"
    with opened(path) as db:
        return dict(db.execute(query, (source,)))


def highest_control(path: Path) -> int:
    """Return the control expert of the largest bottom level."""
    return max(of_role(path, "control"), key=levels(path).__getitem__)


@forgery("the probe rows of one control removed, the highest", "incomplete_layers", base="spread")
def control_not_probed(study: Study) -> None:
    for path in study.runs:
        sql(path, f"DELETE FROM layers WHERE source = 'isolated' AND expert = {highest_control(path)}")


@forgery("the rows of one control removed, the highest", "missing_experts", base="spread")
def control_not_logged(study: Study) -> None:
    for path in study.runs:
        control = highest_control(path)
        with opened(path) as db:
            emptied = ", ".join(f"{name} = NULL" for name in columns_of(db, control))
            db.execute(f"UPDATE dynamics SET {emptied}")
            db.execute(f"DELETE FROM layers WHERE expert = {control}")


@forgery("one control removed whole, the highest", "missing_experts", base="spread")
def control_removed(study: Study) -> None:
    for path in study.runs:
        control = highest_control(path)
        with opened(path) as db:
            for name in columns_of(db, control):
                db.execute(f"ALTER TABLE dynamics DROP COLUMN {name}")
            for table in ("layers", "experts"):
                db.execute(f"DELETE FROM {table} WHERE expert = {control}")


@forgery("the clean expert logged twice, as a control", "not_a_control", base="null", effect="direction")
def clean_as_control(study: Study) -> None:
    each(study.runs, lambda path: _clean_as_controls(path, 0))


@forgery(
    "the clean expert logged twice, as a control, with a little noise", "not_a_control", base="null", effect="direction"
)
def noisy_clean_as_control(study: Study) -> None:
    each(study.runs, lambda path: _clean_as_controls(path, 0.002))


def _clean_as_controls(path: Path, noise: float) -> None:
    """Overwrite every control with the clean expert, its numbers changed by about this share."""
    names = ("top_norm", "bottom_norm", "middle_norm", "norm", "bottom_to_middle", "half_product")
    changes = [f"{name} = clean.{name} * (1 + {noise} * gauss())" for name in names]
    changes += ["half_product_clean = clean.half_product", "gradient_cosine = 1"]
    same_row = "clean.step = layers.step AND clean.layer = layers.layer AND clean.source = layers.source"
    controls = listed(of_role(path, "control"))
    sql(
        path,
        f"UPDATE layers SET {', '.join(changes)} FROM layers AS clean "
        f"WHERE {same_row} AND clean.expert = 0 AND layers.expert IN ({controls})",
    )


@forgery("a control that gets no token", "not_a_control", base="spread")
def dead_control(study: Study) -> None:
    for path in study.runs:
        control = highest_control(path)
        raise_bottom(path, 0.5, [control])
        sql(
            path,
            f"UPDATE layers SET routing_weight = 0 WHERE expert = {control} AND source = 'merged' AND step > 120",
            f"UPDATE dynamics SET expert_{control}_routing_weight = 0 WHERE step > 120",
        )


@forgery("a control that was perturbed, so that its gradients are small", "not_a_control")
def perturbed_control(study: Study) -> None:
    for path in study.runs:
        control = highest_control(path)
        raise_bottom(path, 0.4, [control])
        sql(path, f"UPDATE experts SET scale = 1 WHERE expert = {control}")


@forgery("the roles exchanged by value after the fact", "not_a_control", "facts_disagree", base="spread")
def roles_exchanged(study: Study) -> None:
    each(study.runs, lambda path: _exchange_roles(path, "role"))


@forgery(
    "the roles exchanged by value after the fact, with the scales of the perturbation", "facts_disagree", base="spread"
)
def roles_and_scales_exchanged(study: Study) -> None:
    each(study.runs, lambda path: _exchange_roles(path, "role, scale, changed_top, changed_bottom, changed_middle"))


def _exchange_roles(path: Path, columns: str) -> None:
    """Call the three experts of the largest gain perturbed, and the others controls."""
    of = levels(path)
    ranked = sorted((expert for expert in of if expert), key=lambda expert: -of[expert])
    true = [*of_role(path, "perturbed"), *of_role(path, "control")]
    with opened(path) as db:
        rows = {e: db.execute(f"SELECT {columns} FROM experts WHERE expert = ?", (e,)).fetchone() for e in true}
        marks = ", ".join(f"{name} = ?" for name in columns.split(", "))
        for expert, model in zip(ranked, true, strict=True):
            db.execute(f"UPDATE experts SET {marks} WHERE expert = ?", (*rows[model], expert))


@forgery("bottom_to_middle of perturbed experts multiplied", "tiers_disagree")
def ratio_raised(study: Study) -> None:
    raised = f"UPDATE layers SET bottom_to_middle = bottom_to_middle + ln(1.3) WHERE {PERTURBED}"
    each(study.runs, lambda path: sql(path, raised))


@forgery("bottom norms of perturbed experts multiplied, where no ratio is logged", "tiers_disagree", base="no ratio")
def bottom_raised(study: Study) -> None:
    each(study.runs, lambda path: sql(path, f"UPDATE layers SET bottom_norm = bottom_norm * 1.4 WHERE {PERTURBED}"))


@forgery("one layer removed, that of the smallest gain", "missing_layers", base="spread")
def layer_removed(study: Study) -> None:
    for path in study.runs:
        with opened(path) as db:
            by_layer = "layers JOIN experts USING (expert) WHERE source = 'isolated' GROUP BY layer"
            query = f"SELECT layer FROM {by_layer} ORDER BY {CONTRAST.format(LEVELS['bottom'])}"
            db.execute("DELETE FROM layers WHERE layer = ?", db.execute(query).fetchone())


@forgery("the layers removed, so that only their means are left", "means_only", "means_over_layers", base="no probe")
def means_alone(study: Study) -> None:
    for path in study.runs:
        raise_bottom(path, 1.3, of_role(path, "perturbed"))
        sql(path, "DELETE FROM layers")


@forgery(
    "equal shares written where the router preferred perturbed experts",
    "constant_shares",
    base="no probe",
    effect="share",
)
def shares_equal(study: Study) -> None:
    for path in study.runs:
        experts = levels(path, "merged")
        wide = ", ".join(f"expert_{e}_routing_weight = {1 / len(experts)}" for e in experts)
        sql(path, f"UPDATE layers SET routing_weight = {1 / len(experts)}", f"UPDATE dynamics SET {wide}")


@forgery("norms of perturbed experts multiplied, half-batch products left", "inside_margin", base="null", effect="size")
def norms_scaled(study: Study) -> None:
    scaled = ", ".join(f"{name} = {name} * 1.3" for name in ("top_norm", "bottom_norm", "middle_norm", "norm"))
    each(study.runs, lambda path: sql(path, f"UPDATE layers SET {scaled} WHERE {PERTURBED}"))
