// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tarn/bundle"
	"tarn/crypto/onionid"
	"tarn/mailbox"
	"tarn/matrix"
	"tarn/media"
	"tarn/store"
)

const (
	sender = "alice.onion"
	fileID = "AAECAwQFBgcICQoLDA0ODw" // bytes 0 to 15
)

func TestOnlyTheSendersOwnFilesAreAskedFor(t *testing.T) {
	own, other := "mxc://"+sender+"/"+fileID, "mxc://bob.onion/"+fileID
	for _, c := range []struct {
		event string
		want  []bool // of each file whether it is the thumbnail
	}{
		{`{"type":"m.room.message","sender":"@a:alice.onion","content":{"msgtype":"m.image","url":"OWN"}}`, []bool{true, false}},
		{`{"type":"m.room.message","sender":"@a:alice.onion","content":{"msgtype":"m.image","url":"OWN","info":{"size":2000,"thumbnail_url":"OWN"}}}`, []bool{false, true}},
		{`{"type":"m.room.message","sender":"@a:alice.onion","content":{"msgtype":"m.file","url":"OWN","info":{"size":1000}}}`, []bool{false}},
		{`{"type":"m.room.message","sender":"@a:alice.onion","content":{"msgtype":"m.text","url":"OWN"}}`, nil},
		{`{"type":"m.sticker","sender":"@a:alice.onion","content":{"url":"OWN"}}`, []bool{true, false}},
		{`{"type":"m.room.avatar","sender":"@a:alice.onion","content":{"url":"OWN"}}`, []bool{true}},
		{`{"type":"m.room.member","sender":"@a:alice.onion","content":{"membership":"join","avatar_url":"OWN"}}`, []bool{true}},
		{`{"type":"m.room.message","sender":"@a:alice.onion","content":{"msgtype":"m.image","url":"OTHER"}}`, nil},
		{`{"type":"m.room.message","sender":"@b:bob.onion","content":{"msgtype":"m.image","url":"OWN"}}`, nil},
		{`{"type":"m.room.encrypted","sender":"@a:alice.onion","content":{"ciphertext":"OWN"}}`, nil},
		{`{"type":"m.sticker","sender":"@a:alice.onion","content":{"url":"https://alice.onion/` + fileID + `"}}`, nil},
		{`{"type":"m.sticker","sender":"@a:alice.onion","content":{"url":"mxc://alice.onion/../../x"}}`, nil},
		{`{"type":"m.sticker","sender":"@a:alice.onion","content":[]}`, nil},
		{`{"type":"m.sticker"`, nil},
	} {
		raw := strings.NewReplacer("OWN", own, "OTHER", other).Replace(c.event)
		var got []bool
		for _, r := range namedFiles([]byte(raw), 1000) {
			if r.Server != sender || r.ID != fileID {
				t.Errorf("%s: %v", raw, r)
			}
			got = append(got, r.Small)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", raw, got, c.want)
		}
	}
}

