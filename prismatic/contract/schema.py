"""The tables and columns of a run file (dynamics.db): name, SQL type, unit and meaning of each column.

Training writes and judging reads by this file, so it imports the standard library only.

The `dynamics` table is wide, one row per logged step, because the documentation promises that and other writers of
this schema produce it. Its columns of an expert are `expert_{i}_{metric}`, with `metric` from `METRICS`.

Of layers with more than PACKED_ABOVE experts, `dynamics` holds means over the experts of each role, in columns
`role_{role}_{metric}`, and the experts are in `packed_layers` and `packed_pairs`, an array of them in each row.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

APPLICATION_ID = 0x50524953  # "PRIS", in the SQLite header: tells a run file from any other database
SCHEMA_VERSION = 5
MAX_COLUMNS = 1990  # of the wide table: SQLite allows 2000, and one statement binds them all
PACKED_ABOVE = 32  # experts of a layer, above which they are stored as arrays in place of rows and columns
TIERS = ("top", "bottom", "middle")
ROLES = ("clean", "perturbed", "control")
PEER = "peer"  # the role of every expert of a mixture about whose experts nothing is said
SOURCES = ("merged", "isolated")

# The fact `mixture` of a run. It decides what a gradient can show about one expert.
MIXTURES = {
    "parameters": "the experts' parameters are merged, weighted by a router, and the merged block runs",
    "outputs": "every expert runs, and their outputs are mixed, weighted by a router",
    "top_k": "a router sends each token to a few of the experts (hard routing)",
    "separate": "nothing is routed: each expert is trained alone, as adapters or the ingredients of a model soup",
}

EXPERT_COLUMN = re.compile(r"expert_(\d{1,4})_([a-z][a-z_]*)")
ROLE_COLUMN = re.compile(rf"role_({'|'.join((*ROLES, PEER))})_([a-z][a-z_]*)")


@dataclass(frozen=True)
class Column:
    """A column: its SQL type, the unit of its values, and their meaning."""

    name: str
    type: str
    unit: str
    meaning: str


GRADIENT = "loss / weight"
GRADIENT_SQUARED = "(loss / weight)^2"

# Columns of `dynamics` that belong to the step, not to an expert.
STEP_COLUMNS = (
    Column("step", "INTEGER", "optimizer steps", "optimizer steps taken before this row was measured"),
    Column("loss", "REAL", "nats per token", "training loss of the step's batch"),
    Column("learning_rate", "REAL", "1", "learning rate of the first parameter group"),
    Column("nonfinite", "INTEGER", "entries", "gradient entries that are NaN or infinite, all experts and layers"),
    Column("missing_gradients", "INTEGER", "tensors", "expert parameters without any gradient, all experts and layers"),
    Column("nan_values", "INTEGER", "values", "scalars of this row that were NaN, which SQLite stores as NULL"),
    Column("wall_time", "REAL", "seconds since 1970", "when the row was measured"),
)

# Columns of `dynamics` that a callback adds where it reads the routing of layers that it found.
ROUTING_COLUMNS = (
    Column("routing_entropy", "REAL", "1", "entropy of the shares of tokens over log E, mean over layers: 1 is even"),
    Column("routing_violation", "REAL", "1", "(largest share of tokens / an even share) - 1, largest over layers"),
    Column("unused_experts", "REAL", "experts", "experts without a token in this step, all layers"),
)

# Columns of `dynamics` for each expert, means over layers. `clean_norm` of expert 0 is `perturbed_norm` of the others.
METRICS = (
    Column("top_norm", "REAL", GRADIENT, "L2 norm of the gradient of the largest sparsity/2 of the base weights"),
    Column("bottom_norm", "REAL", GRADIENT, "L2 norm of the gradient of the smallest non-zero sparsity/2"),
    Column("middle_norm", "REAL", GRADIENT, "L2 norm of the gradient of all other weights"),
    Column("clean_norm", "REAL", GRADIENT, "L2 norm of the whole gradient of expert 0"),
    Column("perturbed_norm", "REAL", GRADIENT, "L2 norm of the whole gradient of an expert other than 0"),
    Column("routing_weight", "REAL", "1", "the router's mean weight for this expert over the batch"),
    Column("bottom_to_middle", "REAL", "log ratio", "mean over parameter tensors of log(bottom norm / middle norm)"),
    Column("divergence", "REAL", GRADIENT, "mean over tiers of |norm_i - norm_0|, as documented: scales with the loss"),
    Column(
        "relative_divergence",
        "REAL",
        "1",
        "mean over tiers of |n_i/p_i - n_0/p_0| / (n_0/p_0): independent of the share",
    ),
    Column("direction", "REAL", "1 - cosine", "1 - cosine between this expert's gradient and expert 0's, 0 to 2"),
)

# Columns of `dynamics` for each role of large layers, means over its experts of their means over layers.
ROLE_METRICS = (
    *METRICS[:3],
    Column("norm", "REAL", GRADIENT, "L2 norm of the whole gradient"),
    *METRICS[5:],
)

LAYERS_COLUMNS = (
    Column("step", "INTEGER", "optimizer steps", "as in dynamics"),
    Column("layer", "INTEGER", "index", "number of the Prismatic router, in the model's order"),
    Column("expert", "INTEGER", "index", "number of the expert; 0 is clean, unless all are peers"),
    Column("source", "TEXT", "name", "merged: as the optimizer uses it; isolated: routing forced to this expert"),
    Column("top_norm", "REAL", GRADIENT, "as in dynamics, this layer alone"),
    Column("bottom_norm", "REAL", GRADIENT, "as in dynamics, this layer alone"),
    Column("middle_norm", "REAL", GRADIENT, "as in dynamics, this layer alone"),
    Column("norm", "REAL", GRADIENT, "L2 norm of the whole gradient of this expert in this layer"),
    Column("routing_weight", "REAL", "1", "as in dynamics, this layer alone"),
    Column("gradient_cosine", "REAL", "cosine", "cosine between this expert's gradient and expert 0's"),
    Column("bottom_to_middle", "REAL", "log ratio", "as in dynamics, this layer alone"),
    Column("divergence", "REAL", GRADIENT, "as in dynamics, this layer alone; NULL for expert 0"),
    Column("relative_divergence", "REAL", "1", "as in dynamics, this layer alone; NULL for expert 0"),
    Column("nonfinite", "INTEGER", "entries", "gradient entries that are NaN or infinite"),
    Column("missing_gradients", "INTEGER", "tensors", "trained parameters without any gradient"),
    Column("half_product", "REAL", GRADIENT_SQUARED, "product of this expert's isolated gradients on two half batches"),
    Column("half_product_clean", "REAL", GRADIENT_SQUARED, "the same with expert 0 on the other half; NULL for it"),
    Column("weight_cosine", "REAL", "cosine", "cosine between this expert's weights and expert 0's; every weight_freq"),
    Column("weight_distance", "REAL", "1", "|w - w_0| / |w_0| of the weights; every weight_freq"),
    Column("token_share", "REAL", "1", "the share of the router's choices of tokens that this expert got"),
)

PAIRS_COLUMNS = (
    Column("step", "INTEGER", "optimizer steps", "as in dynamics; only steps of the isolated probe"),
    Column("layer", "INTEGER", "index", "as in layers"),
    Column("expert", "INTEGER", "index", "number of one expert"),
    Column("other", "INTEGER", "index", "number of the other expert; the larger one"),
    Column("half_product", "REAL", GRADIENT_SQUARED, "product of the two isolated gradients on different half batches"),
    Column("weight_distance", "REAL", "1", "|w_e - w_f| / sqrt((|w_e|^2 + |w_f|^2) / 2) of the weights"),
    Column("output_distance", "REAL", "1 - cosine", "between the layer's outputs by each alone, mean over tokens"),
)

_ARRAY = "BLOB: little-endian float32 for each expert, NaN for NULL; as in layers"
PACKED_LAYERS_COLUMNS = (
    *LAYERS_COLUMNS[:2],
    LAYERS_COLUMNS[3],
    Column("experts", "INTEGER", "experts", "number of experts of the layer, which is the length of each array"),
    *(Column(column.name, "BLOB", column.unit, _ARRAY) for column in LAYERS_COLUMNS[4:]),
)

_PAIR_ARRAY = "BLOB: little-endian float32 for each pair, NaN for NULL; as in pairs"
PACKED_PAIRS_COLUMNS = (
    *PAIRS_COLUMNS[:2],
    Column("pairs", "INTEGER", "pairs", "number of compared pairs of experts, which is the length of each array"),
    *(Column(column.name, "BLOB", column.unit, _PAIR_ARRAY) for column in PAIRS_COLUMNS[2:]),
)

EXPERTS_COLUMNS = (
    Column("expert", "INTEGER", "index", "number of the expert"),
    Column("role", "TEXT", "name", "clean, perturbed, control (perturbed by a negligible amount); peer, then all are"),
    Column("seed", "INTEGER", "seed", "seed of the perturbation's noise; NULL for the clean expert"),
    Column(
        "scale", "REAL", "share of |weight|", "largest change of a weight; NULL where it is no such share (upcycling)"
    ),
    Column("changed_top", "REAL", "share of tier", "share of the top tier's weights that were changed"),
    Column("changed_bottom", "REAL", "share of tier", "the same for the bottom tier"),
    Column("changed_middle", "REAL", "share of tier", "the same for the middle tier"),
)

TIERS_COLUMNS = (
    Column("layer", "INTEGER", "index", "number of the Prismatic router"),
    Column("tier", "TEXT", "name", "top, bottom or middle"),
    Column("weights", "INTEGER", "weights", "number of weights of one expert in this tier"),
    Column("hash", "TEXT", "sha256, 16 hex digits", "of the index set: equal in two runs that share their tiers"),
)

HISTOGRAMS_COLUMNS = (
    Column("step", "INTEGER", "optimizer steps", "as in dynamics"),
    Column("layer", "INTEGER", "index", "number of the Prismatic router"),
    Column("expert", "INTEGER", "index", "number of the expert"),
    Column("tier", "TEXT", "name", "top, bottom or middle"),
    Column("bin", "INTEGER", "log2", "entries with 2^bin <= |gradient| < 2^(bin + 1)"),
    Column("count", "INTEGER", "entries", "number of entries; an empty bin has no row"),
)

SCALARS_COLUMNS = (
    Column("step", "INTEGER", "optimizer steps", "as in dynamics"),
    Column("name", "TEXT", "name", "a scalar for which dynamics has no column left: SQLite allows 2000"),
    Column("value", "REAL", "as the name says", "the value of that column"),
)

RUN_COLUMNS = (
    Column("key", "TEXT", "name", "config.NAME or option.NAME for every option, and facts about the run"),
    Column("value", "TEXT", "JSON", "a JSON scalar or list; `checksums` is an object of hashes by table and column"),
)

EVENTS_COLUMNS = (
    Column("id", "INTEGER", "index", "order of the events"),
    Column("step", "INTEGER", "optimizer steps", "NULL if the event belongs to no step"),
    Column("wall_time", "REAL", "seconds since 1970", "when it happened"),
    Column("level", "TEXT", "name", "info, warning or error"),
    Column("code", "TEXT", "name", "kind of event; these names do not change"),
    Column("message", "TEXT", "sentence", "what happened"),
)

# Every table but `dynamics`, whose columns depend on the number of experts: (columns, primary key).
TABLES = {
    "layers": (LAYERS_COLUMNS, ("step", "layer", "expert", "source")),
    "packed_layers": (PACKED_LAYERS_COLUMNS, ("step", "layer", "source")),
    "pairs": (PAIRS_COLUMNS, ("step", "layer", "expert", "other")),
    "packed_pairs": (PACKED_PAIRS_COLUMNS, ("step", "layer")),
    "histograms": (HISTOGRAMS_COLUMNS, ("step", "layer", "expert", "tier", "bin")),
    "scalars": (SCALARS_COLUMNS, ("step", "name")),
    "experts": (EXPERTS_COLUMNS, ("expert",)),
    "tiers": (TIERS_COLUMNS, ("layer", "tier")),
    "run": (RUN_COLUMNS, ("key",)),
    "events": (EVENTS_COLUMNS, ("id",)),
}
PACKED_TABLES = {"layers": "packed_layers", "pairs": "packed_pairs"}
"""The packed form of tables with a row for each expert or pair; see `packing`."""

SIDE_TABLES = (
    *("run", "experts", "tiers", "events", "scalars"),
    *("layers", "packed_layers", "pairs", "packed_pairs", "histograms"),
)
"""Every table but `dynamics`, in the order of reading: the largest come last and cannot use up the others' time."""

