// SPDX-License-Identifier: Apache-2.0

package courier_test

import (
	"crypto/rand"
	"sync"
	"testing"
	"time"

	"tarn/crypto/sealed"
	"tarn/mailbox"
	"tarn/mailbox/courier"
	"tarn/mailbox/mailboxtest"
	"tarn/mailbox/store"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func randomBox() (id mailbox.BoxID, box []byte) {
	box = make([]byte, mailbox.BoxSize)
	rand.Read(id[:])
	rand.Read(box)
	return id, box
}

// world is a courier, a store, and a node that has a session with the courier and knows the store.
type world struct {
	t       testing.TB
	mesh    *mailboxtest.Mesh
	courier *mailboxtest.Mailbox
	store   *mailboxtest.Mailbox
	session *mailbox.Session
	client  *mailbox.Client

	mu    sync.Mutex // guards pages
	pages []mailbox.Page
}

func newWorld(t testing.TB, edit func(*courier.Config)) *world {
	return newWorldOf(t, 10*time.Second, edit)
}

func newWorldOf(t testing.TB, bucket time.Duration, edit func(*courier.Config)) *world {
	w := &world{t: t, mesh: mailboxtest.NewMesh()}
	w.store = mailboxtest.New(t, mailboxtest.WithMesh(w.mesh), mailboxtest.WithConfig(func(c *store.Config) { c.Bucket = bucket }))
	w.courier = mailboxtest.New(t, mailboxtest.WithMesh(w.mesh), mailboxtest.WithoutStore(), mailboxtest.WithCourier(w.mesh, edit))
	w.client = mailbox.NewClient(w.store.Address(), w.mesh)
	w.session = w.newSession(bucket)
	return w
}

func (w *world) newSession(push time.Duration) *mailbox.Session {
	s := mailbox.NewSession(w.courier.Address(), w.mesh, mailbox.SessionParams{Push: push, OnPage: func(a mailbox.Address, part []byte) {
		p, err := w.client.ParsePushed(part)
		if err != nil || a != w.store.Address() {
			w.t.Errorf("a page was pushed that is none: %v", err)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.pages = append(w.pages, p)
	}})
	w.t.Cleanup(func() { s.Close() })
	return s
}

// connect makes the session and learns the store's descriptor through it.
func (w *world) connect() {
	w.t.Helper()
	must(w.t, w.session.Connect(w.t.Context()))
	put, err := w.session.Idle(0)
	must(w.t, err)
	get, err := w.session.Ask(w.store.Address(), 0)
	must(w.t, err)
	must(w.t, w.session.Send(w.t.Context(), &mailbox.Frame{Put: put, Get: get, Lag: time.Second}))
	_, body, err := get.Wait(w.t.Context())
	must(w.t, err)
	_, err = w.client.SetDescriptor(body)
	must(w.t, err)
	_, _, err = put.Wait(w.t.Context())
	must(w.t, err)
}

var nothing = mailbox.Request{Op: mailbox.OpNothing}

func putOf(id mailbox.BoxID, box []byte) mailbox.Request {
	return mailbox.Request{Op: mailbox.OpPut, ID: id, Box: box}
}

func getOf(id mailbox.BoxID) mailbox.Request {
	return mailbox.Request{Op: mailbox.OpGet, Get: id.Handle()}
}

func publicKey(t testing.TB, b []byte) *sealed.PublicKey {
	t.Helper()
	k, err := sealed.ParsePublicKey(b)
	must(t, err)
	return k
}

// frame seals and sends.
func (w *world) frame(put, get mailbox.Request, putDelay, getDelay, lag time.Duration, follow ...mailbox.Address) (*mailbox.Half, *mailbox.Half) {
	w.t.Helper()
	p, err := w.client.SealPut(put, putDelay)
	must(w.t, err)
	g, err := w.client.SealGet(get, getDelay)
	must(w.t, err)
	must(w.t, w.session.Send(w.t.Context(), &mailbox.Frame{Put: p, Get: g, Lag: lag, Follow: follow}))
	return p, g
}
