package gateway

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// The log of a mirror shows the program, and not the toolchain that built it.
func TestRequestsNameTheProgram(t *testing.T) {
	agents := make(chan string, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		agents <- r.UserAgent()
		w.WriteHeader(http.StatusNotFound)
	}))
	defer server.Close()
	client := &Client{Base: server.URL}
	resp, err := client.request(t.Context(), "/ipfs/x", "*/*")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got := <-agents; got != userAgent || strings.Contains(got, "Go") {
		t.Errorf("the agent is %q", got)
	}
}
