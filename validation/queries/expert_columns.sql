-- Every column of every expert of one run, in the order in which the series are taken from them.
SELECT step, expert, role, top_norm, bottom_norm, middle_norm, norm, routing_weight, bottom_to_middle,
       divergence, relative_divergence, direction
FROM dynamics
WHERE run = $run
ORDER BY expert, step
