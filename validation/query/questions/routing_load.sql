-- The load of each expert: its share of the tokens over an even share, in at most $windows windows with the same number of
-- logged steps, of one layer, or the mean over layers. Where tokens are not counted: its share of the router's weight.
WITH shares AS (
    SELECT step, layer, expert, coalesce(token_share, routing_weight) AS share, token_share IS NOT NULL AS of_tokens,
           count(*) OVER (PARTITION BY step, layer) AS experts
    FROM layers
    WHERE run = $run AND source = 'merged' AND ($layer::BIGINT IS NULL OR layer = $layer)
      AND coalesce(token_share, routing_weight) IS NOT NULL
),
placed AS (SELECT *, dense_rank() OVER (ORDER BY step) - 1 AS place FROM shares),
windowed AS (
    SELECT *, place * $windows // greatest($windows, (SELECT max(place) + 1 FROM placed)) AS frame FROM placed
),
spanned AS (SELECT *, min(step) OVER f AS first_step, max(step) OVER f AS last_step FROM windowed WINDOW f AS (PARTITION BY frame))
SELECT first_step AS step, last_step, expert, avg(share * experts) AS load, bool_and(of_tokens) AS of_tokens
FROM spanned
GROUP BY first_step, last_step, expert
ORDER BY first_step, expert
