-- Of each run and expert: how many rows, and the medians of its norms and of its routing share.
SELECT run, expert, role, count(*) AS steps,
       median(top_norm) AS top_norm, median(bottom_norm) AS bottom_norm, median(middle_norm) AS middle_norm,
       median(norm) AS norm, median(routing_weight) AS routing_weight
FROM dynamics
GROUP BY run, expert, role
ORDER BY run, expert
