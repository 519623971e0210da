package failpoint

// Points lists every point there is, so that a crash test walks all of them and a new one can't be
// forgotten: a test compares this list with the source.
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
	}
}
