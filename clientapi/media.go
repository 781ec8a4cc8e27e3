// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"tarn/matrix"
	"tarn/media"
)

// written is the answer of a handler that has written one itself.
type written struct{}

// mxc is the URI of a file of this node (C-S API, "Matrix Content (mxc://) URIs").
func (a *API) mxc(id string) string { return "mxc://" + string(a.cfg.Server) + "/" + id }

// mediaConfig: GET /media/config.
func (a *API) mediaConfig(*call) (any, error) {
	return map[string]int64{"m.upload.size": a.cfg.Media.MaxUpload()}, nil
}

// createMedia: POST /media/v1/create: an id now, the file later.
func (a *API) createMedia(c *call) (any, error) {
	id, expires, err := a.cfg.Media.Create(c.who.User)
	return map[string]any{"content_uri": a.mxc(id), "unused_expires_at": expires.UnixMilli()}, err
}

// upload: POST /media/v3/upload?filename=.
func (a *API) upload(c *call) (any, error) {
	id, err := a.cfg.Media.Upload(c.who.User, c.file(), c.r.ContentLength, c.fileMeta())
	return map[string]string{"content_uri": a.mxc(id)}, brokenOff(err)
}

// uploadInto: PUT /media/v3/upload/{serverName}/{mediaId}?filename=.
func (a *API) uploadInto(c *call) (any, error) {
	if c.path("server") != string(a.cfg.Server) {
		return nil, notFound("that is a place of another server")
	}
	err := a.cfg.Media.Fill(c.who.User, c.path("media"), c.file(), c.r.ContentLength, c.fileMeta())
	return empty{}, brokenOff(err)
}

func (c *call) fileMeta() media.Meta {
	return media.Meta{Type: c.r.Header.Get("Content-Type"), Name: c.query("filename")}
}

// file is the request's body, of any length: package media bounds it. A client that goes on sending is waited for.
func (c *call) file() io.Reader { return &patient{c: c} }

type patient struct {
	c    *call
	left int // bytes until the deadline moves on
}

func (p *patient) Read(b []byte) (int, error) {
	if p.left <= 0 {
		p.left = 256 << 10
		_ = http.NewResponseController(p.c.w).SetReadDeadline(patience(bodyTimeout, int64(p.left)))
	}
	n, err := p.c.r.Body.Read(b)
	p.left -= n
	if errors.Is(err, io.EOF) { // all of it is here: see body
		_ = http.NewResponseController(p.c.w).SetReadDeadline(time.Time{})
	} else if err != nil {
		err = errBody{err}
	}
	return n, err
}

// errBody is an error of the client's connection, not of the node's disk.
type errBody struct{ error }

func (e errBody) Unwrap() error { return e.error }

func brokenOff(err error) error {
	var b errBody
	if errors.As(err, &b) || errors.Is(err, media.ErrCut) {
		return &Error{Status: http.StatusBadRequest, Code: matrix.ErrcodeUnknown, Text: "the request's body did not arrive whole"}
	}
	return err
}

// How long a download waits for its upload (C-S API, "timeout_ms").
const (
	mediaWait    = 20 * time.Second
	maxMediaWait = time.Minute
)

// openMedia checks who asks for what, and waits for the file if it is still to come. thumbnail: that of another server's file will do, and then is one.
func (a *API) openMedia(c *call, thumbnail bool) (f *media.File, isThumbnail bool, err error) {
	if c.who.User == "" && !a.cfg.OpenMedia {
		return nil, false, notFound("this server gives files only to who is logged in: use /_matrix/client/v1/media")
	}
	ms, err := c.queryInt("timeout_ms", mediaWait.Milliseconds())
	if err != nil {
		return nil, false, err
	}
	ctx, stop := c.drain()
	defer stop()
	ctx, done := context.WithTimeout(ctx, min(max(time.Duration(ms), 0), maxMediaWait/time.Millisecond)*time.Millisecond)
	defer done()
	r := media.Remote{Server: matrix.ServerName(c.path("server")), ID: c.path("media"), Small: thumbnail}
	if r.Server == a.cfg.Server {
		f, err = a.cfg.Media.Get(ctx, r.ID)
		return f, false, err
	}
	// It is asked for, if it is not here, for who is logged in, of a server that can be asked.
	f, isThumbnail, err = a.cfg.Media.GetRemote(ctx, r, c.who.User != "" && a.cfg.Reaches != nil && a.cfg.Reaches(r.Server))
	return f, isThumbnail, notHere(err)
}

