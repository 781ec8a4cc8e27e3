// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"bytes"
	"image"
	"image/png"
	"io"
	"mime"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tarn/media"
)

// ask makes a request with headers.
func (d *device) ask(method, path, body string, header ...string) answer {
	d.n.t.Helper()
	q := httptest.NewRequestWithContext(d.n.t.Context(), method, path, strings.NewReader(body))
	if d.token != "" {
		q.Header.Set("Authorization", "Bearer "+d.token)
	}
	for i := 0; i+1 < len(header); i += 2 {
		q.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	d.n.api.ServeHTTP(w, q)
	if w.Code < 300 {
		passed.note(q.Pattern, d.n.t.Name())
	}
	return answer{d.n.t, method + " " + path, w.Code, w.Header(), w.Body.String()}
}

// upload gives server/id.
func (d *device) upload(body, typ, query string) string {
	d.n.t.Helper()
	o := d.ask("POST", "/_matrix/media/v3/upload"+query, body, "Content-Type", typ).ok()
	uri, ok := strings.CutPrefix(o["content_uri"].(string), "mxc://")
	if !ok {
		d.n.t.Fatalf("no mxc URI: %v", o)
	}
	return uri
}

const (
	downloads  = "/_matrix/client/v1/media/download/"
	thumbnails = "/_matrix/client/v1/media/thumbnail/"
)

func picture(w, h int) string {
	var b bytes.Buffer
	if err := png.Encode(&b, image.NewGray(image.Rect(0, 0, w, h))); err != nil {
		panic(err)
	}
	return b.String()
}

func TestUploadedFilesComeBackAsTheyWere(t *testing.T) {
	n := newNode(t)
	alice, bob := n.person("alice"), n.person("bob")
	if c := alice.do("GET", "/_matrix/client/v1/media/config", nil).ok(); c["m.upload.size"] != float64(1<<20) {
		t.Errorf("config: %v", c)
	}
	alice.do("GET", "/_matrix/media/v3/config", nil).ok()
	for _, c := range []struct{ typ, query, wantType, disposition, name string }{
		{"image/png", "?filename=a.png", "image/png", "inline", "a.png"},
		{"text/plain; charset=utf-8", "", "text/plain; charset=utf-8", "inline", ""},
		{"text/html", "?filename=x.html", "text/html", "attachment", "x.html"},
		{"image/svg+xml", "?filename=x.svg", "image/svg+xml", "attachment", "x.svg"},
		{"application/javascript", "", "application/javascript", "attachment", ""},
		{"application/pdf", "?filename=%C3%BC.pdf", "application/pdf", "attachment", "ü.pdf"},
		{"", "", "application/octet-stream", "attachment", ""},
		{"nonsense", "?filename=..%2F..%2Fetc%2Fpasswd", "application/octet-stream", "attachment", "passwd"},
		{"text/plain", `?filename=a%22%0d%0aX-Evil:1`, "text/plain", "inline", `a"X-Evil:1`},
		{"Application/XHTML+xml", "", "application/xhtml+xml", "attachment", ""},
	} {
		uri := alice.upload("hello "+c.typ, c.typ, c.query)
		for _, prefix := range []string{downloads, "/_matrix/media/v3/download/", "/_matrix/media/r0/download/"} {
			a := bob.ask("GET", prefix+uri+"?allow_redirect=true", "")
			if a.status != 200 || a.raw != "hello "+c.typ || a.header.Get("Content-Type") != c.wantType {
				t.Fatalf("%s: %d %q %v", c.typ, a.status, a.raw, a.header)
			}
			how, params, err := mime.ParseMediaType(a.header.Get("Content-Disposition"))
			if err != nil || how != c.disposition || params["filename"] != c.name {
				t.Errorf("%s: %q: %v %q %v", c.typ, a.header.Get("Content-Disposition"), how, params, err)
			}
			for name, want := range map[string]string{
				"X-Content-Type-Options": "nosniff", "Cross-Origin-Resource-Policy": "cross-origin",
				"Access-Control-Allow-Origin": "*", "X-Evil": "",
			} {
				if got := a.header.Get(name); got != want {
					t.Errorf("%s: %s is %q", c.typ, name, got)
				}
			}
			if csp := a.header.Get("Content-Security-Policy"); !strings.Contains(csp, "sandbox") || !strings.Contains(csp, "script-src 'none'") {
				t.Errorf("%s: policy %q", c.typ, csp)
			}
		}
		for _, prefix := range []string{downloads, "/_matrix/media/v3/download/"} {
			named := bob.ask("GET", prefix+uri+"/"+"other%20name.txt", "")
			if _, params, _ := mime.ParseMediaType(named.header.Get("Content-Disposition")); params["filename"] != "other name.txt" {
				t.Errorf("the name that was asked for: %v", named.header)
			}
		}
	}
}

func TestDownloadsInRanges(t *testing.T) {
	n := newNode(t)
	alice := n.person("alice")
	uri := alice.upload("0123456789", "audio/ogg", "")
	etag := alice.ask("GET", downloads+uri, "").header.Get("ETag")
	for _, c := range []struct {
		name, value string
		status      int
		body        string
	}{
		{"Range", "bytes=0-3", 206, "0123"},
		{"Range", "bytes=7-", 206, "789"},
		{"Range", "bytes=-2", 206, "89"},
		{"Range", "bytes=5-100", 206, "56789"},
		{"Range", "bytes=10-", 416, ""},
		{"Range", "bytes=a-b", 416, ""},
		{"Range", "lines=0-1", 416, ""},
		{"Range", "bytes=0-9,0-9,0-9,0-9", 200, "0123456789"}, // more than the file itself
		{"If-None-Match", etag, 304, ""},
		{"If-None-Match", `"other"`, 200, "0123456789"},
	} {
		a := alice.ask("GET", downloads+uri, "", c.name, c.value)
		if a.status != c.status || c.body != "" && a.raw != c.body {
			t.Errorf("%s %s: %d %q", c.name, c.value, a.status, a.raw)
		}
	}
	if a := alice.ask("HEAD", downloads+uri, ""); a.status != 200 || a.raw != "" || a.header.Get("Content-Length") != "10" {
		t.Errorf("HEAD: %d %q %v", a.status, a.raw, a.header)
	}
}

func TestMediaErrors(t *testing.T) {
	n := newNode(t)
	alice, bob := n.person("alice"), n.person("bob")
	uri := alice.upload("x", "text/plain", "")
	pic := alice.upload(picture(100, 50), "image/png", "")
	server, id, _ := strings.Cut(uri, "/")
	other := "abcdefghijklmnopqrstuvwxyz234567abcdefghijklmnopqrstuvwx.onion"
	place := strings.TrimPrefix(alice.do("POST", "/_matrix/media/v1/create", nil).ok()["content_uri"].(string), "mxc://")
	stranger := &device{n: n}
	for _, c := range []struct {
		who          *device
		method, path string
		status       int
		code         string
	}{
		{stranger, "GET", downloads + uri, 401, "M_MISSING_TOKEN"},
		{stranger, "GET", "/_matrix/media/v3/download/" + uri, 404, "M_NOT_FOUND"}, // frozen
		{stranger, "GET", "/_matrix/media/v3/thumbnail/" + pic + "?width=1&height=1", 404, "M_NOT_FOUND"},
		{stranger, "POST", "/_matrix/media/v3/upload", 401, "M_MISSING_TOKEN"},
		{alice, "GET", downloads + server + "/nothing", 404, "M_NOT_FOUND"},
		{alice, "GET", downloads + server + "/AAAAAAAAAAAAAAAAAAAAAA", 404, "M_NOT_FOUND"},
		{alice, "GET", downloads + server + "/..%2F..%2Fdb", 404, "M_NOT_FOUND"},
		{alice, "GET", downloads + other + "/" + id, 404, "M_NOT_FOUND"},
		{alice, "GET", downloads + place + "?timeout_ms=0", 504, "M_NOT_YET_UPLOADED"},
		{alice, "GET", downloads + place + "?timeout_ms=x", 400, "M_INVALID_PARAM"},
		{alice, "GET", thumbnails + uri + "?width=32&height=32", 400, "M_UNKNOWN"}, // no picture
		{alice, "GET", thumbnails + pic + "?width=32", 400, "M_MISSING_PARAM"},
		{alice, "GET", thumbnails + pic + "?width=1.5&height=1", 400, "M_UNKNOWN"},
		{alice, "GET", thumbnails + pic + "?width=-1&height=1", 400, "M_UNKNOWN"},
		{alice, "GET", thumbnails + pic + "?width=1&height=1&method=squeeze", 400, "M_INVALID_PARAM"},
		{bob, "PUT", "/_matrix/media/v3/upload/" + place, 403, "M_FORBIDDEN"},
		{alice, "PUT", "/_matrix/media/v3/upload/" + uri, 409, "M_CANNOT_OVERWRITE_MEDIA"},
		{alice, "PUT", "/_matrix/media/v3/upload/" + server + "/nothing", 404, "M_NOT_FOUND"},
		{alice, "PUT", "/_matrix/media/v3/upload/" + other + "/" + id, 404, "M_NOT_FOUND"},
		{alice, "GET", "/_matrix/client/v1/media/preview_url?url=http://x", 404, "M_UNRECOGNIZED"},
		{alice, "DELETE", downloads + uri, 405, "M_UNRECOGNIZED"},
	} {
		body := ""
		if c.method != "GET" {
			body = "data"
		}
		c.who.ask(c.method, c.path, body).fails(c.status, c.code)
	}
	big := strings.Repeat("x", 1<<20+1)
	alice.ask("POST", "/_matrix/media/v3/upload", big).fails(413, "M_TOO_LARGE")
	alice.ask("PUT", "/_matrix/media/v3/upload/"+place, "now").ok()
	if a := bob.ask("GET", downloads+place, ""); a.raw != "now" {
		t.Errorf("the file of a place: %d %s", a.status, a.raw)
	}
	for i := range 101 {
		if a := bob.do("POST", "/_matrix/media/v1/create", nil); i == 100 {
			a.fails(429, "M_LIMIT_EXCEEDED")
		} else {
			a.ok()
		}
	}
}

func TestQuotaOfAllFiles(t *testing.T) {
	n := newNode(t)
	files, err := media.Open(t.TempDir(), n.kv, media.Options{Quota: 8})
	if err != nil {
		t.Fatal(err)
	}
	n.api.cfg.Media = files
	alice := n.person("alice")
	alice.upload("123456", "", "")
	alice.ask("POST", "/_matrix/media/v3/upload", "abcdef").fails(403, "M_FORBIDDEN")
}

func TestThumbnails(t *testing.T) {
	n := newNode(t)
	alice := n.person("alice")
	uri := alice.upload(picture(1000, 500), "image/png", "")
	for _, c := range []struct {
		query string
		w, h  int
	}{
		{"width=32&height=32&method=crop", 32, 32},
		{"width=100&height=100&method=scale", 320, 160},
		{"width=100&height=100", 320, 160},
		{"width=100&height=100&animated=true", 320, 160},
		{"width=99999&height=99999", 1000, 500}, // the file itself
	} {
		a := alice.ask("GET", thumbnails+uri+"?"+c.query, "")
		if elder := alice.ask("GET", "/_matrix/media/v3/thumbnail/"+uri+"?"+c.query, ""); elder.status != a.status || elder.raw != a.raw {
			t.Errorf("%s: the frozen path gives something else: %d", c.query, elder.status)
		}
		img, err := png.DecodeConfig(strings.NewReader(a.raw))
		if a.header.Get("Content-Type") == "image/jpeg" {
			img, _, err = image.DecodeConfig(strings.NewReader(a.raw))
		}
		if a.status != 200 || err != nil || img.Width != c.w || img.Height != c.h {
			t.Errorf("%s: %d %dx%d %v", c.query, a.status, img.Width, img.Height, err)
		}
		if !strings.HasPrefix(a.header.Get("Content-Disposition"), "inline") || a.header.Get("Content-Security-Policy") == "" {
			t.Errorf("%s: %v", c.query, a.header)
		}
	}
}

func TestOldPathsWithoutATokenOnLoopback(t *testing.T) {
	n := newNode(t, func(c *Config) { c.OpenMedia = true })
	uri := n.person("alice").upload("hello", "text/plain", "")
	a := n.request("", "GET", "/_matrix/media/r0/download/"+uri+"?allow_remote=true", nil)
	if a.status != 200 || a.raw != "hello" {
		t.Errorf("%d %s", a.status, a.raw)
	}
	n.request("", "GET", downloads+uri, nil).fails(401, "M_MISSING_TOKEN")
	// matrix-nio asks for a file without a name of its own with an empty one.
	if a := n.request("", "GET", "/_matrix/media/r0/download/"+uri+"/?allow_remote=true", nil); a.status != 200 || a.raw != "hello" {
		t.Errorf("%d %s", a.status, a.raw)
	}
}

// A client that stops sending is let go; one that goes on, however slowly in all, is not.
func TestASlowUploadIsWaitedForAndADeadOneIsNot(t *testing.T) {
	for _, c := range []struct {
		name   string
		pieces int // of 100,000 bytes, one each 8 seconds
		answer string
	}{{"slow", 9, "HTTP/1.1 200"}, {"dead", 1, "HTTP/1.1 400"}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNode(t)
				alice := n.person("alice")
				_, l, stop := served(t, n)
				conn, err := l.dial(t.Context(), "", "")
				if err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				go func() {
					io.WriteString(conn, "POST /_matrix/media/v3/upload HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\nAuthorization: Bearer "+alice.token+"\r\n\r\n")
					for range c.pieces {
						conn.Write(make([]byte, 100_000))
						time.Sleep(8 * time.Second)
					}
				}()
				got := make([]byte, len(c.answer))
				if _, err := io.ReadFull(conn, got); err != nil || string(got) != c.answer {
					t.Errorf("%q %v", got, err)
				}
				if took := time.Since(began); took > 3*time.Minute {
					t.Errorf("it took %v", took)
				}
				conn.Close()
				if err := stop(); err != nil {
					t.Error(err)
				}
				time.Sleep(time.Minute) // the client's and net/http's own last sleeps
			})
		})
	}
}

