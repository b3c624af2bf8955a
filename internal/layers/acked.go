package layers

// Acked is how many bytes the peer of the socket that c is, or runs on, has
// acknowledged since it was connected; ok is false where that cannot be told. While
// the number grows, the way to the peer is open, whatever its program does.
func Acked(c any) (n uint64, ok bool) {
	tcp := TCP(c)
	if tcp == nil {
		return 0, false
	}
	return ackedTCP(tcp)
}

// KeepUnsentLow has the socket that c is, or runs on, take no more bytes while as many
// wait there to be sent for the first time, where the system can do that. Then what is
// written later does not wait behind a buffer of megabytes.
func KeepUnsentLow(c any, bytes int) {
	if tcp := TCP(c); tcp != nil {
		keepUnsentLow(tcp, bytes)
	}
}
