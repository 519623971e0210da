package sql

// By says who asks for something, or does it, and why: it stands in the audit, whatever becomes of it. No Actor: the
// user of the database's session.
type By struct{ Actor, Reason string }
