package gateway

import (
	"mime"
	"net/http"
	"strings"
)

// maxQuery bounds the query of a request. The longest that a Client sends, with 32 ranges, has
// less than 900 bytes.
const maxQuery = 1024

// negotiate returns the format that a request asks for: the format parameter, or else the first
// type of the Accept header that is served here, with its parameters.
func negotiate(r *http.Request) (format string, params map[string]string, err error) {
	if len(r.URL.RawQuery) > maxQuery {
		return "", nil, statusErrorf(http.StatusBadRequest, "query: more than %d bytes", maxQuery)
	}
	accepted, params := accept(r.Header.Values("Accept"))
	format = r.URL.Query().Get("format")
	switch format {
	case "":
		format = accepted
	case formatRaw, formatCAR, formatIPNS:
		if accepted != format {
			params = nil
		}
	default:
		return "", nil, statusErrorf(http.StatusBadRequest, "format %.40q: one of raw, car, ipns-record", format)
	}
	if format == "" {
		return "", nil, statusErrorf(http.StatusNotAcceptable, "name a format: ?format=raw, car or ipns-record")
	}
	return format, params, nil
}

func accept(headers []string) (format string, params map[string]string) {
	for _, h := range headers {
		if len(h) > maxQuery {
			continue
		}
		for part := range strings.SplitSeq(h, ",") {
			t, p, err := mime.ParseMediaType(part)
			if err != nil {
				continue
			}
			switch t {
			case typeRaw:
				return formatRaw, p
			case typeCAR:
				return formatCAR, p
			case typeIPNS:
				return formatIPNS, p
			}
		}
	}
	return "", nil
}