# Each row belongs to a step.
STEP_TABLES = ("dynamics", "layers", "packed_layers", "pairs", "packed_pairs", "histograms", "scalars")


def expert_metrics(expert: int) -> list[Column]:
    """Return the metrics of an expert: expert 0 has no divergence from itself."""
    absent = {"clean_norm"} if expert else {"perturbed_norm", "divergence", "relative_divergence", "direction"}
    return [metric for metric in METRICS if metric.name not in absent]


def dynamics_columns(num_experts: int) -> list[Column]:
    """Return the columns of the wide table for a model with `num_experts` experts, in order."""
    per_expert = [
        Column(f"expert_{i}_{metric.name}", metric.type, metric.unit, metric.meaning)
        for i in range(num_experts)
        for metric in expert_metrics(i)
    ]
    return [STEP_COLUMNS[0], *per_expert, *STEP_COLUMNS[1:]]


def wide_experts(num_experts: int) -> int:
    """Return the number of experts with columns of their own in the wide table: all, or none of many."""
    return num_experts if num_experts <= PACKED_ABOVE else 0


def role_columns() -> list[Column]:
    """Return the columns of the wide table for the roles of large layers; clean experts and peers are not compared."""
    compared = {"divergence", "relative_divergence", "direction"}
    return [
        Column(
            f"role_{role}_{metric.name}",
            metric.type,
            metric.unit,
            f"mean over its experts and the layers: {metric.meaning}",
        )
        for role in (*ROLES, PEER)
        for metric in ROLE_METRICS
        if role not in ("clean", PEER) or metric.name not in compared
    ]


