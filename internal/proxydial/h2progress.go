package proxydial

// Unsent is how many bytes were sent that the proxy has not given back to the window of
// the tunnel: what its destination may not have taken yet.
func (s *stream) Unsent() int {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return int(s.unread)
}
