package clientend

import (
	"net/http"
	"reflect"
	"testing"
	"time"
)

// What the operator has set for HTTP/2 stays.
func TestServerWindows(t *testing.T) {
	for _, tc := range []struct {
		set, want *http.HTTP2Config
		writeIdle time.Duration
	}{
		{nil, &http.HTTP2Config{MaxReceiveBufferPerConnection: 16 << 20, WriteByteTimeout: time.Minute}, -1},
		{nil, &http.HTTP2Config{MaxReceiveBufferPerConnection: 16 << 20, WriteByteTimeout: time.Minute}, time.Hour},
		{nil, &http.HTTP2Config{MaxReceiveBufferPerConnection: 16 << 20, WriteByteTimeout: 3 * time.Second}, 3 * time.Second},
		{
			&http.HTTP2Config{MaxConcurrentStreams: 7, MaxReceiveBufferPerStream: 1 << 20},
			&http.HTTP2Config{MaxConcurrentStreams: 7, MaxReceiveBufferPerStream: 1 << 20, MaxReceiveBufferPerConnection: 16 << 20, WriteByteTimeout: time.Minute},
			time.Minute,
		},
		{
			&http.HTTP2Config{MaxReceiveBufferPerConnection: 1 << 20, WriteByteTimeout: time.Second},
			&http.HTTP2Config{MaxReceiveBufferPerConnection: 1 << 20, WriteByteTimeout: time.Second},
			3 * time.Second,
		},
	} {
		s := &http.Server{HTTP2: tc.set}
		SetWindows(s, tc.writeIdle)
		if !reflect.DeepEqual(s.HTTP2, tc.want) {
			t.Errorf("%+v; want %+v", *s.HTTP2, *tc.want)
		}
	}
}