def create_statements(num_experts: int) -> list[str]:
    """Return the SQL that makes every table that does not exist yet."""

    def create(table: str, columns: list[Column], key: tuple[str, ...]) -> str:
        body = ", ".join(f"{c.name} {c.type}" for c in columns)
        return f"CREATE TABLE IF NOT EXISTS {table} ({body}, PRIMARY KEY ({', '.join(key)}))"

    return [
        create("dynamics", dynamics_columns(num_experts), ("step",)),
        *(create(table, list(columns), key) for table, (columns, key) in TABLES.items()),
    ]


def describe() -> str:
    """Return the schema as text, a table of columns for each table, as `prismatic schema` prints it."""
    sections = [
        ("dynamics (expert_1 stands for each expert except 0)", dynamics_columns(2)),
        ("dynamics, of layers whose routing a callback reads", list(ROUTING_COLUMNS)),
    ]
    sections += [(f"dynamics of layers with more than {PACKED_ABOVE} experts has, in their place", role_columns())]
    sections += [(table, list(columns)) for table, (columns, _) in TABLES.items()]
    lines = [f"dynamics.db, schema version {SCHEMA_VERSION} (application_id {APPLICATION_ID:#x})"]
    for title, columns in sections:
        lines += ["", title, *(f"  {c.name:<28} {c.type:<8} {c.unit:<22} {c.meaning}" for c in columns)]
    return "\n".join(lines)
