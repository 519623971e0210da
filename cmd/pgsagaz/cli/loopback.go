package cli

import (
	"net"
	"net/http"
	"strings"
)

// loopback says whether a host is this machine alone.
func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// atHome is for what this machine alone may ask for, and no token protects: it answers only if it is asked for by the machine's own
// names. A web page of anybody's can have its name point to 127.0.0.1 once it is loaded; what the browser then asks of this machine
// is of the page's own origin, so that the page may read the answer. The name still stands in the request.
func atHome(next http.Handler, address string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = r.Host
		}
		if r.Host != address && !loopback(strings.Trim(host, "[]")) {
			http.Error(w, "This is asked for by a name that is not this machine's.", http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}
