package mutant

import "github.com/pgsagaz/pgsagaz/sql"

func outbox() []Mutant {
	return []Mutant{
		// Reading.
		{
			Name: "outbox.cursor-by-id", Plants: "the cursor is an id (id > c): what commits after a later id is lost",
			Edits: []Edit{
				statement(&sql.OutboxRead, "WHERE txid >= pg_snapshot_xmax($2::text::pg_snapshot)",
					"WHERE id > coalesce((SELECT max(p.id) FROM pgsagaz.outbox p WHERE pg_visible_in_snapshot(p.txid, $2::text::pg_snapshot)), 0)"),
				statement(&sql.OutboxRead, "WHERE txid = ANY (ARRAY(SELECT pg_snapshot_xip($2::text::pg_snapshot)))", "WHERE false"),
			},
			Red: append(red("outbox", "TestWhatCommitsLateIsRead"), red("integration/interleave", "TestMergesCursor")...),
		},
		{
			Name: "outbox.no-look-back", Plants: "transactions that ran when the last snapshot was taken are never looked for again",
			Edits: []Edit{statement(&sql.OutboxRead, "WHERE txid = ANY (ARRAY(SELECT pg_snapshot_xip($2::text::pg_snapshot)))", "WHERE false")},
			Red:   red("outbox", "TestWhatCommitsLateIsRead"),
		},
		{
			Name: "outbox.behind-every-writer", Plants: "what is newer than the oldest transaction that runs is not read: an open transaction anywhere stops, or loses, all",
			Edits: []Edit{statement(&sql.OutboxRead, "WHERE o.bucket = ANY", "WHERE o.txid < pg_snapshot_xmin(pg_current_snapshot()) AND o.bucket = ANY")},
			Red:   red("outbox", "TestWhatCommitsLateIsRead"),
		},
		{
			Name: "outbox.order-by-transaction", Plants: "events are in the order of their transactions' ids, not in that in which they took the key's lock",
			Edits: []Edit{statement(&sql.OutboxRead, "ORDER BY o.id + 0", "ORDER BY o.txid::text::bigint, o.id + 0")},
			Red:   append(red("outbox", "TestOrderIsThatOfTheLock"), red("integration/interleave", "TestMergesSerialize")...),
		},
		{
			Name: "outbox.cursor-before-ack", Plants: "the cursor moves on before the broker has answered: what was on its way at a crash is lost",
			Red: red("outbox", "TestTheCursorWaitsForTheBroker"),
		},
		{
			Name: "outbox.idle-poll-blind", Plants: "an idle relay takes its last snapshot for the present one",
			Red: red("outbox", "TestNoNotify"),
		},

		// Owning.
		{
			Name: "outbox.no-epoch", Plants: "a relay whose lease was lost still writes its cursor",
			Edits: []Edit{statement(&sql.OutboxCheckpoint, "WHERE id = $1 AND epoch = $2", "WHERE id = $1 AND $2::bigint IS NOT NULL")},
			Red:   red("outbox", "TestTheDeadAreBuried"),
		},
		{
			Name: "outbox.no-epoch-on-stuck", Plants: "a relay whose lease was lost still takes messages out of the stream",
			Edits: []Edit{statement(&sql.OutboxStuckPut, "WHERE epoch = $1 FOR SHARE", "WHERE $1::bigint IS NOT NULL FOR SHARE")},
			Red:   red("outbox", "TestTakeOver"),
		},
		{
			Name: "outbox.lease-without-end", Plants: "nobody takes over what a dead relay had",
			Edits: []Edit{function("outbox_beat", "WHERE r.beat_at + r.lease < pgsagaz.now()", "WHERE false")},
			Red:   red("outbox", "TestTheDeadAreBuried"),
		},
		{
			Name: "outbox.taken-unheard", Plants: "buckets whose taking a relay has not heard of are nobody's: their messages wait for its end",
			Red: red("outbox", "TestTheAnswerToATakingIsLost"),
		},
		{
			Name: "outbox.take-from-now", Plants: "who takes buckets over begins with what is written from then on",
			Edits: []Edit{function("outbox_take", "(p_epoch, source.prev, source.cur, source.last_id)", "(p_epoch, pg_current_snapshot(), NULL, 0)")},
			Red:   red("integration/interleave", "TestMergesHandover"),
		},
		{
			Name: "outbox.buckets-disagree", Plants: "SQL puts a key into another bucket than Go: two relays publish one key at once",
			Edits: []Edit{function("outbox_bucket_of", "convert_to(p_key, 'UTF8')), 0)", "convert_to(p_key, 'UTF8')), 1)")},
			Red:   red("outbox", "TestGoAndSQLAgree"),
		},
		{
			Name: "outbox.another-cluster-unseen", Plants: "after a restore into another cluster old snapshots are believed",
			Edits: []Edit{function("outbox_rebase", "UPDATE pgsagaz.outbox_cursor SET epoch = NULL, prev = '3:3:', cur = NULL, last_id = 0;", "UPDATE pgsagaz.outbox_cursor SET epoch = NULL;")},
			Red:   red("outbox", "TestAnotherClusterHasSeenNothing"),
		},

		// Failing.
		{
			Name: "outbox.retry-at-the-end", Plants: "what failed is queued behind what came after it: a key's order is inverted by a retry",
			Red: red("outbox", "TestAnOutageKeepsTheOrder"),
		},
		{
			Name: "outbox.key-not-held", Plants: "a rejected event does not hold back its key",
			Red: red("outbox", "TestARejectedEventHoldsItsKeyAlone"),
		},
		{
			Name: "outbox.dead-letter-holds-nothing", Plants: "a dead letter that its key was to wait for lets it go on",
			Edits: []Edit{statement(&sql.OutboxStuckDead, "done = NOT $5", "done = (true OR $5)")},
			Red:   red("outbox", "TestHold"),
		},
		{
			Name: "outbox.outage-burns-attempts", Plants: "an outage of the broker counts as a failure of the event: it ends among the dead letters",
			Red: red("outbox", "TestAnOutageKeepsTheOrder"),
		},

		// Slots.
		{
			Name: "outbox.truncate-unseen", Plants: "a slot is emptied without a look at who has yet to read it",
			Edits: []Edit{function("outbox_truncate", "    IF found THEN\n        RETURN false;\n    END IF;", "")},
			Red:   append(red("outbox", "TestTruncate"), red("integration/interleave", "TestMergesSlots")...),
		},
		{
			Name: "outbox.truncate-looks-once", Plants: "what was written between the look at a slot and its lock is emptied away",
			Edits: []Edit{function("outbox_truncate", "        IF found THEN\n            RAISE lock_not_available; -- lets go of the lock and of what was archived\n        END IF;", "")},
			Red:   red("outbox", "TestTruncateLooksTwice"),
		},
		{
			Name: "outbox.direct-truncate-waits", Plants: "the table of what writers send themselves is emptied as soon as the last of them has committed",
			Edits: []Edit{function("outbox_direct_tend", "LOCK TABLE pgsagaz.outbox_direct_%s IN ACCESS EXCLUSIVE MODE NOWAIT", "SELECT FROM pgsagaz.outbox_direct_%s")},
			Red:   red("integration/interleave", "TestMergesDirect"),
		},
		{
			Name: "outbox.status-beside-truncate", Plants: "a slot is emptied under a status that is being read, which then counts neither what was in it nor where it went",
			Edits: []Edit{statement(&sql.OutboxStatusLock, "LOCK TABLE pgsagaz.outbox, pgsagaz.outbox_direct IN ACCESS SHARE MODE", "SELECT")},
			Red:   append(red("outbox", "TestStatusWhileDirectIsEmptied"), red("integration/interleave", "TestMergesDirectStatus")...),
		},

		// Writing.
		{
			Name: "outbox.notify-in-the-transaction", Plants: "Publish notifies in the writer's transaction",
			Edits: []Edit{statement(&sql.OutboxInsertOne, "  AND CASE WHEN s.limited", "  AND pg_notify('pgsagaz.outbox', '1')::text = ''\n  AND CASE WHEN s.limited")},
			Red:   red("outbox", "TestNoNotifyInsideATransaction"),
		},
		{
			Name: "outbox.serialize-nothing", Plants: "Serialize takes no lock: two writers of a key draw their ids in one order and commit in the other",
			Edits: []Edit{statement(&sql.OutboxSerialize, "unnest($1::text[]) k ORDER BY", "unnest($1::text[]) k WHERE false ORDER BY")},
			Red:   red("outbox", "TestSerialize"),
		},
		{
			Name: "outbox.serialize-unsorted", Plants: "the locks of several keys are taken as they come: two writers wait for each other",
			Edits: []Edit{statement(&sql.OutboxSerialize, "SELECT DISTINCT hashtextextended(k, 0) AS h FROM unnest($1::text[]) k ORDER BY h OFFSET 0", "SELECT hashtextextended(k, 0) AS h FROM unnest($1::text[]) k OFFSET 0")},
			Red:   red("outbox", "TestSerialize"),
		},
		{
			Name: "outbox.not-durable", Plants: "an event may leave for the broker whose commit a crash takes back",
			Edits: []Edit{statement(&sql.OutboxInsertOne, "IN ('off', 'local')", "IN ('never')"), statement(&sql.OutboxInsert, "pgsagaz.durable(), ", "NULL, ")},
			Red:   red("outbox", "TestPublishIsDurable"),
		},
		{
			Name: "outbox.direct-without-a-look", Plants: "a writer that publishes by itself does not look whether it has committed",
			Red: red("outbox", "TestPublishAfterRollback"),
		},
		{
			Name: "outbox.direct-without-a-lease", Plants: "a relay sends at once what its writer is about to send: everything arrives twice",
			Edits: []Edit{function("outbox_direct_tend", "WHERE d.leased_until <= pgsagaz.now()", "WHERE d.leased_until > '-infinity'")},
			Red:   red("outbox", "TestWhatIsLeasedIsItsWriters"),
		},
	}
}
