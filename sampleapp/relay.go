package main

import (
	"net/http"
	"net/http/httputil"

	"mllab.local/sampleapp/api"
)

func (a *app) relayHandler() http.Handler {
	return &httputil.ReverseProxy{
		// A request goes out once, directly and as it came: net/http repeats some on a kept connection that closes.
		Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true},
		Rewrite: func(r *httputil.ProxyRequest) {
			// ReverseProxy has taken these away.
			r.Out.URL.RawQuery = r.In.URL.RawQuery
			for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
				if v, ok := r.In.Header[name]; ok {
					r.Out.Header[name] = v
				}
			}
			r.SetURL(&a.relay) // its host is the Host header too: a mesh routes by that
		},
		// Not before the request: ReverseProxy forgets what it was given when the other server says 100 Continue.
		ModifyResponse: func(r *http.Response) error {
			r.Header.Add(api.HeaderRelay, a.pod)
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			a.log.ErrorContext(r.Context(), "relay", "path", r.URL.Path, "error", err.Error())
			w.Header().Set(api.HeaderRelay, a.pod)
			text(w, http.StatusBadGateway, "relay: "+err.Error()+"\n")
		},
	}
}
