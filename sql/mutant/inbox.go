package mutant

import "github.com/pgsagaz/pgsagaz/sql"

func inbox() []Mutant {
	return []Mutant{
		{
			Name: "inbox.ack-before-commit", Plants: "a message is acked before its effect is committed: a crash in between loses it",
			Red: red("inbox", "TestAckAfterCommit"),
		},
		{
			Name: "inbox.claim-committed-first", Plants: "the claim is committed before the handler runs: what the handler fails on is lost",
			Red: append(red("inbox", "TestSagazLostWhatItsHandlerFailedOn"), red("integration/interleave", "TestMergesClaim")...),
		},
		{
			Name: "inbox.dedup-without-consumer", Plants: "an event that one consumer has taken is a duplicate for all others",
			Edits: []Edit{statement(&sql.InboxClaims, "pgsagaz.inbox_claims($1,", "pgsagaz.inbox_claims(left($1, 0) || 'everybody',")},
			Red:   red("inbox", "TestSagazServedOneConsumerAnEvent"),
		},
		{
			Name: "inbox.duplicates-handled", Plants: "a duplicate counts as the first time",
			Edits: []Edit{function("inbox_claims", "RETURN '{duplicate}';", "RETURN '{first}';")},
			Red:   red("inbox", "TestProcess"),
		},
		{
			Name: "inbox.attempts-uncounted", Plants: "failed attempts are not counted: a poisonous message is tried for ever",
			Edits: []Edit{statement(&sql.InboxFail, "attempts = f.attempts + 1", "attempts = f.attempts")},
			Red:   red("inbox", "TestPoisonIsIsolated"),
		},
		{
			Name: "inbox.dead-not-taken", Plants: "a dead letter does not count as taken: its redelivery is handled",
			Edits: []Edit{function("inbox_claims", "            RETURN '{first}';", // only a claim without a handler has no duration
				"            IF p_took IS NULL THEN\n                DELETE FROM pgsagaz.consumer_inbox WHERE consumer_name = p_consumer AND event_id = p_ids[1];\n            END IF;\n            RETURN '{first}';")},
			Red: red("inbox", "TestTerminal"),
		},
		{
			Name: "inbox.key-not-held", Plants: "later messages of a key overtake one that has failed",
			Red: red("inbox", "TestFailureHoldsItsKey"),
		},
		{
			Name: "inbox.claims-unsorted", Plants: "a batch claims its events as they come: two that have the same in opposite orders wait for each other",
			Edits: []Edit{function("inbox_claims", "        ORDER BY m.id\n        ON CONFLICT DO NOTHING", "        ON CONFLICT DO NOTHING")},
			Red:   red("inbox", "TestClaimsGoInOneOrder"),
		},
		{
			Name: "inbox.old-events-taken", Plants: "an event that is older than what is remembered is taken for new",
			Edits: []Edit{function("inbox_claims", "m.id >= aliens AND (m.sent IS NULL OR m.sent >= s.foreign_floor)", "m.id >= aliens")},
			Red:   red("inbox", "TestOlderThanRetention"),
		},
		{
			Name: "inbox.floor-not-looked-at-again", Plants: "a claim does not notice that a cleanup passed between its look at the floor and its entry",
			Edits: []Edit{function("inbox_claims", "IF fresh[1] IS NOT NULL AND p_sent <> '{}'", "IF false AND p_sent <> '{}'")},
			Red:   red("inbox", "TestCleanupAgainstClaims"),
		},
		{
			Name: "inbox.offsets-go-back", Plants: "whoever lost a partition sets its offset back",
			Edits: []Edit{statement(&sql.InboxOffsetSave, "greatest(o.next_offset, excluded.next_offset)", "excluded.next_offset")},
			Red:   red("inbox", "TestOffsetsGoForward"),
		},
		{
			Name: "inbox.count-of-another-log", Plants: "an offset that was counted before the log was made anew is saved after it",
			Edits: []Edit{statement(&sql.InboxOffsetSave, "WHERE o.resets = excluded.resets", "WHERE o.resets IS NOT NULL")},
			Red:   red("inbox", "TestOffsetsGoForward"),
		},
		{
			Name: "inbox.not-durable", Plants: "what is acked may be lost with synchronous_commit off",
			Edits: []Edit{function("inbox_claims", "IN ('off', 'local')", "IN ('never')")},
			Red:   red("inbox", "TestClaimIsDurable"),
		},
	}
}
