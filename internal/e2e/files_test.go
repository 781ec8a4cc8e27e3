// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tarn/mailbox/mailboxtest"
	"tarn/mailbox/store"
	"tarn/matrix"
	"tarn/media"
	"tarn/replicate"
)

const mediaPath = "/_matrix/client/v1/media"

// upload gives the file to the node as its client does, and returns its mxc URI.
func (n *node) upload(contentType, name string, b []byte) string {
	n.t.Helper()
	req := httptest.NewRequestWithContext(n.t.Context(), "POST", "/_matrix/media/v3/upload?filename="+name, bytes.NewReader(b))
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("Authorization", "Bearer "+n.token)
	w := httptest.NewRecorder()
	n.api.ServeHTTP(w, req)
	var a struct {
		URI string `json:"content_uri"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil || w.Code != http.StatusOK || a.URI == "" {
		n.t.Fatalf("%s: upload: %d %s", n.name, w.Code, w.Body)
	}
	return a.URI
}

// file asks a node for a file by its mxc URI, once; wait is the client's timeout_ms.
func (n *node) file(kind, mxc, query string, wait time.Duration) *httptest.ResponseRecorder {
	n.t.Helper()
	path := fmt.Sprintf("%s/%s/%s?timeout_ms=%d%s", mediaPath, kind, strings.TrimPrefix(mxc, "mxc://"), wait.Milliseconds(), query)
	req := httptest.NewRequestWithContext(n.t.Context(), "GET", path, nil)
	req.Header.Set("Authorization", "Bearer "+n.token)
	w := httptest.NewRecorder()
	n.api.ServeHTTP(w, req)
	return w
}

// fetch asks until the file is there; what a client is told before must be that it is not there yet.
func (n *node) fetch(kind, mxc, query string, limit time.Duration) (w *httptest.ResponseRecorder, told []string) {
	n.t.Helper()
	for end := time.Now().Add(limit); time.Now().Before(end); {
		before := time.Now()
		w = n.file(kind, mxc, query, 20*time.Second)
		if w.Code == http.StatusOK {
			return w, told
		}
		if w.Code != http.StatusGatewayTimeout || !strings.Contains(w.Body.String(), "M_NOT_YET_UPLOADED") {
			n.t.Fatalf("%s: %s: %d %s", n.name, kind, w.Code, w.Body)
		}
		if waited := time.Since(before); waited < 20*time.Second || waited > 21*time.Second {
			n.t.Fatalf("%s: answered after %v", n.name, waited)
		}
		told = append(told, w.Body.String())
	}
	n.t.Fatalf("%s: no %s within %v; told %v", n.name, kind, limit, told)
	return nil, nil
}

// noise is a file that does not compress.
func noise(seed byte, size int) []byte {
	b := make([]byte, size)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// picture is a PNG of about 4·side² bytes.
func picture(t *testing.T, side int) []byte {
	t.Helper()
	img := image.NewNRGBA(image.Rect(0, 0, side, side))
	copy(img.Pix, noise(9, len(img.Pix)))
	for i := 3; i < len(img.Pix); i += 4 {
		img.Pix[i] = 0xff
	}
	img.Set(0, 0, color.White)
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func (n *node) send(room, txn string, content object) {
	n.t.Helper()
	n.call("PUT", client+"/rooms/"+room+"/send/m.room.message/"+txn, content, nil)
}

// meetQuick is meet with frames of 100 ms, and a mailbox that lists what is new as often.
func meetQuick(t *testing.T) (box *mailboxtest.Mailbox, alice, bob *node, room, since string) {
	p := replicate.CustomProfile(100*time.Millisecond, 0.3)
	return meetIn(t, &p, mailboxtest.New(t, mailboxtest.WithConfig(func(c *store.Config) { c.Bucket = 100 * time.Millisecond })))
}

// TestAPictureCrosses: a picture that an event names comes without anybody asking, its thumbnail long before it; its size, type and name with it. A
// request at its own time makes no traffic.
func TestAPictureCrosses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := profile()
		box, alice, bob, room, since := meetAt(t, &p)
		whole := picture(t, 300)
		mxc := alice.upload("image/png", "cat.png", whole)
		alice.send(room, "1", object{"msgtype": "m.image", "body": "cat.png", "url": mxc, "info": object{"size": len(whole), "mimetype": "image/png"}})
		bob.await(since, "the picture's event", time.Hour, func(a syncAnswer) bool { return len(a.texts(room)) == 1 })
		start, before := time.Now(), len(box.Transactions())
		if w := bob.file("download", mxc, "", 0); w.Code != http.StatusGatewayTimeout || !time.Now().Equal(start) || len(box.Transactions()) != before {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		small, _ := bob.fetch("thumbnail", mxc, "&width=320&height=240&method=scale", time.Hour)
		first := time.Since(start)
		if img, _, err := image.Decode(small.Body); err != nil || img.Bounds().Dx() > 320 {
			t.Errorf("a thumbnail of %v: %v", img, err)
		}
		w, told := bob.fetch("download", mxc, "", 6*time.Hour)
		t.Logf("thumbnail after %v, %d bytes after %v", first, len(whole), time.Since(start))
		if !bytes.Equal(w.Body.Bytes(), whole) || w.Header().Get("Content-Type") != "image/png" || !strings.Contains(w.Header().Get("Content-Disposition"), "cat.png") {
			t.Errorf("%d bytes of %d, %v", w.Body.Len(), len(whole), w.Header())
		}
		if !slices.ContainsFunc(told, func(s string) bool { return strings.Contains(s, " parts are here") && !strings.Contains(s, " 0 of ") }) {
			t.Errorf("no progress was told: %v", told)
		}
		// What is small first is made here from the whole later, in the size that is asked for.
		w, _ = bob.fetch("thumbnail", mxc, "&width=96&height=96&method=crop", time.Second)
		if img, _, err := image.Decode(w.Body); err != nil || img.Bounds().Dx() != 96 {
			t.Error(img.Bounds(), err)
		}
	})
}

// TestAnEncryptedAttachmentCrosses: the event hides the file from the node, so it comes when a client asks; encrypted as the spec's EncryptedFile.
func TestAnEncryptedAttachmentCrosses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, alice, bob, room, since := meetQuick(t)
		plain := noise(3, 30_000)
		key, iv := noise(1, 32), append(noise(2, 8), make([]byte, 8)...)
		block, err := aes.NewCipher(key)
		if err != nil {
			t.Fatal(err)
		}
		sealed := make([]byte, len(plain))
		cipher.NewCTR(block, iv).XORKeyStream(sealed, plain)
		sum := sha256.Sum256(sealed)
		mxc := alice.upload("application/octet-stream", "", sealed)
		// To the node all of it is one text; only what clients do with it is not.
		text, _ := json.Marshal(object{"url": mxc, "iv": base64.RawStdEncoding.EncodeToString(iv), "hashes": object{"sha256": base64.RawStdEncoding.EncodeToString(sum[:])}})
		alice.call("PUT", client+"/rooms/"+room+"/send/m.room.encrypted/1", object{"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": base64.StdEncoding.EncodeToString(text)}, nil)
		var told struct {
			URL    string
			Hashes struct{ SHA256 string }
		}
		bob.await(since, "the event", time.Hour, func(a syncAnswer) bool {
			for _, e := range a.Rooms.Join[room].Timeline.Events {
				if s, ok := e.Content["ciphertext"].(string); ok {
					b, _ := base64.StdEncoding.DecodeString(s)
					return json.Unmarshal(b, &told) == nil
				}
			}
			return false
		})
		time.Sleep(10 * time.Second)
		if w := bob.file("download", told.URL, "", 0); w.Code != http.StatusGatewayTimeout {
			t.Fatalf("the node asked for what it cannot know: %d", w.Code)
		}
		w, _ := bob.fetch("download", told.URL, "", time.Hour)
		if got := sha256.Sum256(w.Body.Bytes()); base64.RawStdEncoding.EncodeToString(got[:]) != told.Hashes.SHA256 {
			t.Error("another file came")
		}
		cipher.NewCTR(block, iv).XORKeyStream(sealed, w.Body.Bytes())
		if !bytes.Equal(sealed, plain) {
			t.Error("it does not decrypt")
		}
	})
}

// TestAFileGoesOnAfterEitherNodeStops: what was here stays here, what was given is not given again.
func TestAFileGoesOnAfterEitherNodeStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box, alice, bob, room, _ := meetQuick(t)
		whole := noise(4, 400_000) // 151 parts, 51 boxes
		mxc := alice.upload("application/zip", "a.zip", whole)
		alice.send(room, "1", object{"msgtype": "m.file", "body": "a.zip", "url": mxc})
		here := func() (n, of int) {
			w := bob.file("download", mxc, "", 0)
			if w.Code == http.StatusOK {
				return 1, 1
			}
			var e struct{ Error string }
			if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil {
				t.Fatal(err)
			}
			fmt.Sscanf(e.Error, "%d of %d parts", &n, &of)
			return n, of
		}
		await := func(atLeast int) {
			t.Helper()
			for end := time.Now().Add(10 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
				if n, of := here(); n >= atLeast && of > 1 {
					return
				} else if time.Now().After(end) || n == 1 && of == 1 {
					t.Fatalf("%d of %d", n, of)
				}
			}
		}
		await(20)
		before, _ := here()
		bob.again()
		if n, of := here(); n < before || of != 151 {
			t.Fatalf("after a restart of the receiver %d of %d, before %d", n, of, before)
		}
		await(60)
		alice.again()
		await(100)
		alice.stop()
		bob.again()
		alice.rebuild()
		alice.start()
		w, _ := bob.fetch("download", mxc, "", 10*time.Minute)
		if !bytes.Equal(w.Body.Bytes(), whole) {
			t.Error("another file came")
		}
		_ = box
	})
}

// TestAGreatFileDelaysNoMessages: while 5 MB cross, messages take as long as without.
func TestAGreatFileDelaysNoMessages(t *testing.T) {
	long(t)
	synctest.Test(t, func(t *testing.T) {
		_, alice, bob, room, since := meetQuick(t)
		n := 0
		say := func(count int) (mean, worst time.Duration) {
			for range count {
				n++
				body := fmt.Sprint("message ", n)
				start := time.Now()
				alice.send(room, fmt.Sprint("t", n), object{"msgtype": "m.text", "body": body})
				since = bob.await(since, body, time.Minute, func(a syncAnswer) bool { return slices.Contains(a.texts(room), body) })
				took := time.Since(start)
				mean, worst = mean+took/time.Duration(count), max(worst, took)
				time.Sleep(500 * time.Millisecond)
			}
			return mean, worst
		}
		quiet, quietWorst := say(20)
		whole := noise(5, 5_000_000)
		mxc := alice.upload("video/mp4", "a.mp4", whole)
		start := time.Now()
		alice.send(room, "file", object{"msgtype": "m.video", "body": "a.mp4", "url": mxc, "info": object{"size": len(whole)}})
		time.Sleep(5 * time.Second)
		busy, busyWorst := say(20)
		if w := bob.file("download", mxc, "", 0); w.Code == http.StatusOK {
			t.Error("the file was there before the messages")
		}
		w, _ := bob.fetch("download", mxc, "", time.Hour)
		t.Logf("5 MB in %v (1,880 parts, 627 boxes, frames of 100 ms); messages %v (at most %v) without it, %v (%v) meanwhile", time.Since(start), quiet, quietWorst, busy, busyWorst)
		if !bytes.Equal(w.Body.Bytes(), whole) {
			t.Error("another file came")
		}
		if busy > 3*quiet/2+200*time.Millisecond {
			t.Errorf("messages take %v, %v without a file", busy, quiet)
		}
	})
}

// TestWhoGetsNoFile: what does not exist, what is too large, what nobody may have, and whose server is no contact, each with its answer.
func TestWhoGetsNoFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, alice, bob, room, _ := meetQuick(t)
		answer := func(mxc string) *httptest.ResponseRecorder {
			t.Helper()
			for end := time.Now().Add(10 * time.Minute); time.Now().Before(end); {
				if w := bob.file("download", mxc, "", 20*time.Second); w.Code != http.StatusGatewayTimeout {
					return w
				}
			}
			t.Fatal("no answer")
			return nil
		}
		server := alice.user.Homeserver()
		if w := answer("mxc://" + server + "/" + base64.RawURLEncoding.EncodeToString(make([]byte, 16))); w.Code != http.StatusNotFound {
			t.Errorf("what is not there: %d %s", w.Code, w.Body)
		}
		if w := answer("mxc://" + strings.Repeat("a", 56) + ".onion/" + base64.RawURLEncoding.EncodeToString(make([]byte, 16))); w.Code != http.StatusNotFound || !strings.Contains(w.Body.String(), "no contact") {
			t.Errorf("of a stranger: %d %s", w.Code, w.Body)
		}
		if w := answer("mxc://" + server + "/no-id"); w.Code != http.StatusNotFound {
			t.Errorf("no id: %d %s", w.Code, w.Body)
		}
		bob.limits.RemoteMax = 10_000
		bob.again()
		if w := answer(alice.upload("text/plain", "", noise(6, 10_001))); w.Code != http.StatusBadGateway || !strings.Contains(w.Body.String(), "M_TOO_LARGE") || !strings.Contains(w.Body.String(), "10001") {
			t.Errorf("too large: %d %s", w.Code, w.Body)
		}
		bob.limits.RemoteQuota = 15_000
		bob.again()
		if w := answer(alice.upload("text/plain", "", noise(7, 9000))); w.Code != http.StatusOK {
			t.Errorf("one that fits: %d %s", w.Code, w.Body)
		}
		if w := answer(alice.upload("text/plain", "", noise(8, 9000))); w.Code != http.StatusBadGateway || !strings.Contains(w.Body.String(), "space") {
			t.Errorf("a quota: %d %s", w.Code, w.Body)
		}
		// Who shares no room with the uploader any more knows the name and gets nothing.
		mxc := alice.upload("text/plain", "", noise(9, 3000))
		alice.call("POST", client+"/rooms/"+room+"/leave", object{}, nil)
		if w := answer(mxc); w.Code != http.StatusNotFound {
			t.Errorf("after leaving: %d %s", w.Code, w.Body)
		}
	})
}

// TestAFileThatIsUploadedLater: a place whose name is told before its file is there (POST /media/v1/create) is waited for.
func TestAFileThatIsUploadedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, alice, bob, room, _ := meetQuick(t)
		var made struct {
			URI string `json:"content_uri"`
		}
		alice.call("POST", "/_matrix/media/v1/create", object{}, &made)
		alice.send(room, "1", object{"msgtype": "m.file", "body": "later", "url": made.URI})
		for range 2 {
			if w := bob.file("download", made.URI, "", 20*time.Second); w.Code != http.StatusGatewayTimeout {
				t.Fatalf("%d %s", w.Code, w.Body)
			}
		}
		alice.again()
		req := httptest.NewRequestWithContext(t.Context(), "PUT", "/_matrix/media/v3/upload/"+strings.TrimPrefix(made.URI, "mxc://"), strings.NewReader("at last"))
		req.Header.Set("Authorization", "Bearer "+alice.token)
		w := httptest.NewRecorder()
		if alice.api.ServeHTTP(w, req); w.Code != http.StatusOK {
			t.Fatal(w.Code, w.Body)
		}
		if w, _ := bob.fetch("download", made.URI, "", 10*time.Minute); w.Body.String() != "at last" {
			t.Error(w.Body)
		}
	})
}

// liar is a node whose operator changed what it says of files.
type liar struct {
	replicate.Files
	lies bool
}

func (l *liar) Next(server matrix.ServerName, n int) ([]media.Piece, error) {
	out, err := l.Files.Next(server, n)
	if l.lies {
		for _, p := range out {
			for _, b := range p.Parts {
				b[0] ^= 1
			}
		}
	}
	return out, err
}

// TestALiarAboutAFileIsTold: what comes is not what its node described. The client is told after the second time, a message passes meanwhile, and the
// node can do better later.
func TestALiarAboutAFileIsTold(t *testing.T) {
	long(t)
	synctest.Test(t, func(t *testing.T) {
		p, box := profile(), mailboxtest.New(t)
		l := &liar{lies: true}
		alter := func(c *replicate.Config) {
			if l.Files == nil { // alice is made first
				l.Files, c.Files = c.Files, l
			}
		}
		_, alice, bob, room, since := meetIn(t, &p, box, alter)
		mxc := alice.upload("text/plain", "", noise(1, 30_000))
		alice.send(room, "1", object{"msgtype": "m.file", "body": "f", "url": mxc})
		var w *httptest.ResponseRecorder
		for end := time.Now().Add(2 * time.Hour); time.Now().Before(end); {
			if w = bob.file("download", mxc, "", 20*time.Second); w.Code != http.StatusGatewayTimeout {
				break
			}
		}
		if w.Code != http.StatusBadGateway || !strings.Contains(w.Body.String(), "twice not the file") {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		alice.send(room, "2", object{"msgtype": "m.text", "body": "still here"})
		bob.await(since, "message", time.Hour, func(a syncAnswer) bool { return slices.Contains(a.texts(room), "still here") })
		l.lies = false
		time.Sleep(time.Hour)
		if w, _ := bob.fetch("download", mxc, "", time.Hour); !bytes.Equal(w.Body.Bytes(), noise(1, 30_000)) {
			t.Error("another file came")
		}
	})
}
