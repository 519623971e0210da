-- More of something runs at once than its limit allows, and than it allowed when the last of them was let through.
SELECT '', '', 'limit ' || p.name || CASE p.key WHEN '' THEN '' ELSE ' of ' || p.key END || ' lets ' || max(p.most) || ' run at once, and '
       || count(*) || ' do'
FROM pgsagaz.limit_place p
WHERE p.token IS NOT NULL
  AND CASE WHEN p.step = '' THEN EXISTS (SELECT FROM pgsagaz.saga s WHERE s.id = p.saga_id AND s.ended_at IS NULL)
           ELSE EXISTS (SELECT FROM pgsagaz.lane l WHERE l.saga_id = p.saga_id AND l.id = p.lane AND l.token = p.token
                                                     AND l.step = p.step AND l.direction = p.direction) END
GROUP BY p.name, p.key HAVING count(*) > max(p.most)
