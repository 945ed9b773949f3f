-- Where the router has gone: of each run and expert the mean share in the first and in the last tenth of its rows, and
-- the first step from which on the share never left [$low, $high] again, that is, from which the router is collapsed.
WITH numbered AS (
    SELECT run, expert, step, routing_weight,
           row_number() OVER (PARTITION BY run, expert ORDER BY step) AS place,
           count(*) OVER (PARTITION BY run, expert) AS places
    FROM dynamics
    WHERE routing_weight IS NOT NULL
),
inside AS (
    SELECT run, expert, max(step) FILTER (WHERE routing_weight BETWEEN $low AND $high) AS last_inside
    FROM numbered
    GROUP BY run, expert
)
SELECT run, expert,
       avg(routing_weight) FILTER (WHERE place <= greatest(1, places // 10)) AS first_share,
       avg(routing_weight) FILTER (WHERE place > places - greatest(1, places // 10)) AS last_share,
       min(step) FILTER (WHERE last_inside IS NULL OR step > last_inside) AS collapsed_at
FROM numbered JOIN inside USING (run, expert)
GROUP BY run, expert
ORDER BY run, expert
