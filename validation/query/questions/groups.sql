-- Runs that differ in nothing but the options named in $besides ("all but seed"): the group of each run, and how many
-- options are known of it. A run whose file names no option is in no group.
WITH options AS (
    SELECT run,
           coalesce(string_agg(key || '=' || coalesce(value, ''), chr(31) ORDER BY key)
               FILTER (WHERE NOT list_contains($besides, key[8:])), '') AS options,
           count(*) AS known
    FROM facts
    WHERE key LIKE 'config.%'
    GROUP BY run
)
SELECT run, dense_rank() OVER (ORDER BY options) AS "group", count(*) OVER (PARTITION BY options) AS members, known
FROM options
ORDER BY "group", run
