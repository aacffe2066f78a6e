// Package onion tells the names of onion services (RFC 7686), which only Tor can resolve, from
// other host names. Such a name must never be asked of a DNS server. bootargs uses it for the
// mirrors that a person names, gateway for redirects. It is a leaf and resolves nothing.
package onion

import "strings"

// IsName reports whether a host name is that of an onion service.
func IsName(host string) bool {
	return strings.HasSuffix(strings.ToLower(strings.TrimSuffix(host, ".")), ".onion")
}
