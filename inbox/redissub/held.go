package redissub

import "sync"

// held are the entries that were fetched and neither acked nor released.
type held struct {
	mu      sync.Mutex
	revoked map[tag]chan struct{} // closed when the entry is lost
}

// add holds an entry, and returns what is closed when it is lost.
func (h *held) add(stream, id string) <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := tag{stream, id}
	if old, ok := h.revoked[t]; ok {
		close(old)
	}
	revoked := make(chan struct{})
	h.revoked[t] = revoked
	return revoked
}

// drop holds entries no more.
func (h *held) drop(stream string, ids []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, id := range ids {
		delete(h.revoked, tag{stream, id})
	}
}

// revoke tells of entries that are lost.
func (h *held) revoke(stream string, ids []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, id := range ids {
		if revoked, ok := h.revoked[tag{stream, id}]; ok {
			close(revoked)
			delete(h.revoked, tag{stream, id})
		}
	}
}

// revokeAll tells that all are lost.
func (h *held) revokeAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for t, revoked := range h.revoked {
		close(revoked)
		delete(h.revoked, t)
	}
}

// list are the ids, by stream.
func (h *held) list() map[string][]string {
	h.mu.Lock()
	defer h.mu.Unlock()
	streams := map[string][]string{}
	for t := range h.revoked {
		streams[t.stream] = append(streams[t.stream], t.id)
	}
	return streams
}
