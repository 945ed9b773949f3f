-- The mean norm of the merged gradients of each layer, expert and tier between two steps. `frames.layer_heatmap` must show
-- the same.
SELECT layer, expert, tier, avg(norm) AS norm, count(norm) AS steps
FROM (
    UNPIVOT (
        SELECT layer, expert, step, top_norm AS top, bottom_norm AS bottom, middle_norm AS middle
        FROM layers
        WHERE run = $run AND source = 'merged' AND step BETWEEN $first_step AND $last_step
    )
    ON top, bottom, middle INTO NAME tier VALUE norm
)
GROUP BY layer, expert, tier
ORDER BY layer, expert, tier
