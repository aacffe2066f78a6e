package main

import (
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/phaseboot/phaseboot/bootclient"
	"github.com/phaseboot/phaseboot/internal/bootargs"
	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/modes"
)

// checkProxies refuses a proxy variable that is no proxy, which Go would pass over in silence.
func checkProxies(mode modes.Mode) error {
	for _, name := range []string{"http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"} {
		if mode.Proxy == "" && !isProxy(os.Getenv(name)) {
			return cli.Usagef("%s: not the URL of a proxy; write it like http://proxy.example:3128, or unset it", name)
		}
	}
	return nil
}

// useProxy makes cfg ask mirrors through the proxies that http_proxy, https_proxy and
// no_proxy name, unless the mode has a proxy of its own. Peers are dialled directly.
func useProxy(cfg *bootclient.Config) {
	if cfg.Mode.Proxy != "" {
		return
	}
	cfg.Proxy = http.ProxyFromEnvironment
	said := map[string]bool{}
	for _, m := range cfg.Mirrors {
		u, err := url.Parse(m)
		if err != nil || u.Scheme == "file" {
			continue
		}
		proxy, err := http.ProxyFromEnvironment(&http.Request{URL: u})
		if err == nil && proxy != nil && !said[proxy.Host] {
			said[proxy.Host] = true
			cfg.Report.Begin("proxy").Done("mirrors are asked through %s, which the environment names", bootargs.Redact(proxy.String()))
		}
	}
}

// isProxy reports whether a value names a proxy or none: a URL, or HOST:PORT.
func isProxy(value string) bool {
	if value == "" {
		return true
	}
	if !strings.Contains(value, "://") {
		value = "http://" + value
	}
	u, err := url.Parse(value)
	return err == nil && u.Hostname() != "" && slices.Contains([]string{"http", "https", "socks5", "socks5h"}, u.Scheme)
}
