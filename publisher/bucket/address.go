package bucket

import (
	"cmp"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// Scheme is the beginning of the name of a place in an object store.
const Scheme = "s3://"

// Is reports whether a name is that of a place in an object store, and not of a folder. It is also true for what looks
// like a mistyped address, such as S3://BUCKET and s3:/BUCKET, which ParseAddress refuses.
func Is(name string) bool { return looksLikeAddress.MatchString(name) }

var looksLikeAddress = regexp.MustCompile(`^(?i:s3:|[a-z][a-z0-9+.-]*://)`)

// An Address is a place in an object store.
type Address struct {
	Bucket   string
	Prefix   string   // of the names of all objects: "", or it ends with a slash
	Endpoint *url.URL // of the object store, without a path
	Region   string   // "" where the object store is asked
}

const (
	awsEndpoint   = "https://s3.amazonaws.com"
	defaultRegion = "us-east-1" // which servers other than AWS take
	maxPrefix     = 512         // bytes
)

var bucketName = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)

// ParseAddress parses s3://BUCKET/PREFIX?endpoint=URL&region=REGION. Without an endpoint or a
// region it takes those of the environment (AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, AWS_REGION,
// AWS_DEFAULT_REGION), then those of AWS. Errors wrap fs.ErrInvalid.
func ParseAddress(name string) (Address, error) {
	bad := func(what string) (Address, error) {
		return Address{}, fmt.Errorf("store %.200q: %s (%w); write it as s3://BUCKET/PREFIX?endpoint=URL", withoutSecrets(name), what, fs.ErrInvalid)
	}
	u, err := url.Parse(name)
	if err != nil || !strings.HasPrefix(name, Scheme) || u.User != nil || u.Fragment != "" {
		return bad("no address of an object store")
	}
	a := Address{Bucket: u.Host, Prefix: strings.Trim(u.Path, "/")}
	if !bucketName.MatchString(a.Bucket) {
		return bad("no name of a bucket")
	}
	if !validPrefix(a.Prefix) {
		return bad("no prefix of the names of objects")
	}
	if a.Prefix != "" {
		a.Prefix += "/"
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return bad("no parameters")
	}
	for key := range query {
		if key != "endpoint" && key != "region" {
			return bad(fmt.Sprintf("unknown parameter %.40q", key))
		}
	}
	endpoint := cmp.Or(query.Get("endpoint"), os.Getenv("AWS_ENDPOINT_URL_S3"), os.Getenv("AWS_ENDPOINT_URL"))
	a.Region = cmp.Or(query.Get("region"), os.Getenv("AWS_REGION"), os.Getenv("AWS_DEFAULT_REGION"))
	if endpoint == "" {
		endpoint = awsEndpoint
	} else if a.Region == "" {
		a.Region = defaultRegion
	}
	a.Endpoint, err = url.Parse(endpoint)
	if err != nil || a.Endpoint.Scheme != "http" && a.Endpoint.Scheme != "https" || a.Endpoint.Host == "" ||
		strings.Trim(a.Endpoint.Path, "/") != "" || a.Endpoint.RawQuery != "" || a.Endpoint.User != nil {
		return bad(fmt.Sprintf("endpoint %.100q is not http://HOST:PORT or https://HOST", withoutSecrets(endpoint)))
	}
	return a, nil
}

// withoutSecrets returns an address without parameters, user and password: keys may have been written there, and errors
// are in logs.
func withoutSecrets(address string) string {
	address, _, _ = strings.Cut(address, "?")
	scheme, rest, ok := strings.Cut(address, "://")
	if !ok {
		scheme, rest = "", address
	} else {
		scheme += "://"
	}
	return scheme + rest[strings.LastIndexByte(rest, '@')+1:]
}

// validPrefix refuses what a server, or a client that maps names to folders, may read in another way.
func validPrefix(prefix string) bool {
	if prefix == "" {
		return true
	}
	if len(prefix) > maxPrefix || strings.ContainsFunc(prefix, func(r rune) bool { return !unicode.IsPrint(r) || r == '\\' }) {
		return false
	}
	return !slices.ContainsFunc(strings.Split(prefix, "/"), func(part string) bool { return part == "" || part == "." || part == ".." })
}

// String is the address without endpoint and region.
func (a Address) String() string {
	return Scheme + a.Bucket + "/" + strings.TrimSuffix(a.Prefix, "/")
}

// At returns the address of a place below this one.
func (a Address) At(folder string) Address {
	a.Prefix += folder + "/"
	return a
}
