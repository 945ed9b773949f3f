-- For each run in which something was perturbed, the runs that are its shams: every option alike, seed included, but the
-- scale, which is at most $sham_scale.
WITH options AS (
    SELECT run,
           string_agg(key || '=' || coalesce(value, ''), chr(31) ORDER BY key)
               FILTER (WHERE key <> 'config.perturbation_scale') AS others,
           max(TRY_CAST(value AS DOUBLE)) FILTER (WHERE key = 'config.perturbation_scale') AS scale
    FROM facts
    WHERE key LIKE 'config.%'
    GROUP BY run
)
SELECT treated.run, sham.run AS sham, treated.scale, sham.scale AS sham_scale
FROM options AS treated JOIN options AS sham USING (others)
WHERE treated.scale > $sham_scale AND sham.scale <= $sham_scale
ORDER BY treated.run, sham.run
