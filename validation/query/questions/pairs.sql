-- Each other expert beside the clean one, by tier and step: both norms, and the logarithm of their ratio where there is one.
SELECT run, step, expert, other.role, tier, other.norm, clean.norm AS clean_norm,
       CASE WHEN other.norm > 0 AND clean.norm > 0 THEN ln(other.norm / clean.norm) END AS log_ratio
FROM (
    UNPIVOT (SELECT run, step, expert, role, top_norm AS top, bottom_norm AS bottom, middle_norm AS middle FROM dynamics)
    ON top, bottom, middle INTO NAME tier VALUE norm
) AS other
JOIN (
    UNPIVOT (SELECT run, step, top_norm AS top, bottom_norm AS bottom, middle_norm AS middle FROM dynamics WHERE expert = 0)
    ON top, bottom, middle INTO NAME tier VALUE norm
) AS clean USING (run, step, tier)
WHERE expert > 0
ORDER BY run, expert, tier, step
