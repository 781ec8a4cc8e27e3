// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"tarn/bundle"
	"tarn/crypto/sealed"
	"tarn/crypto/token"
	"tarn/mailbox"
	"tarn/mailbox/mailboxtest"
)

// contactFloods: a contact of the first node's, whose program is another: it writes ten boxes a second of its stream, each
// full of pieces of events of 64 KiB that nobody can use, and waits for nothing.
func (w *abuseWorld) contactFloods(ctx context.Context) func() string {
	victim := w.nodes[0]
	m := w.add(9, CustomProfile(2*time.Second, 0))
	w.contact(m, victim)
	m.rooms.join("!flood:x", m.name(), victim.name())
	victim.rooms.join("!flood:x", m.name(), victim.name())
	m.stop()
	m.engine.mu.Lock()
	pair := m.engine.contacts[victim.name()].pair
	m.engine.mu.Unlock()
	opened := victim.engine.Counts().Opened
	var put atomic.Int64
	go func() {
		var pieces []bundle.Fragment
		for put.Load() < int64(w.size.boxes) && ctx.Err() == nil {
			if len(pieces) == 0 {
				r := bundle.Record{Type: bundle.TypeEvents, Data: make([]byte, 64<<10)}
				rand.Read(r.Data)
				var id [16]byte
				rand.Read(id[:])
				pieces, _ = bundle.Split(r, id)
			}
			p := bundle.NewPacker(bundle.Head{})
			if p.AddFragment(pieces[0]) {
				pieces = pieces[1:]
			}
			slot, next := pair.Next()
			pair = next
			if err := w.direct.Put(ctx, slot.ID, (*[mailbox.BoxSize]byte)(slot.Seal(p.Pack())), nil); err == nil {
				put.Add(1)
			}
			time.Sleep(75 * time.Millisecond) // and 25 ms for the answer
		}
	}()
	return func() string {
		read := victim.engine.Counts().Opened - opened
		if put.Load() == 0 || read == 0 {
			w.t.Errorf("no flood: %d boxes were left, %d read", put.Load(), read)
		}
		return fmt.Sprintf("%d boxes left, %d of all boxes read", put.Load(), read)
	}
}

// accountFloods: an account draws for today until it is told that it has had enough, and beyond; puts a box for each token,
// twenty at once, and each token once more for another box.
func (w *abuseWorld) accountFloods(ctx context.Context) func() string {
	account := mailboxtest.Account(w.t, w.direct)
	d, _ := w.direct.Current()
	day := d.Keys[0].Epoch
	var put, twice, refused atomic.Int64
	var all sync.WaitGroup
	tokens := make(chan token.Token, 1000)
	all.Go(func() { // blinding costs the test more than anything: one batch is drawn again and again when there is no right to it
		defer close(tokens)
		for range max(1, w.size.draws-1) {
			var secret [token.SecretSize]byte
			rand.Read(secret[:])
			for _, tok := range mailboxtest.Draw(w.t, w.direct, account, day, secret, 250) {
				tokens <- tok
			}
		}
		var secret [token.SecretSize]byte
		rand.Read(secret[:])
		blinded, err := token.Blind(&secret, 250)
		if err != nil {
			w.t.Error(err)
			return
		}
		for ctx.Err() == nil {
			var id mailbox.BoxID
			rand.Read(id[:])
			err := w.direct.Issue(ctx, id, mailbox.Issue{Account: account, Key: secret, Epoch: day, Blinded: blinded})
			if err != nil && ctx.Err() == nil {
				refused.Add(1)
			}
			time.Sleep(200 * time.Millisecond)
		}
	})
	for range 20 {
		all.Go(func() {
			for tok := range tokens {
				for range 2 {
					var id mailbox.BoxID
					var box [mailbox.BoxSize]byte
					rand.Read(id[:])
					switch err := w.direct.Put(ctx, id, &box, (*[mailbox.TokenSize]byte)(&tok)); {
					case err == nil:
						put.Add(1)
					case errors.Is(err, mailbox.ErrToken):
						twice.Add(1)
					}
				}
			}
		})
	}
	return func() string {
		all.Wait()
		if put.Load() == 0 || twice.Load() == 0 || refused.Load() == 0 {
			w.t.Errorf("no flood: %d boxes, %d tokens refused, %d draws refused", put.Load(), twice.Load(), refused.Load())
		}
		return fmt.Sprintf("%d boxes left, %d tokens refused, %d draws refused", put.Load(), twice.Load(), refused.Load())
	}
}

