-- How evenly the router of one layer, or those of all layers, sent tokens, in windows of logged steps as in routing_load.
WITH placed AS (
    SELECT *, dense_rank() OVER (ORDER BY step) - 1 AS place
    FROM routing
    WHERE run = $run AND ($layer::BIGINT IS NULL OR layer = $layer)
),
windowed AS (
    SELECT *, place * $windows // greatest($windows, (SELECT max(place) + 1 FROM placed)) AS frame FROM placed
)
SELECT min(step) AS step, max(step) AS last_step, avg(entropy) AS entropy, avg(violation) AS violation,
       sum(unused)::DOUBLE / count(DISTINCT step) AS unused
FROM windowed
GROUP BY frame
ORDER BY frame
