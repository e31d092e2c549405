package fluxly

import (
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// badServer takes connections and does with each what the test says.
func badServer(t *testing.T, serve func(net.Conn)) (url string, connections *atomic.Int64) {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	connections = &atomic.Int64{}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			connections.Add(1)
			wg.Go(func() {
				defer conn.Close()
				serve(conn)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	return "http://" + l.Addr().String(), connections
}

// readRequest reads as far as the body of one request.
func readRequest(conn net.Conn) {
	buf := make([]byte, 64<<10)
	var got []byte
	for !strings.Contains(string(got), "}") {
		n, err := conn.Read(buf)
		if err != nil {
			return
		}
		got = append(got, buf[:n]...)
	}
}

// Servers that misbehave, over real connections. Each try is made, each error
// is typed, nothing is left behind.
func TestClientAgainstBadServers(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		serve   func(net.Conn)
		timeout time.Duration
		code    string
	}{
		{"says nothing", func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }, 50 * time.Millisecond, CodeTimeout},
		{"closes at once", func(net.Conn) {}, 0, codeNetwork},
		{"speaks another protocol", func(c net.Conn) { readRequest(c); _, _ = io.WriteString(c, "220 smtp ready\r\n") }, 0, codeNetwork},
		{"stops in the reply", func(c net.Conn) {
			readRequest(c)
			_, _ = io.WriteString(c, "HTTP/1.1 202 Accepted\r\nContent-Length: 100\r\n\r\n{\"acc")
		}, 0, codeNetwork},
		{"stalls in the reply", func(c net.Conn) {
			readRequest(c)
			_, _ = io.WriteString(c, "HTTP/1.1 202 Accepted\r\nContent-Length: 100\r\n\r\n{\"acc")
			_, _ = io.Copy(io.Discard, c)
		}, 50 * time.Millisecond, CodeTimeout},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			url, connections := badServer(t, tt.serve)
			c, err := NewClient(ClientConfig{APIKey: testAPIKey, BaseURL: url, Timeout: tt.timeout, MaxRetryWait: time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			err = c.Track(t.Context(), simpleEvent())
			var e *APIError
			if !errors.As(err, &e) || !errors.Is(err, ErrUnavailable) || e.Code != tt.code || e.Tries != 3 || !e.Retryable {
				t.Errorf("error %v, want %s after 3 tries", err, tt.code)
			}
			// A try that runs out of time may do so before the server saw it.
			if n := connections.Load(); n < 3 && tt.code != CodeTimeout || n == 0 {
				t.Errorf("%d connections, want one a try", n)
			}
			if err != nil && strings.Contains(err.Error(), testAPIKey) {
				t.Errorf("error %v holds the key", err)
			}
		})
	}
}

// A certificate that the client cannot trust is not tried again.
func TestClientRefusesCertificate(t *testing.T) {
	t.Parallel()
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("the request was sent")
	}))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	defer srv.Close()
	c, err := NewClient(ClientConfig{APIKey: testAPIKey, BaseURL: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	err = c.Track(t.Context(), simpleEvent())
	var e *APIError
	if !errors.As(err, &e) || e.Tries != 1 || e.Retryable {
		t.Errorf("error %#v, want one try", err)
	}
}
