// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tarn/mailbox"
)

// A mailbox that keeps the answer to a link and does not list it delays the contact, and is found out.
func TestAHiddenAnswerIsFoundAndSaid(t *testing.T) {
	for name, couriers := range map[string]bool{"direct": false, "couriers": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 2)
				a, b := w.node(2, slow()), w.node(1, slow())
				if couriers {
					a.couriers = []mailbox.Address{w.courier(0).address, w.courier(1).address}
				}
				s := w.store(0)
				s.bucket = 10 * time.Second
				defer w.stopAll()
				a.start()
				b.start()
				time.Sleep(time.Hour)
				l, err := a.engine.Invite(t.Context(), 48*time.Hour)
				if err != nil {
					t.Fatal(err)
				}
				a.engine.mu.Lock()
				answer := a.engine.invites[l.Voucher].reply().id.Handle()
				a.engine.mu.Unlock()
				s.set(func(s *fakeStore) { s.hide = func(h mailbox.Handle) bool { return h == answer } })
				if _, err := b.engine.Accept(t.Context(), l); err != nil {
					t.Fatal(err)
				}
				time.Sleep(6 * time.Hour) // it has answered, and nobody has read that
				if st := a.status(b.name()); st.State == Active {
					t.Fatalf("%+v", st)
				}
				w.until(42*time.Hour, "the contact", func() bool { return a.status(b.name()).State == Active })
				w.until(6*time.Hour, "words", func() bool {
					for _, m := range a.engine.Stores() {
						if m.Address == s.address && strings.Contains(m.Problem, "did not list") {
							return true
						}
					}
					return false
				})
			})
		})
	}
}

// An honest one is not accused, whenever the answer comes.
func TestAnAnswerThatIsListedLaterAccusesNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		a, b := w.node(2, slow()), w.node(1, slow())
		s := w.store(0)
		s.bucket = time.Hour // the answer is looked for before its page is closed
		defer w.stopAll()
		a.start()
		b.start()
		l, err := a.engine.Invite(t.Context(), 4*time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour + 10*time.Minute)
		if _, err := b.engine.Accept(t.Context(), l); err != nil {
			t.Fatal(err)
		}
		w.until(4*time.Hour, "the contact", func() bool { return a.status(b.name()).State == Active })
		time.Sleep(4 * time.Hour)
		for _, m := range a.engine.Stores() {
			if m.Problem != "" {
				t.Errorf("%s", m.Problem)
			}
		}
	})
}

// However often the node is started anew, and whatever becomes of a look, the mailbox is asked for an answer that nobody has listed twice, at most.
func TestAnAnswerIsLookedForTwiceOverRestarts(t *testing.T) {
	for name, fault := range map[string]error{"nothing there": nil, "no answers": errUnanswered} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 1)
				a := w.node(1, slow())
				s := w.store(0)
				s.bucket = 10 * time.Second
				defer w.stopAll()
				a.start()
				l, err := a.engine.Invite(t.Context(), 24*time.Hour)
				if err != nil {
					t.Fatal(err)
				}
				a.engine.mu.Lock()
				in := a.engine.invites[l.Voucher]
				answer, looks := in.reply().id.Handle(), [answerLooks]time.Time{in.lookAt(0), in.lookAt(1)}
				a.engine.mu.Unlock()
				asked := 0
				s.set(func(s *fakeStore) {
					s.swap = func(h mailbox.Handle, _ *[mailbox.BoxSize]byte) {
						if h == answer {
							asked++
						}
					}
					s.getErr = fault
				})
				for i, look := range looks {
					for time.Until(look) > 0 {
						time.Sleep(min(time.Hour, time.Until(look)-time.Second))
						a.stop()
						a.start()
						time.Sleep(2 * time.Second)
					}
					// Left alone, the node looks now; and not again, however often it is started.
					w.until(5*time.Minute, "a look", func() (done bool) {
						s.set(func(*fakeStore) { done = asked > i })
						return done
					})
					for range 10 {
						a.stop()
						a.start()
						time.Sleep(10 * time.Second)
					}
					s.set(func(*fakeStore) {
						if asked != i+1 {
							t.Errorf("after look %d it was asked for %d times", i+1, asked)
						}
					})
				}
			})
		})
	}
}
