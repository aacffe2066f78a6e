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

// checkProxies refuses an invalid proxy variable, which net/http would ignore.
func checkProxies(mode modes.Mode) error {
	for _, name := range []string{"http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"} {
		if mode.Proxy == "" && !isProxy(os.Getenv(name)) {
			return cli.Usagef("%s: not the URL of a proxy; write it like http://proxy.example:3128, or unset it", name)
		}
	}
	return nil
}

// useProxy configures the proxies of http_proxy, https_proxy and no_proxy for mirrors, unless the mode
// has a proxy. Peers are dialled directly.
func useProxy(cfg *bootclient.Config) {
	if cfg.Mode.Proxy != "" {
		return
	}
	cfg.Proxy = http.ProxyFromEnvironment
	reported := map[string]bool{}
	for _, m := range cfg.Mirrors {
		u, err := url.Parse(m)
		if err != nil || u.Scheme == "file" {
			continue
		}
		proxy, err := http.ProxyFromEnvironment(&http.Request{URL: u})
		if err == nil && proxy != nil && !reported[proxy.Host] {
			reported[proxy.Host] = true
			cfg.Report.Begin("proxy").Done("mirrors are used through %s, from the environment", bootargs.Redact(proxy.String()))
		}
	}
}

// isProxy reports whether a value is empty, the URL of a proxy, or HOST:PORT.
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