func FuzzMediaHeaders(f *testing.F) {
	n := newNode(f)
	alice := n.person("alice")
	f.Add("text/html", "a.html", "bytes=0-1", "name")
	f.Add("image/png\r\nX: y", "\u202ea", "bytes=-1,0-0,1-", "%2f")
	f.Fuzz(func(t *testing.T, typ, name, ranges, asked string) {
		m := media.Meta{Type: media.CleanType(typ), Name: media.CleanName(name)}
		id, err := n.api.cfg.Media.Upload(alice.user, strings.NewReader("0123456789"), 10, m)
		if err != nil {
			t.Fatal(err)
		}
		q := httptest.NewRequest("GET", downloads+string(n.server)+"/"+id+"/"+esc("x"+asked), nil)
		q.Header.Set("Authorization", "Bearer "+alice.token)
		q.Header["Range"] = []string{ranges}
		w := httptest.NewRecorder()
		n.api.ServeHTTP(w, q)
		switch w.Code {
		case 200, 206, 416:
		case 404: // a name of dots only is no path
			return
		default:
			t.Fatal(w.Code, w.Body)
		}
		if w.Code != 416 && w.Body.Len() > 1<<10 && !strings.HasPrefix(w.Header().Get("Content-Type"), "multipart/byteranges") {
			t.Fatalf("%d bytes of ten", w.Body.Len())
		}
		how, _, err := mime.ParseMediaType(w.Header().Get("Content-Disposition"))
		if err != nil || how != "inline" && how != "attachment" || w.Header().Get("Content-Security-Policy") == "" {
			t.Fatal(w.Header())
		}
		for k, vs := range w.Header() {
			for _, v := range vs {
				if strings.ContainsAny(v, "\r\n\x00") {
					t.Fatalf("%s: %q", k, v)
				}
			}
		}
	})
}
