-- Every column of every expert of every layer of one run, measured one way (merged or isolated).
SELECT layer, expert, step, top_norm, bottom_norm, middle_norm, norm, routing_weight, bottom_to_middle,
       divergence, relative_divergence, 1 - gradient_cosine AS direction,
       noise_direction
FROM layers
WHERE run = $run AND source = $source
ORDER BY layer, expert, step
