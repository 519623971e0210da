package mutant

import "github.com/pgsagaz/pgsagaz/sql"

func engine() []Mutant {
	return []Mutant{
		// Fences and claims.
		{
			Name: "settle.no-token", Plants: "the short settlement does not ask whose the lane is: a worker that hung commits after it was taken over",
			Edits: []Edit{statement(&sql.SettleNext, " AND token = $3 FOR UPDATE", " FOR UPDATE")},
			Red:   red("pgengine", "TestAZombieBesideItsSuccessor"),
		},
		{
			Name: "settle.no-token-in-function", Plants: "nor does the long one",
			Edits: []Edit{function("settle", "AND id = p_lane AND token = p_token", "AND id = p_lane")},
			Red:   red("sql", "TestSettleAndFenceSayWhy"),
		},
		{
			Name: "settle.no-state", Plants: "a step settles although its saga has been turned back meanwhile: a done step that nobody undoes",
			Edits: []Edit{statement(&sql.SettleNext, " AND state = 'running'", "")},
			Red:   red("sql", "TestTheShortSettlementsAgreeWithTheLongOne"),
		},
		{
			Name: "settle.fused-no-token", Plants: "steps that share a transaction settle without asking whose the lane is",
			Edits: []Edit{statement(&sql.SettleFused, "ELSE token = $3 END", "ELSE true END")},
			Red:   red("pgengine", "TestAZombieBesideItsSuccessor"),
		},
		{
			Name: "settle.together-no-token", Plants: "Activities that are settled in one commit settle without asking whose the lane is",
			Edits: []Edit{function("settle_many", "l.id = d.lane AND l.token = d.token", "l.id = d.lane")},
			Red:   append(red("sql", "TestSettlingTogetherIsSettlingAlone"), red("integration/interleave", "TestMergesTogetherTakeOver")...),
		},
		{
			Name: "settle.together-tells-of-all", Plants: "who settles several sagas in one commit is told that all are done, also those that somebody else had locked",
			Edits: []Edit{function("settle_many", "FOR NO KEY UPDATE SKIP LOCKED;\n        CONTINUE WHEN NOT FOUND;",
				"FOR NO KEY UPDATE SKIP LOCKED;\n        IF NOT FOUND THEN\n            RETURN NEXT d.token;\n            CONTINUE;\n        END IF;")},
			Red: append(red("sql", "TestSettlingTogetherWaitsForNoSaga"), red("integration/interleave", "TestMergesTogether")...),
		},
		{
			Name: "settle.together-waits", Plants: "who settles several sagas waits for one while he holds others: two of them wait for each other",
			Edits: []Edit{function("settle_many", " SKIP LOCKED", "")},
			Red:   red("sql", "TestSettlingTogetherWaitsForNoSaga"),
		},
		{
			Name: "claim.two-winners", Plants: "a lane that somebody drives can be taken once more: a second hint does the step a second time",
			Edits: []Edit{statement(&sql.LaneTake, "worker IS NULL AND ", "")},
			Red:   append(red("pgengine", "TestASecondHintTakesNothingAway"), red("integration/interleave", "TestMergesTakeOver")...),
		},
		{
			Name: "claim.call-before-commit", Plants: "an Activity is called before its claim is committed",
			Red: red("pgengine", "TestNoCallWithoutAClaim"),
		},
		{
			Name: "join.lock-after-counting", Plants: "the siblings are read before the saga is locked: a join that fires never, or twice",
			Edits: []Edit{statement(&sql.SagaLock, " FOR NO KEY UPDATE", "")},
			Red:   append(red("pgengine", "TestALastSiblingSeesThatItIs"), red("integration/interleave", "TestMergesJoin", "TestMergesResult", "TestMergesSignal", "TestMergesChild")...),
		},
		{
			Name: "lock.shared", Plants: "settlements share the saga's lock: two at once wait for each other's upgrade",
			Edits: []Edit{statement(&sql.SagaLock, "FOR NO KEY UPDATE", "FOR SHARE")},
			Red:   red("sql", "TestTheSagasLockIsExclusive"),
		},

		// Undoing.
		{
			Name: "undo.order-ignored", Plants: "a step is undone while what came after it still stands",
			Red: red("pgengine", "TestPlanKeepsItsPromises", "TestSagaz10_TheOrderOfUndosHoldsAcrossAStepWithoutOne"),
		},
		{
			Name: "undo.order-direct-only", Plants: "only direct successors are waited for: the order is lost across a step without Undo",
			Red: red("pgengine", "TestSagaz10_TheOrderOfUndosHoldsAcrossAStepWithoutOne"),
		},
		{
			Name: "undo.while-steps-run", Plants: "the undoing begins while a branch is still at its step",
			Red: red("pgengine", "TestPlanKeepsItsPromises"),
		},
		{
			Name: "undo.late-result-ignored", Plants: "a result that arrives after its saga was compensated is dropped: its effect stands for ever",
			Red: red("pgengine", "TestLateResultAfterCompensated"),
		},
		{
			Name: "undo.doubt-taken-for-failed", Plants: "a call that was cut off counts as one that did not happen",
			Red: red("pgengine", "TestSagaz12_AStepThatTimedOutIsUndone", "TestWhatIsCutOffAfterItsEffectIsUndone"),
		},
		{
			Name: "undo.failure-swallowed", Plants: "an undo that has given up counts as done, and the saga as compensated",
			Red: red("pgengine", "TestSagaz11_AFailedUndoIsSeen"),
		},
		{
			Name: "pivot.ignored", Plants: "a saga past its pivot turns back",
			Red: red("pgengine", "TestSagaz15_APivotIsOne"),
		},

		// Attempts.
		{
			Name: "key.per-attempt", Plants: "the idempotency key of a call is another with each attempt: a card is charged twice",
			Red: red("pgengine", "TestKeys"),
		},
		{
			Name: "retry.none", Plants: "the first failure of a step is its last",
			Red: red("pgengine", "TestSagaz07And08_RetriesAndTimeoutsCountInAGraph"),
		},
		{
			Name: "retry.without-backoff", Plants: "a step that failed is due again at once",
			Edits: []Edit{function("retry_later", "make_interval(secs => p_delay)", "make_interval(secs => 0 * p_delay)")},
			Red:   red("sql", "TestARetryWaits"),
		},
		{
			Name: "attempt.full-disk-counted", Plants: "a full disk counts against the step that meets it: sagas turn back that had nothing wrong with them",
			Red: red("pgengine", "TestAFullDiskIsNobodysAttempt"),
		},
		{
			Name: "timeout.ignored", Plants: "the time limit of a step limits nothing",
			Red: red("pgengine", "TestSagaz07And08_RetriesAndTimeoutsCountInAGraph"),
		},
		{
			Name: "crash.not-counted", Plants: "deaths at a step are not counted: it kills its workers for ever",
			Edits: []Edit{statement(&sql.SweepDead, "crashes = l.crashes + 1", "crashes = l.crashes")},
			Red:   red("sql", "TestADeadWorkersCallIsInDoubt"),
		},
		{
			Name: "crash.forgets-the-doubt", Plants: "a call whose worker died counts as never begun: if its saga turns back, nobody undoes it",
			Edits: []Edit{statement(&sql.SweepDead, "in_doubt = true", "in_doubt = l.in_doubt")},
			Red:   append(red("sql", "TestADeadWorkersCallIsInDoubt"), red("integration/interleave", "TestMergesLateResult")...),
		},
		{
			Name: "commit.lost-answer-not-asked", Plants: "after a COMMIT whose answer was lost nobody looks whether it went through",
			Red: red("pgengine", "TestALostAnswerIsAskedFor"),
		},

		// Limits.
		{
			Name: "limit.line-unlocked", Plants: "two who come to a limit at once do not see each other, and both take its last place",
			Edits: []Edit{function("limit_enter", `DO UPDATE SET concurrency = excluded.concurrency, spacing = excluded.spacing,
                next_at = l.next_at - coalesce(l.spacing, '0') + coalesce(excluded.spacing, '0')`, "DO NOTHING")},
			Red: red("integration/interleave", "TestMergesLimit"),
		},
		{
			Name: "limit.one-line-is-enough", Plants: "whoever has room in one of his lines is let into all of them",
			Edits: []Edit{function("limit_call", "lines := coalesce(place.lines, ARRAY[place.name || ' ' || place.key]);", "lines := ARRAY[place.name || ' ' || place.key];")},
			Red:   red("pgengine", "TestNobodyStarvesBetweenLines"),
		},
		{
			Name: "limit.passed-for-ever", Plants: "others go past whoever needs two lines for as long as these are not free at one instant",
			Edits: []Edit{function("limit_call", "patient constant interval := '10 seconds'", "patient constant interval := '10 years'")},
			Red:   red("pgengine", "TestNobodyStarvesBetweenLines"),
		},
		{
			Name: "limit.lines-unsorted", Plants: "the lines of a step are locked as its limits are listed: two steps wait for each other",
			Edits: []Edit{function("limit_enter", "ORDER BY name, key LOOP", "LOOP")},
			Red:   red("pgengine", "TestLinesAreLockedInOneOrder"),
		},

		// Liveness.
		{
			Name: "sweep.lease-never-looked-at", Plants: "a worker that hangs keeps what it holds, whatever its lease says",
			Edits: []Edit{statement(&sql.SweepDead, "w.beat_at < pgsagaz.now() - w.lease\n        OR (", "(")},
			Red:   red("sql", "TestADeadWorkersCallIsInDoubt"),
		},
		{
			Name: "sweep.beat-of-the-future", Plants: "a beat from before the clock was set back counts until the clock is there again: who dies meanwhile is not missed",
			Edits: []Edit{statement(&sql.SweepAhead, "SET beat_at = pgsagaz.now()", "SET beat_at = beat_at")},
			Red:   red("sql", "TestAClockThatWasSetBack"),
		},
		{
			Name: "take.waits-for-the-clock", Plants: "a lane that is to be had cannot be taken before the clock, which was set back, is where it was",
			Edits: []Edit{statement(&sql.LaneTake, "job_id IS NOT NULL OR ", "")},
			Red:   red("sql", "TestAClockThatWasSetBack"),
		},
		{
			Name: "sweep.lost-hint", Plants: "a lane whose River job is gone gets no other: its saga stands for ever",
			Edits: []Edit{statement(&sql.SweepLost, "l.worker IS NULL AND l.job_id IS NOT NULL", "false AND l.worker IS NULL AND l.job_id IS NOT NULL")},
			Red:   red("sql", "TestALostHintIsGivenAgain"),
		},
		{
			Name: "sweep.lost-command", Plants: "nor does a command",
			Edits: []Edit{statement(&sql.SweepLost, "FROM pgsagaz.command c\n    WHERE NOT EXISTS", "FROM pgsagaz.command c\n    WHERE false AND NOT EXISTS")},
			Red:   red("sql", "TestALostHintIsGivenAgain"),
		},
		{
			Name: "sweep.deadline-unseen", Plants: "deadlines pass and nothing follows",
			Edits: []Edit{statement(&sql.SweepDeadlines, "d.due_at <= pgsagaz.now()", "d.due_at = '-infinity'")},
			Red:   red("sql", "TestADeadlineTurnsBack"),
		},
		{
			Name: "wake.within-the-transaction", Plants: "a hint notifies in the transaction that writes it: commits of the whole server stand in line",
			Edits: []Edit{function("hint", "    RETURN job;", "    PERFORM pg_notify('pgsagaz.river_insert', json_build_object('queue', p_queue)::text);\n    RETURN job;")},
			Red:   red("sql", "TestNoNotifyInsideATransactionThatWrites"),
		},
		{
			Name: "wake.before-the-commit", Plants: "workers are woken when the statement is sent, before the commit: they look, find nothing, and sleep",
			Red: red("sql", "TestNoWakeBeforeTheCommit"),
		},
		{
			Name: "wake.leading-edge", Plants: "a wake that comes while one is being sent is dropped",
			Red: red("sql", "TestWakerLosesNone"),
		},

		// Starting.
		{
			Name: "start.keys-shared", Plants: "start keys are no saga's own: an order's second saga is taken for its first",
			Edits: []Edit{
				function("start", "VALUES (p_name, p_key, id, hash)", "VALUES ('', p_key, id, hash)"),
				function("start", "WHERE k.name = p_name AND k.key = p_key", "WHERE k.name = '' AND k.key = p_key"),
			},
			Red: red("pgengine", "TestSagaz22_KeysOfTwoSagasDoNotMeet"),
		},
		{
			Name: "start.check-then-act", Plants: "a start looks for its key and inserts when there is none: ten at once are ten sagas",
			Edits: []Edit{
				{Schema: "ALTER TABLE pgsagaz.start_key DROP CONSTRAINT start_key_pkey"},
				function("start", "VALUES (p_name, p_key, id, hash)\n                ON CONFLICT DO NOTHING;", "SELECT p_name, p_key, id, hash WHERE NOT EXISTS (SELECT FROM pgsagaz.start_key k WHERE k.name = p_name AND k.key = p_key);"),
			},
			Red: append(red("pgengine", "TestSagaz21_TenStartsOfOneKeyAreOneSaga"), red("integration/interleave", "TestMergesStart")...),
		},
		{
			Name: "start.not-durable", Plants: "a commit that others act upon may be lost with synchronous_commit off",
			Edits: []Edit{function("durable", "IN ('off', 'local')", "IN ('never')")},
			Red:   append(red("sql", "TestDurable"), red("pgengine", "TestAStartIsDurable")...),
		},
	}
}