// notHere says why another server's file is not here (C-S API, "GET /_matrix/client/v1/media/download": 502, 504).
func notHere(err error) error {
	var not *media.NotComing
	var wait *media.Waiting
	switch {
	case errors.As(err, &wait):
		return &Error{Status: http.StatusGatewayTimeout, Code: matrix.ErrcodeNotYetUploaded, Text: wait.Error()}
	case errors.As(err, &not) && not.Large:
		return &Error{Status: http.StatusBadGateway, Code: matrix.ErrcodeTooLarge, Text: not.Error()}
	case errors.As(err, &not) && not.Gone:
		return notFound(not.Error())
	case errors.As(err, &not):
		return &Error{Status: http.StatusBadGateway, Code: matrix.ErrcodeUnknown, Text: not.Error()}
	case errors.Is(err, media.ErrUnreached):
		return notFound("the file is not here, and its server is no contact of this node: exchange a link with it")
	case errors.Is(err, media.ErrPending):
		return &Error{Status: http.StatusTooManyRequests, Code: matrix.ErrcodeLimitExceeded, Text: "too many files of that server are asked for: try again when some are here", RetryAfter: time.Minute}
	}
	return err
}

// download: GET /media/download/{serverName}/{mediaId}[/{fileName}].
func (a *API) download(c *call) (any, error) {
	f, _, err := a.openMedia(c, false)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if name := c.path("name"); name != "" {
		f.Meta.Name = media.CleanName(name)
	}
	c.serveFile(f)
	return written{}, nil
}

// thumbnail: GET /media/thumbnail/{serverName}/{mediaId}. Thumbnails that are made are still; with animated=true the file itself may be
// given where it is small enough.
func (a *API) thumbnail(c *call) (any, error) {
	var size [2]int
	for i, name := range []string{"width", "height"} {
		if c.query(name) == "" {
			return nil, missing(name)
		}
		n, err := strconv.Atoi(c.query(name))
		if err != nil || n <= 0 {
			return nil, &Error{Status: http.StatusBadRequest, Code: matrix.ErrcodeUnknown, Text: name + " must be a whole number above 0"}
		}
		size[i] = n
	}
	method := c.query("method")
	if method != "" && method != "scale" && method != "crop" {
		return nil, invalid("method must be scale or crop")
	}
	animated := c.query("animated")
	if animated != "" && animated != "true" && animated != "false" {
		return nil, invalid("animated must be true or false")
	}
	whole, isThumbnail, err := a.openMedia(c, true)
	if err != nil {
		return nil, err
	}
	if isThumbnail {
		defer whole.Close()
		c.serveFile(whole)
		return written{}, nil
	}
	ctx, stop := c.drain()
	defer stop()
	f, err := a.cfg.Media.Thumbnail(ctx, whole, size[0], size[1], method == "crop", animated == "true")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	c.serveFile(f)
	return written{}, nil
}

// inline are the content types that a browser may show (C-S API, "Serving inline content"); all others are for saving.
var inline = strings.Fields(`text/css text/plain text/csv application/json application/ld+json image/jpeg image/gif image/png
	image/apng image/webp image/avif video/mp4 video/webm video/ogg video/quicktime audio/mp4 audio/webm audio/aac
	audio/mpeg audio/ogg audio/wave audio/wav audio/x-wav audio/x-pn-wav audio/flac audio/x-flac`)

// fileHeaders make a file harmless, whatever is in it (C-S API, "Serving inline content", "Security considerations"): it runs
// no script, is not sniffed for another type, and may be shown in a client's page, which is of another origin.
func fileHeaders(h http.Header, m media.Meta) {
	base, _, err := mime.ParseMediaType(m.Type)
	how := "attachment"
	if err == nil && slices.Contains(inline, base) {
		how = "inline"
	}
	if m.Type == "" || err != nil {
		m.Type = "application/octet-stream"
	}
	var params map[string]string
	if m.Name != "" {
		params = map[string]string{"filename": m.Name}
	}
	h.Set("Content-Type", m.Type)
	h.Set("Content-Disposition", mime.FormatMediaType(how, params))
	h.Set("Content-Security-Policy", "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; style-src 'unsafe-inline'; object-src 'self';")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cross-Origin-Resource-Policy", "cross-origin")
	h.Set("Referrer-Policy", "no-referrer")
	// A file never changes. The token that asked for it may end: the browser keeps it, no cache between.
	h.Set("Cache-Control", "private, max-age=604800, immutable")
}

// serveFile answers with a file, whole or in ranges (RFC 9110, "Range Requests").
func (c *call) serveFile(f *media.File) {
	fileHeaders(c.w.Header(), f.Meta)
	c.w.Header().Set("ETag", `"`+f.Hash+`"`)
	_ = http.NewResponseController(c.w).SetWriteDeadline(patience(writeTimeout, f.Size))
	http.ServeContent(c.w, c.r, "", time.Time{}, f)
}