func FuzzNamedFiles(f *testing.F) {
	f.Add([]byte(`{"type":"m.room.message","sender":"@a:alice.onion","content":{"msgtype":"m.image","url":"mxc://alice.onion/` + fileID + `","info":{"size":2000,"thumbnail_url":"x"}}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, r := range namedFiles(raw, 1000) {
			if _, ok := media.DecodeID(r.ID); !ok || r.Server == "" {
				t.Errorf("%v of %q", r, raw)
			}
		}
	})
}

// sharing is a room of whom a contact shares it with.
type sharing struct {
	*fakeRooms
	users []matrix.UserID
}

func (s sharing) Sharers(matrix.ServerName) ([]matrix.UserID, error) { return s.users, nil }

// filesOf is an engine with nothing but files, and a contact.
func filesOf(t *testing.T, o media.Options) (*Engine, *contact, *media.Store, store.KV) {
	t.Helper()
	kv := store.OpenMemory()
	t.Cleanup(func() { kv.Close() })
	files, err := media.Open(t.TempDir(), kv, o)
	if err != nil {
		t.Fatal(err)
	}
	e := &Engine{kv: kv, files: files, rooms: sharing{newFakeRooms("x"), []matrix.UserID{"@me:x"}}}
	p := CustomProfile(100*time.Millisecond, 0.3)
	e.profile.Store(&p)
	return e, newContact(onionid.Name(sender), contactRow{}), files, kv
}

// The node broke on this: a slot of one store, of whose tokens none is left.
func TestNoFilesGoWhereNoTokenIsLeft(t *testing.T) {
	e, c, _, _ := filesOf(t, media.Options{})
	e.purses = map[mailbox.Address]*purse{}
	c.state = contactActive
	e.contacts = map[onionid.Name]*contact{c.name: c}
	d := &depot{address: mailbox.Address{Onion: onionid.Name(sender)}, descriptor: &descriptor{policy: mailbox.Policy{Deposit: mailbox.DepositTokens}}}
	for _, direct := range []bool{false, true} {
		if _, ok := e.putFiles(&where{places: []*depot{d}, direct: direct, left: func(mailbox.Address) bool { return false }}, time.Now()); ok {
			t.Error("a box without a token")
		}
	}
}

type encoder interface{ Record() (bundle.Record, error) }

// hand gives a record as if it had come in a box, and tells whether it was taken.
func hand(t *testing.T, e *Engine, c *contact, r encoder) bool {
	t.Helper()
	rec, err := r.Record()
	if err != nil {
		t.Fatal(err)
	}
	_, err = e.take(t.Context(), c, inboxRow{kind: rec.Type, data: rec.Data, received: time.Now()})
	if err != nil && !errors.Is(err, errRefuse) {
		t.Fatal(err)
	}
	return err == nil
}

// kept counts what is on the disk of files that are not whole.
func kept(t *testing.T, kv store.KV) (n int) {
	t.Helper()
	if err := kv.View(func(r store.Reader) error {
		return r.Scan([]byte{store.TableMedia + 6}, nil, func(_, _ []byte) (bool, error) { n++; return true, nil })
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestLiesAboutFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit = 10 * bundle.MediaPart
		e, c, files, kv := filesOf(t, media.Options{RemoteMax: limit})
		name := bundle.MediaName{ID: [16]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}}
		r := media.Remote{Server: sender, ID: fileID}
		part := func(n uint64, size int) bundle.MediaBytes {
			return bundle.MediaBytes{MediaName: name, Part: n, Bytes: bytes.Repeat([]byte{byte(n)}, size)}
		}
		sum := sha256.Sum256([]byte("x"))
		about := func(size uint64) bundle.Media {
			return bundle.Media{MediaName: name, Hash: sum[:], Size: size, Type: "image/png"}
		}
		ask := func() {
			t.Helper()
			asks := files.Asks(sender, time.Now(), 9)
			if len(asks) != 1 || asks[0].Remote != r || asks[0].From != 0 || asks[0].To != 0 {
				t.Fatalf("asks: %v", asks)
			}
			if err := files.Asked(asks, time.Hour); err != nil {
				t.Fatal(err)
			}
		}
		if hand(t, e, c, part(0, 5)) || hand(t, e, c, about(5)) {
			t.Error("took what nobody wanted")
		}
		if err := files.Want(r, false); err != nil {
			t.Fatal(err)
		}
		if hand(t, e, c, part(0, 5)) {
			t.Error("took a part before any was asked for")
		}
		ask()
		for n := range uint64(1000) {
			if took := hand(t, e, c, part(n, bundle.MediaPart)); took != (n < 10) {
				t.Fatalf("part %d: %v", n, took)
			}
			hand(t, e, c, part(n, bundle.MediaPart)) // doubled
		}
		if n := kept(t, kv); n != 10 {
			t.Errorf("%d parts are kept", n)
		}
		// What came is more than the description says: thrown away, asked for once more.
		if !hand(t, e, c, about(2*bundle.MediaPart)) || kept(t, kv) != 0 {
			t.Error("parts of no such file are kept")
		}
		ask()
		if !hand(t, e, c, about(2*bundle.MediaPart+7)) || hand(t, e, c, about(9)) || hand(t, e, c, part(3, 1)) || hand(t, e, c, part(2, 8)) {
			t.Error("took what contradicts the description")
		}
		for n, size := range []int{bundle.MediaPart, bundle.MediaPart, 7} {
			if !hand(t, e, c, part(uint64(n), size)) {
				t.Errorf("part %d", n)
			}
		}
		var not *media.NotComing
		if _, _, err := files.GetRemote(t.Context(), r, true); !errors.As(err, &not) || !strings.Contains(err.Error(), "twice") || kept(t, kv) != 0 {
			t.Errorf("a wrong hash: %v, %d parts", err, kept(t, kv))
		}
		if hand(t, e, c, part(0, bundle.MediaPart)) {
			t.Error("took a part of what was given up")
		}
		if got := files.Transfers(sender); got.Failed != 1 || !strings.Contains(got.Problem, "twice") {
			t.Errorf("%+v", got)
		}
		// An hour later a client may try again. Then it is too large.
		time.Sleep(time.Hour)
		if err := files.Want(r, true); err != nil {
			t.Fatal(err)
		}
		ask()
		hand(t, e, c, part(0, bundle.MediaPart))
		if !hand(t, e, c, about(limit+1)) || kept(t, kv) != 0 {
			t.Error("parts of what is too large are kept")
		}
		if _, _, err := files.GetRemote(t.Context(), r, true); !errors.As(err, &not) || !not.Large {
			t.Error(err)
		}
	})
}

// TestWhoNeverAnswersIsGivenUp: with growing pauses, and then told.
func TestWhoNeverAnswersIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, _, files, _ := filesOf(t, media.Options{})
		start, asked := time.Now(), 0
		r := media.Remote{Server: sender, ID: fileID}
		if err := files.Want(r, false); err != nil {
			t.Fatal(err)
		}
		for time.Since(start) < 100*24*time.Hour {
			if a := files.Asks(sender, time.Now(), 9); len(a) > 0 {
				asked++
				if err := files.Asked(a, 2*time.Hour); err != nil {
					t.Fatal(err)
				}
			}
			if err := files.Expire(time.Now()); err != nil {
				t.Fatal(err)
			}
			if time.Sleep(time.Hour); files.Transfers(sender).Failed > 0 {
				break
			}
		}
		if got := files.Transfers(sender); asked != 8 || got.Failed != 1 || got.Coming != 0 || got.Problem != "the file's server did not answer" {
			t.Errorf("asked %d times: %+v", asked, got)
		}
	})
}

// TestWhoAsksForFilesWithoutEnd: questions of one contact are bounded, and one for what is being given changes nothing.
func TestWhoAsksForFilesWithoutEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, c, files, _ := filesOf(t, media.Options{})
		b := make([]byte, 5*bundle.MediaPart)
		rand.NewChaCha8([32]byte{1}).Read(b)
		mine, err := files.Upload("@me:x", bytes.NewReader(b), -1, media.Meta{})
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := files.Upload("@stranger:x", bytes.NewReader(b), -1, media.Meta{})
		if err != nil {
			t.Fatal(err)
		}
		want := func(id string) bool {
			raw, _ := media.DecodeID(id)
			return hand(t, e, c, bundle.MediaWanted{MediaName: bundle.MediaName{ID: raw}, Max: 1 << 20})
		}
		given := func() (parts int, none int) {
			t.Helper()
			for range 100 {
				pieces, err := files.Next(sender, 3)
				if err != nil {
					t.Fatal(err)
				}
				if len(pieces) == 0 {
					return parts, none
				}
				for _, p := range pieces {
					if p.Describe && p.Hash == nil {
						none++
					}
					parts += len(p.Parts)
					if err := files.Gave(p, len(p.Parts)); err != nil {
						t.Fatal(err)
					}
				}
				want(mine) // while it is given
			}
			t.Fatal("without end")
			return
		}
		if !want(mine) || !want(theirs) {
			t.Fatal("refused")
		}
		if parts, none := given(); parts != 5 || none != 1 {
			t.Errorf("%d parts, %d answers that there is none", parts, none)
		}
		if want(mine); files.Owes(sender, time.Now()) {
			t.Error("given again at once")
		}
		time.Sleep(e.profile.Load().Retransmit)
		want(mine)
		if parts, _ := given(); parts != 5 {
			t.Errorf("later %d parts", parts)
		}
		took := 0
		for i := range 1000 {
			if want(media.EncodeID([16]byte{byte(i), byte(i >> 8)})) {
				took++
			}
		}
		if got := files.Transfers(sender); took != 32 || got.Going != 32 {
			t.Errorf("took %d, %d stand", took, got.Going)
		}
	})
}

// TestTheLimitOfFilesByProfile: docs and node.toml say these.
func TestTheLimitOfFilesByProfile(t *testing.T) {
	var got []string
	for _, p := range Profiles() {
		got = append(got, fmt.Sprintf("%s %.1f", p.Name, float64(p.MediaLimit(50<<20))/(1<<20)))
	}
	if want := []string{"instant 27.4", "balanced 8.2", "economy 1.4", "paranoid 8.2"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}
