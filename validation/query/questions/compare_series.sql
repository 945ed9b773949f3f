-- The series of each run for comparison, in at most $points windows of steps: means over the window's steps and over the
-- run's perturbed experts, or its peers but the first. If $shared, all runs have the same windows, so that seeds can be averaged.
WITH chosen AS (
    SELECT run, step, expert, role, bottom_norm, divergence, direction, routing_weight, loss
    FROM dynamics
    WHERE run IN (SELECT unnest($runs))
),
axes AS (
    SELECT run,
           CASE WHEN $shared THEN min(min(step)) OVER () ELSE min(step) END AS first_step,
           CASE WHEN $shared THEN max(max(step)) OVER () ELSE max(step) END AS last_step
    FROM chosen
    GROUP BY run
),
compared AS (
    SELECT run, step,
           avg(CASE WHEN own.bottom_norm > 0 AND clean.bottom_norm > 0
               THEN ln(own.bottom_norm / clean.bottom_norm) END) AS bottom,
           avg(own.divergence) AS divergence,
           avg(own.direction) AS direction,
           avg(own.routing_weight) AS routing,
           any_value(clean.loss) AS loss
    FROM chosen AS own JOIN chosen AS clean USING (run, step)
    WHERE own.role IN ('perturbed', 'peer') AND own.expert <> 0 AND clean.expert = 0
    GROUP BY run, step
)
SELECT run, ((step - first_step) * $points) // (last_step - first_step + 1) AS place,
       any_value(first_step) + (place + 0.5) * any_value(last_step - first_step + 1) / $points AS middle,
       avg(bottom) AS bottom, avg(divergence) AS divergence, avg(direction) AS direction,
       avg(routing) AS routing, avg(loss) AS loss
FROM compared JOIN axes USING (run)
GROUP BY run, place
ORDER BY run, place
