package kube

import (
	"net"
	"net/http"
	"strings"
	"testing"
)

// Each connection has a port of its own: with it, an API that answers nobody would give a new reason each time.
func TestAnAPIThatClosesConnectionsGivesOneReason(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for c, err := l.Accept(); err == nil; c, err = l.Accept() {
			_, _ = c.Read(make([]byte, 1))
			_ = c.(*net.TCPConn).SetLinger(0) // it ends with a reset
			_ = c.Close()
		}
	}()
	var reasons []string
	for range 2 {
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := client.Get("http://" + l.Addr().String())
		if err == nil {
			_ = resp.Body.Close()
			t.Fatal("it answered")
		}
		reasons = append(reasons, ErrorText(err))
	}
	if reasons[0] != reasons[1] || !strings.Contains(reasons[0], "read "+l.Addr().String()+": ") || !strings.HasSuffix(reasons[0], "connection reset by peer") {
		t.Errorf("%q", reasons)
	}
}
