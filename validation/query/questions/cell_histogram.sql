-- The distribution of gradient magnitudes of one expert, layer and tier over time: the share of the entries in each bin
-- (2^bin <= |gradient| < 2^(bin + 1)), in at most $windows windows with the same number of logged steps.
WITH counted AS (
    SELECT step, bin, count, dense_rank() OVER (ORDER BY step) - 1 AS place
    FROM histograms
    WHERE run = $run AND layer = $layer AND expert = $expert AND tier = $tier
),
windowed AS (
    SELECT step, bin, count, place * $windows // greatest($windows, (SELECT max(place) + 1 FROM counted)) AS frame
    FROM counted
),
spanned AS (SELECT *, min(step) OVER f AS first_step, max(step) OVER f AS last_step FROM windowed WINDOW f AS (PARTITION BY frame))
SELECT first_step AS step, last_step, bin,
       sum(count)::DOUBLE / sum(sum(count)) OVER (PARTITION BY first_step) AS share
FROM spanned
GROUP BY first_step, last_step, bin
ORDER BY first_step, bin
