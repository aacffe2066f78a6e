package gateway

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
)

// Every response names the form of its URL that it has. It is immutable only if the URL has no other
// form.
func TestHeadersOfEachForm(t *testing.T) {
	f := newFixture(t)
	leaf, file := f.leaves[3].CID.String(), f.file.CID.String()
	carTag := func(c string) string { return `^W/"` + c + `\.car\.[0-9a-f]+"$` }
	const carType = typeCAR + "; version=1; order=dfs; dups=n"
	for label, row := range map[string]struct {
		path, accept                     string
		kind, keep, etag, location, name string
	}{
		"a block by its query": {
			"/ipfs/" + leaf + "?format=raw", "",
			typeRaw, immutable, `^"` + leaf + `\.raw"$`, "", leaf + ".bin",
		},
		"a block by Accept": {
			"/ipfs/" + leaf, "text/html, " + typeRaw + ";q=0.9",
			typeRaw, revalidate, `^"` + leaf + `\.raw"$`, "/ipfs/" + leaf + "?format=raw", leaf + ".bin",
		},
		"a block, whatever Accept says": {
			"/ipfs/" + leaf + "?format=raw", typeCAR,
			typeRaw, immutable, `^"` + leaf + `\.raw"$`, "", leaf + ".bin",
		},
		"a CAR by its query": {
			"/ipfs/" + file + "?format=car", "",
			carType, noStore, carTag(file), "", file + ".car",
		},
		"a CAR by Accept": {
			"/ipfs/" + file + "?dag-scope=entity", typeCAR + "; dups=n",
			carType, noStore, carTag(file), "/ipfs/" + file + "?car-dups=n&car-order=dfs&car-version=1&dag-scope=entity&format=car", file + ".car",
		},
		"a CAR by path": {
			"/ipfs/" + f.dir.String() + "/file?format=car", "",
			carType, noStore, carTag(f.dir.String()), "", f.dir.String() + ".car",
		},
		"a record by its query": {
			"/ipns/" + name + "?format=ipns-record", "",
			typeIPNS, revalidate, `^"[a-z0-9]+\.ipns-record"$`, "", name + ".ipns-record",
		},
		"a record by Accept": {
			"/ipns/" + name, typeIPNS,
			typeIPNS, revalidate, `^"[a-z0-9]+\.ipns-record"$`, "/ipns/" + name + "?format=ipns-record", name + ".ipns-record",
		},
	} {
		t.Run(label, func(t *testing.T) {
			get, body := f.do(t, "GET", row.path, "Accept", row.accept)
			head, _ := f.do(t, "HEAD", row.path, "Accept", row.accept)
			same, none := f.do(t, "GET", row.path, "Accept", row.accept, "If-None-Match", get.Header.Get("Etag"))
			if get.StatusCode != 200 || len(body) == 0 || head.StatusCode != 200 || same.StatusCode != 304 || len(none) != 0 {
				t.Errorf("GET %d, HEAD %d, If-None-Match %d with %d bytes", get.StatusCode, head.StatusCode, same.StatusCode, len(none))
			}
			for way, resp := range map[string]*http.Response{"GET": get, "HEAD": head, "304": same} {
				for header, want := range map[string]string{"Vary": "Accept", "Cache-Control": row.keep, "Content-Location": row.location} {
					if got := resp.Header.Get(header); got != want {
						t.Errorf("%s: %s is %q, want %q", way, header, got, want)
					}
				}
				if got := resp.Header.Get("Etag"); !regexp.MustCompile(row.etag).MatchString(got) {
					t.Errorf("%s: Etag is %q", way, got)
				}
			}
			for header, want := range map[string]string{
				"Content-Type": row.kind, "X-Content-Type-Options": "nosniff", "Content-Disposition": `attachment; filename="` + row.name + `"`,
			} {
				if got := get.Header.Get(header); got != want {
					t.Errorf("%s is %q, want %q", header, got, want)
				}
			}
		})
	}
}

// Forms and parameters with different bytes have different Etags.
func TestEachFormHasItsOwnEtag(t *testing.T) {
	f := newFixture(t)
	path := "/ipfs/" + f.file.CID.String()
	seen := map[string]string{}
	for _, query := range []string{
		"?format=raw", "?format=car", "?format=car&dag-scope=block", "?format=car&dag-scope=entity", "?format=car&entity-bytes=0:9",
		"?format=car&entity-bytes=0:9,20000:*", "?format=car&car-dups=y", "?format=car&dag-scope=entity&nodes=n",
	} {
		resp, _ := f.do(t, "HEAD", path+query)
		tag := resp.Header.Get("Etag")
		if other := seen[tag]; other != "" || tag == "" {
			t.Errorf("%s and %s: Etag %s", query, other, tag)
		}
		seen[tag] = query
	}
}

// 304 means that the client's copy is current, and that the block is here.
func TestNotModifiedNeedsTheBlock(t *testing.T) {
	f := newFixture(t)
	indexed := httptest.NewServer(Handler(Options{Source: f.store}))
	defer indexed.Close()
	bare := httptest.NewServer(Handler(Options{Source: struct{ cas.Source }{f.store}}))
	defer bare.Close()
	there, absent := f.file.CID.String(), cas.Sum(cid.DagProtobuf, []byte("absent")).String()
	for label, row := range map[string]struct {
		path, tag string
		want      int
	}{
		"a block, by any tag":            {"/ipfs/" + there + "?format=raw", "*", 304},
		"a block, by its tag":            {"/ipfs/" + there + "?format=raw", `"` + there + `.raw"`, 304},
		"a block, by the tag of a CAR":   {"/ipfs/" + there + "?format=raw", `W/"` + there + `.car.1"`, 200},
		"a CAR, by any tag":              {"/ipfs/" + there + "?format=car", "*", 304},
		"no block, by any tag":           {"/ipfs/" + absent + "?format=raw", "*", 404},
		"no block, by its tag":           {"/ipfs/" + absent + "?format=raw", `"` + absent + `.raw"`, 404},
		"no CAR, by any tag":             {"/ipfs/" + absent + "?format=car", "*", 404},
		"no path, by any tag":            {"/ipfs/" + f.dir.String() + "/x?format=car", "*", 404},
		"no name, by any tag":            {"/ipns/" + name + "?format=ipns-record", "*", 404},
		"no bitmap, by any tag":          {"/have/" + there, "*", 404},
		"a refused request, by any tag":  {"/ipfs/" + there + "?format=tar", "*", 400},
		"an unacceptable one, likewise":  {"/ipfs/" + there, "*", 406},
		"a block with many tags, by one": {"/ipfs/" + there + "?format=raw", strings.Repeat(`"x", `, 50) + `"` + there + `.raw"`, 304},
	} {
		for _, s := range []*httptest.Server{indexed, bare} {
			at := fixture{Server: s}
			resp, _ := at.do(t, "GET", row.path, "If-None-Match", row.tag)
			if resp.StatusCode != row.want || resp.StatusCode == 304 && resp.Header.Get("Etag") == "" {
				t.Errorf("%s: status %d, want %d; Etag %q", label, resp.StatusCode, row.want, resp.Header.Get("Etag"))
			}
		}
	}
}
