-- Every metric of one run as long rows: all rows up to $points per series; beyond that the smallest and the largest value
-- of each bucket, at their steps. Missing values stay, as NULL. `frames.downsample.chart_series` must return the same.
-- Aggregate wide first and unpivot afterwards: with many rows the other order takes longer.
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
wide AS (
    SELECT expert, role, min(step) AS first_step,
           {'low': min(top_norm), 'low_step': arg_min(step, top_norm),
            'high': max(top_norm), 'high_step': arg_max(step, top_norm)} AS top_norm,
           {'low': min(bottom_norm), 'low_step': arg_min(step, bottom_norm),
            'high': max(bottom_norm), 'high_step': arg_max(step, bottom_norm)} AS bottom_norm,
           {'low': min(middle_norm), 'low_step': arg_min(step, middle_norm),
            'high': max(middle_norm), 'high_step': arg_max(step, middle_norm)} AS middle_norm,
           {'low': min(norm), 'low_step': arg_min(step, norm),
            'high': max(norm), 'high_step': arg_max(step, norm)} AS norm,
           {'low': min(routing_weight), 'low_step': arg_min(step, routing_weight),
            'high': max(routing_weight), 'high_step': arg_max(step, routing_weight)} AS routing_weight,
           {'low': min(divergence), 'low_step': arg_min(step, divergence),
            'high': max(divergence), 'high_step': arg_max(step, divergence)} AS divergence,
           {'low': min(relative_divergence), 'low_step': arg_min(step, relative_divergence),
            'high': max(relative_divergence), 'high_step': arg_max(step, relative_divergence)} AS relative_divergence,
           {'low': min(direction), 'low_step': arg_min(step, direction),
            'high': max(direction), 'high_step': arg_max(step, direction)} AS direction
    FROM bucketed
    GROUP BY expert, role, bucket
),
long AS (
    SELECT * FROM wide UNPIVOT INCLUDE NULLS (
        extreme FOR metric IN (
            top_norm, bottom_norm, middle_norm, norm, routing_weight, divergence, relative_divergence, direction
        )
    )
)
SELECT expert, role, metric, coalesce(extreme.low_step, first_step) AS step, extreme.low AS value FROM long
UNION
SELECT expert, role, metric, coalesce(extreme.high_step, first_step) AS step, extreme.high AS value FROM long
ORDER BY expert, metric, step