// sessionsFlood: as many sessions at each courier as it has places and more, which send what they may and more, for a store that
// there is, for the courier itself, and for onions that nobody has.
func (w *abuseWorld) sessionsFlood(ctx context.Context) func() string {
	var tried, held, frames atomic.Int64
	var all sync.WaitGroup
	for _, m := range w.couriers {
		d, err := mailbox.NewClient(m.Address(), w.mesh).Descriptor(w.t.Context())
		if err != nil {
			w.t.Fatal(err)
		}
		for i := range w.size.sessions {
			all.Go(func() {
				time.Sleep(time.Duration(i) * 15 * time.Second / time.Duration(w.size.sessions))
				pause := 10 * time.Second
				if i < w.size.eager {
					pause = 50 * time.Millisecond
				}
				tried.Add(1)
				if w.junkSession(ctx, d, i, pause, &frames) {
					held.Add(1)
				}
			})
		}
	}
	return func() string {
		bytes := int64(0)
		for _, m := range w.couriers {
			bytes += m.Courier().Status().Held
		}
		all.Wait()
		if held.Load() == 0 || held.Load() == tried.Load() || frames.Load() < held.Load() {
			w.t.Errorf("no flood: %d of %d sessions, %d frames", held.Load(), tried.Load(), frames.Load())
		}
		return fmt.Sprintf("%d sessions tried, %d had, %d frames, %d kB held", tried.Load(), held.Load(), frames.Load(), bytes/1000)
	}
}

// hello makes a session of raw bytes; nil: it got no place.
func (w *abuseWorld) hello(ctx context.Context, d mailbox.Descriptor) (net.Conn, *mailbox.Channel) {
	c, err := w.mesh.Dial(ctx, string(d.Onion)+":4001", "junk")
	if err != nil {
		return nil, nil
	}
	key, err1 := sealed.ParsePublicKey(d.Keys[0].Public[:])
	onion, err2 := d.Onion.Key()
	var up [mailbox.UpSize]byte
	var down [mailbox.DownSize]byte
	reply, err3 := mailbox.SealHello(&up, mailbox.Hello{Geometry: mailbox.Geometry}, key, mailbox.SessionInfo(onion, d.Keys[0].Epoch), d.Keys[0].Epoch)
	if err := errors.Join(err1, err2, err3); err != nil {
		w.t.Error(err)
		c.Close()
		return nil, nil
	}
	_, err = c.Write(up[:])
	if err == nil {
		_, err = io.ReadFull(c, down[:])
	}
	var salt []byte
	if err == nil {
		salt, _, err = mailbox.OpenWelcome(&down, reply)
	}
	if err != nil {
		c.Close()
		return nil, nil
	}
	layout, _ := mailbox.LayoutOf(mailbox.Geometry)
	channel, _ := mailbox.SessionChannels(layout, reply, salt)
	return c, channel
}

