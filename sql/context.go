package sql

import "context"

type stepKey struct{}

type step struct{ saga, name string }

// WithStep says in ctx which step of which saga is running, so that what it writes can name it.
func WithStep(ctx context.Context, sagaID, name string) context.Context {
	return context.WithValue(ctx, stepKey{}, step{sagaID, name})
}

// StepFrom is the step that ctx belongs to; "" outside of any.
func StepFrom(ctx context.Context) (sagaID, name string) {
	s, _ := ctx.Value(stepKey{}).(step)
	return s.saga, s.name
}
