package failpoint

// Points lists every point there is, so that a crash test walks all of them and a new one can't be
// forgotten: a test compares this list with the source. Those of the outbox and the inbox begin with their package's name, all
// others are the engine's.
func Points() []string {
	return []string{
		"take.before", "take.after",
		"do_tx.before", "do_tx.after",
		"fuse.before", "fuse.after",
		"do_activity.called", "do_activity.before", "do_activity.after",
		"undo_tx.before", "undo_tx.after",
		"undo_activity.called", "undo_activity.before", "undo_activity.after",
		"settle.before", "settle.after",
		"retry.before", "retry.after",
		"failed.before", "failed.after",
		"obey.before", "obey.after",
		"await.before", "await.after",
		"children.before", "children.after",

		"outbox.join.before", "outbox.join.after",
		"outbox.take.before", "outbox.take.after", "outbox.load.before",
		"outbox.read.before", "outbox.read.after",
		"outbox.publish.before", "outbox.publish.after",
		"outbox.save.before", "outbox.save.after",
		"outbox.put.before", "outbox.put.after",
		"outbox.judge.before", "outbox.judge.after",
		"outbox.finish.before", "outbox.finish.after",
		"outbox.release.before", "outbox.release.after",
		"outbox.merge.before", "outbox.merge.after",
		"outbox.leave.before", "outbox.leave.after",
		"outbox.due.after", "outbox.rotate.rotated", "outbox.rotate.truncated",
		"outbox.direct.ready", "outbox.direct.published", "outbox.direct.moved",

		"inbox.claimed", "inbox.handled",
		"inbox.commit.before", "inbox.commit.after", "inbox.acked",
		"inbox.count.before", "inbox.count.after",
		"inbox.bury.before", "inbox.bury.after",
		"inbox.redrive.taken", "inbox.give_back",
		"inbox.floor.raised", "inbox.drop.detached", "inbox.drop.after", "inbox.foreign.deleted",
	}
}