// junkSession is a session whose halves are garbage; false: it got no place.
func (w *abuseWorld) junkSession(ctx context.Context, d mailbox.Descriptor, i int, pause time.Duration, frames *atomic.Int64) bool {
	c, channel := w.hello(ctx, d)
	if c == nil {
		return false
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	go io.Copy(io.Discard, c)
	put, get := make([]byte, mailbox.SealedPutSize), make([]byte, mailbox.SealedGetSize)
	rand.Read(put)
	rand.Read(get)
	store, err1 := w.stores[i%len(w.stores)].Address().Onion.Key()
	self, err2 := d.Onion.Key()
	if err := errors.Join(err1, err2); err != nil {
		w.t.Error(err)
		return true
	}
	var buf []byte
	for n := i; ctx.Err() == nil; n++ {
		var nobody [32]byte
		rand.Read(nobody[:])
		targets := [][32]byte{nobody, [32]byte(store), [32]byte(self)}
		f := mailbox.UpFrame{Lag: time.Second, Put: mailbox.SubRequest{Target: targets[n%3], Epoch: d.Keys[0].Epoch, Box: put},
			Get: mailbox.SubRequest{Target: targets[n/3%3], Delay: time.Second, Epoch: d.Keys[0].Epoch, Box: get}}
		switch n % 4 {
		case 0:
			f.Follow = [][32]byte{nobody}
		case 1:
			f.Put.Delay, f.Get.Delay = mailbox.MaxDelay, mailbox.MaxDelay // to be held for long
		case 2:
			f.Lag = time.Minute
		}
		var err error
		if buf, err = channel.AppendUpFrame(buf[:0], &f); err != nil {
			w.t.Error(err)
			return true
		}
		if _, err := c.Write(buf); err != nil {
			return true
		}
		frames.Add(1)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
	return true
}

// garbageFlood: at each mailbox, again and again, hellos and requests that end in the middle and stay; nonsense of every
// kind and more of it after the answer, as fast as it is taken; garbage on links; frames of garbage in real sessions.
func (w *abuseWorld) garbageFlood(ctx context.Context) func() string {
	var silent, nonsense, bytes atomic.Int64
	var all sync.WaitGroup
	line := make([]byte, 1<<20)
	rand.Read(line)
	pour := func(c net.Conn, rest time.Duration) {
		defer c.Close()
		c.SetDeadline(time.Now().Add(rest))
		go io.Copy(io.Discard, c)
		n, _ := c.Write(line)
		bytes.Add(int64(n))
	}
	for _, m := range append(w.couriers[:len(w.couriers):len(w.couriers)], w.stores...) {
		d, err := mailbox.NewClient(m.Address(), w.mesh).Descriptor(w.t.Context())
		if err != nil {
			w.t.Fatal(err)
		}
		begin := func(kind mailbox.Kind, size int) net.Conn {
			c, err := w.mesh.Dial(ctx, string(d.Onion)+":4001", "garbage")
			if err != nil {
				return nil
			}
			b := append([]byte(nil), line[:size]...)
			b[0], b[1], b[2], b[3] = mailbox.Geometry, byte(kind), 0, 0
			e := d.Keys[0].Epoch
			b[4], b[5], b[6], b[7] = byte(e>>24), byte(e>>16), byte(e>>8), byte(e)
			c.SetDeadline(time.Now().Add(10 * time.Minute))
			n, _ := c.Write(b)
			bytes.Add(int64(n))
			return c
		}
		all.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				all.Go(func() { // never finished
					if c := begin(mailbox.Kind(n%5), mailbox.UpSize/2); c != nil {
						silent.Add(1)
						io.Copy(io.Discard, c)
						c.Close()
					}
				})
				all.Go(func() { // nonsense, and more of it after the answer
					if c := begin(mailbox.Kind(n%5), mailbox.UpSize); c != nil {
						nonsense.Add(1)
						pour(c, time.Minute)
					}
				})
				if n%10 == 0 && d.Roles&mailbox.RoleCourier != 0 {
					all.Go(func() {
						if c, _ := w.hello(ctx, d); c != nil {
							nonsense.Add(1)
							pour(c, time.Minute)
						}
					})
				}
				time.Sleep(w.size.garbage)
			}
		})
	}
	return func() string {
		all.Wait()
		if silent.Load() == 0 || nonsense.Load() == 0 {
			w.t.Errorf("no flood: %d requests that do not end, %d of nonsense", silent.Load(), nonsense.Load())
		}
		return fmt.Sprintf("%d requests that do not end, %d of nonsense, %d MB of garbage taken", silent.Load(), nonsense.Load(), bytes.Load()/1e6)
	}
}
