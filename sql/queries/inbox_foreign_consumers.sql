-- Whose entries there are, by hopping along the index.
WITH RECURSIVE name AS (
    SELECT min(consumer_name) AS n FROM pgsagaz.consumer_inbox_foreign
    UNION ALL
    SELECT (SELECT min(i.consumer_name) FROM pgsagaz.consumer_inbox_foreign i WHERE i.consumer_name > name.n) FROM name WHERE name.n IS NOT NULL)
SELECT n FROM name WHERE n IS NOT NULL
