-- A row for each run, in the order in which the runs were chosen.
SELECT run, name AS file, steps, last_step, experts, seed, perturbation_scale, sparsity, merge, routing
FROM runs
ORDER BY rowid
