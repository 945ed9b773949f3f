-- The facts of two runs side by side, options first, and whether they differ.
SELECT key, one.value AS first, other.value AS second,
       one.value IS DISTINCT FROM other.value AS differs,
       starts_with(key, 'config.') OR starts_with(key, 'option.') AS is_option
FROM (SELECT key, value FROM facts WHERE run = $first) AS one
FULL JOIN (SELECT key, value FROM facts WHERE run = $second) AS other USING (key)
ORDER BY is_option DESC, key
