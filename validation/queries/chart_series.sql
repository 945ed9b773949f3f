-- Every metric of one run as long rows for a chart: all rows up to $points per series, beyond that the smallest and the
-- largest value of each bucket at the steps where they were, so that no spike is lost. Missing values stay, as NULL.
WITH numbered AS (
    SELECT *,
           row_number() OVER (PARTITION BY expert ORDER BY step) - 1 AS place,
           count(*) OVER (PARTITION BY expert) AS places
    FROM dynamics
    WHERE run = $run
),
bucketed AS (
    SELECT * EXCLUDE (place, places),
           CASE WHEN places > $points THEN place * ($points // 2) // places ELSE place END AS bucket
    FROM numbered
),
long AS (
    SELECT * FROM bucketed UNPIVOT INCLUDE NULLS (
        value FOR metric IN (
            top_norm, bottom_norm, middle_norm, norm, routing_weight, divergence, relative_divergence, direction
        )
    )
),
extremes AS (
    SELECT expert, role, metric, bucket,
           min(step) AS first_step,
           arg_min(step, value) AS low_step, min(value) AS low,
           arg_max(step, value) AS high_step, max(value) AS high
    FROM long
    GROUP BY ALL
)
SELECT expert, role, metric, coalesce(low_step, first_step) AS step, low AS value FROM extremes
UNION
SELECT expert, role, metric, coalesce(high_step, first_step) AS step, high AS value FROM extremes
ORDER BY expert, metric, step
