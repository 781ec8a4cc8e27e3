// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"tarn/crypto/onionid"
	"tarn/mailbox"
	"tarn/media"
	"tarn/store"
)

// State of a contact, as people see it.
type State string

// The states.
const (
	Inviting  State = "inviting"  // a link of ours that nobody answered yet
	Accepting State = "accepting" // a link that we follow
	Active    State = "active"    // the stream pair is there
	Failed    State = "failed"    // a link that came to nothing; Reason says why
	Stranger  State = "stranger"  // no contact, but something in the outbox waits for that server
)

// ContactStatus is what is known of a contact, or of a link on its way to become one.
type ContactStatus struct {
	ID      string       // of a link: 16 hex characters, for Forget; "" of a contact
	Name    onionid.Name // the server; "" while a link does not tell
	State   State
	Reason  string // a sentence for people: what it waits for, or why it failed; may be ""
	Created time.Time
	Expiry  time.Time // of a link
	// Deposited: the link's payload is in the mailbox, so the other node can accept it though this one is off.
	Deposited bool
	LastHeard time.Time // when a box of the contact was last opened; zero: never
	Waiting   int       // outbox items that the contact has not acknowledged
	Unacked   int       // boxes of those, sealed and not acknowledged
	// ExpectedDelay is the estimated mean time to delivery when both nodes are up.
	ExpectedDelay time.Duration
	// Files is what is on its way between the two nodes.
	Files media.Transfers
	// Signs: it is told who is here and who types.
	Signs bool
	// Broken is how much of what it sent no honest node sends: forged events, records and boxes that are not what they say.
	Broken uint64
	// Number is six digits that both people see and may compare; "" until the other node's first word came.
	Number string
	// Introducer is the contact that introduced it, or is asked to, or brought its link; "" if a person did.
	Introducer onionid.Name
}

// StoreStatus is how transactions with a mailbox go.
type StoreStatus struct {
	Address     mailbox.Address
	Own         bool
	Bucket      time.Duration // of its digest; 0: not known yet
	LastSuccess time.Time     // zero: never since the node began
	LastFailure time.Time
	Problem     string // the newest transaction's failure as a person can act on it; "" if it went well
	Family      string
	Courier     bool          // it is a courier too
	Left        bool          // boxes are not left there any more; Problem says why
	Draining    bool          // it was our own: it is read until its boxes are gone
	Loops       float64       // boxes of our own that came back, lately
	Lost        float64       // and that did not
	LoopDelay   time.Duration // from such a box's frame to its reading, averaged; 0: not known yet
}

// Counts are sums since the engine began, over all contacts and stores.
type Counts struct {
	Dropped   int64 // slots: too many transactions under way
	Late      int64 // slots that went idle because their content was not ready
	Garbage   int64 // answers that were no box of ours where one was listed
	Malformed int64 // authentic boxes that no bundle was in
	Refused   int64 // records and events that were refused for good
	Exists    int64 // stores that claim to have another box under our id
	Resealed  int64
	Rewrites  int64
	Opened    int64 // boxes
	Unsent    int64 // outbox items that name nothing that exists
}

// Counts reads them.
func (e *Engine) Counts() Counts {
	c := &e.counts
	return Counts{c.dropped.Load(), c.late.Load(), c.garbage.Load(), c.malformed.Load(), c.refused.Load(), c.exists.Load(),
		c.resealed.Load(), c.rewrites.Load(), c.opened.Load(), c.unsent.Load()}
}

// Contacts lists contacts, links on their way, links that failed, and servers that something waits for without being
// contacts: sorted by state, then name.
func (e *Engine) Contacts() ([]ContactStatus, error) {
	var waiting map[string]int
	err := e.kv.View(func(r store.Reader) error {
		var err error
		waiting, err = store.Destinations(r)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("count what waits: %w", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	var out []ContactStatus
	for _, c := range e.contacts {
		s := ContactStatus{Name: c.name, State: Active, Created: c.created, LastHeard: c.lastHeard, Waiting: waiting[string(c.name)],
			Unacked: len(c.boxes), ExpectedDelay: e.expectedDelay(c), Signs: c.signs.on, Number: c.number, Introducer: c.introducer, Broken: c.broken}
		if e.files != nil {
			s.Files = e.files.Transfers(c.name)
		}
		if c.number == "" {
			s.Reason = "Our answer is in the mailbox; the other node has not read it yet."
			if now.Sub(c.created) > awayAfter {
				s.Reason += " If it is on, its mailbox may hide the answer: its node finds it before the link ends."
			}
			if a := e.accepts[c.voucher]; a != nil && !now.Before(a.link.Expiry) && a.from != "" {
				s.Reason = "Our answer was in the mailbox, but the other node did not read it before the link expired; it may ask for another introduction."
			} else if a != nil && !now.Before(a.link.Expiry) {
				s.Reason = "Our answer was in the mailbox, but the other node did not read it before the link expired; ask for a new link."
			}
		}
		if r := c.awayReason(s.Waiting, now); r != "" && c.number != "" {
			s.Reason = r
		}
		if r := c.recoveryReason(now); r != "" {
			s.Reason = r
		}
		if c.broken > 0 {
			s.Reason = strings.TrimSpace(s.Reason + fmt.Sprintf(" It sent %d things that no honest node sends (forged, or malformed); they were thrown away.", c.broken))
		}
		delete(waiting, string(c.name))
		out = append(out, s)
	}
	for _, in := range e.invites {
		if s := e.inviteStatus(in, now); in.peer == "" || s.State != Failed && e.contacts[in.peer] == nil {
			out = append(out, s)
		}
	}
	for _, a := range e.accepts {
		if s := e.acceptStatus(a, now); a.state != acceptDelivered && (a.from == "" || s.State != Failed) { // delivered: that is a contact already
			out = append(out, s)
		}
	}
	for name, n := range waiting {
		out = append(out, ContactStatus{Name: onionid.Name(name), State: Stranger, Waiting: n,
			Reason: "Something waits for this server, which is not a contact: exchange a link with it."})
	}
	slices.SortFunc(out, func(a, b ContactStatus) int {
		return cmp.Or(cmp.Compare(a.State, b.State), cmp.Compare(a.Name, b.Name), a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
	})
	return out, nil
}

func (e *Engine) expectedDelay(c *contact) time.Duration {
	ticks, bucket := 1.0, 10*time.Second
	for _, a := range c.stores {
		if st := e.depots[a]; st != nil && st.descriptor != nil {
			bucket = st.descriptor.bucket
		}
	}
	if r := e.routes.Load(); e.mode == Couriers {
		ticks = r.ticks(c.stores)
	} else if len(c.stores) > 0 {
		n := min(copies, len(c.stores))
		ticks = math.Ceil(float64(len(r.write)) / float64(n))
	}
	return e.profile.Load().ExpectedDelay(e.mode, ticks, bucket)
}

// ticks is how many frames it takes, on average, until one's PUT can be for a receiver with these stores: its set is
// drawn, or a store of another one's that a box has its place in.
func (r *routes) ticks(stores []mailbox.Address) float64 {
	key, p := setKey(stores), 0.0
	for _, s := range r.sets {
		if s.key == key {
			p++
			continue
		}
		shared := 0
		for _, d := range s.stores {
			if slices.Contains(stores, d.address) {
				shared++
			}
		}
		p += float64(shared) / float64(len(s.stores)) * float64(min(copies, len(stores))) / float64(max(1, len(stores)))
	}
	if p == 0 {
		return 1
	}
	return float64(len(r.sets)) / p
}

// CourierStatus is how a session with a courier goes.
type CourierStatus struct {
	Address   mailbox.Address
	Family    string
	Since     time.Time // it was chosen
	Until     time.Time // it is replaced by then
	Connected bool
	LastUp    time.Time // zero: not since the node began
	Loss      float64   // share of what went through it that was not answered, lately
	Problem   string    // as a person can act on it; "" if there is none
}

// Traffic is how the node's traffic goes now.
type Traffic struct {
	Profile       string
	Mode          Mode
	ExpectedDelay time.Duration // mean, to a contact with stores like ours, when both nodes are up
	BytesPerDay   int64         // sent and received, without what Tor adds
	Hops          int           // how many couriers a request goes through; 0 in direct mode
	Couriers      []CourierStatus
	// Crowd estimates how many nodes write to the mailboxes that we read: among so many a node is hidden from their
	// operators. 0: not known yet.
	Crowd  int
	Notice string // what a person should know about it; may be ""
}

// Traffic tells it.
func (e *Engine) Traffic() Traffic {
	e.mu.Lock()
	defer e.mu.Unlock()
	p, r, now := e.profile.Load(), e.routes.Load(), time.Now()
	bucket, written := 10*time.Second, 0.0
	for _, d := range r.own {
		if d.descriptor != nil {
			bucket = d.descriptor.bucket
			written += d.decoys.perBucket / bucket.Seconds()
		}
	}
	ticks := r.ticks(e.own)
	if e.mode == Direct {
		ticks = float64(len(r.write))
	}
	as := *p
	if as.Hops = e.hopsNow(p, now); e.mode == Direct {
		as.Hops = 0
	}
	t := Traffic{Profile: p.Name, Mode: e.mode, ExpectedDelay: as.ExpectedDelay(e.mode, ticks, bucket), BytesPerDay: as.BytesPerDay(e.mode), Hops: as.Hops,
		Crowd: int(math.Round(written / max(p.CoverPut, 0.1) * p.Frame.Seconds()))}
	for _, g := range e.guards {
		s := CourierStatus{Address: g.address, Family: g.family, Since: g.since, Until: g.until, LastUp: g.lastUp, Connected: g.session != nil && g.session.Connected()}
		sc := g.score
		sc.add(now, p.hours(), 0, 0)
		s.Loss = sc.rate()
		switch {
		case g.refuses:
			s.Problem = "It takes fewer frames a second than the profile makes: choose a slower profile, or another courier."
		case !s.Connected && g.attempts > 0:
			s.Problem = "It cannot be reached; it may be switched off, full, or Tor is not up here."
		case !s.Connected:
			s.Problem = "The session begins with one of the next frames."
		case slices.ContainsFunc(r.write, g.sameOperator):
			s.Problem = "It is of the same operator as a mailbox of yours or of a contact, which it is not used for when the other courier is there."
		case g.score.loses(now, p.hours(), lossyCourier, 30):
			s.Problem = "It loses much of what goes through it."
		}
		t.Couriers = append(t.Couriers, s)
	}
	t.Notice = e.trafficNotice(p, now)
	return t
}

// trafficNotice says in what the traffic is not what the profile promises.
func (e *Engine) trafficNotice(p *Profile, now time.Time) string {
	switch {
	case e.newSession == nil:
		return ""
	case e.mode == Direct && len(e.guards) == 0:
		return "No courier of another operator than your mailboxes' is known: requests go to the mailboxes directly, each on its own circuit. Name couriers in the configuration, or mailboxes of several operators."
	case e.mode == Direct && !slices.ContainsFunc(e.guards, func(g *guard) bool { return !g.refuses }):
		return "No courier takes as many frames a second as the profile makes: requests go to the mailboxes directly, each on its own circuit. Choose a slower profile, or other couriers."
	case e.mode == Direct:
		return "No courier can be reached: requests go to the mailboxes directly, each on its own circuit."
	case e.hopsNow(p, now) < p.Hops:
		return fmt.Sprintf("The profile wants requests to go through %d couriers of different operators, and too few are known: they go through one. Name more couriers in the configuration.", p.Hops)
	case len(e.guards) < guards:
		return "Only one courier is known; with two, the loss of one would not be noticed."
	}
	return ""
}

func linkID(voucher [32]byte) string {
	// Not the voucher itself, which is a secret.
	return hex.EncodeToString(derive(voucher[:], nil, "tarn/1 link name", 8))
}

func (e *Engine) inviteStatus(in *invite, now time.Time) ContactStatus {
	s := ContactStatus{ID: linkID(in.voucher), State: Inviting, Created: in.created, Expiry: in.expiry, Deposited: !in.deposited.IsZero(), Name: in.peer, Introducer: in.by}
	switch {
	case in.failed != "":
		s.State, s.Reason = Failed, in.failed
	case !now.Before(in.expiry):
		s.State, s.Reason = Failed, "The link expired and nobody accepted it."
	case in.peer != "":
		s.Reason = "You share a room; a contact of both was asked to introduce you."
	case s.Deposited:
		s.Reason = "Deposited in the mailbox; the link can be accepted."
	default:
		s.Reason = "Waits for its turn to be deposited in the mailbox."
		if st := e.depots[in.store]; st != nil && st.lastErr != nil {
			s.Reason = st.words()
		}
	}
	return s
}

func (e *Engine) acceptStatus(a *accept, now time.Time) ContactStatus {
	s := ContactStatus{ID: linkID(a.link.Voucher), Name: a.name, State: Accepting, Created: a.created, Expiry: a.link.Expiry, Introducer: a.by}
	if a.name == "" {
		s.Name = a.from
	}
	switch {
	case a.state == acceptFailed:
		s.State, s.Reason = Failed, a.reason
	case a.state == acceptReplying:
		s.Reason = "Found; our answer waits for its turn."
		if d := e.depots[a.link.Store]; d != nil && !e.canPay(d, now) && e.mayBeShown(mailbox.Epoch(now)) {
			s.Reason = "Found; as this node was restored from a backup today, there are tokens for our answer tomorrow (UTC)."
		}
	case !now.Before(a.link.Expiry):
		s.State, s.Reason = Failed, "The link has expired; ask for a new one."
	case a.tries == 0:
		s.Reason = "Waits for its turn to look into the mailbox."
	default:
		s.Reason = "Nothing lies under this link yet: the other node has not deposited it, or the link is wrong."
	}
	if st := e.depots[a.link.Store]; s.State == Accepting && st != nil && st.lastErr != nil {
		s.Reason = st.words()
	}
	return s
}

// Stores lists the mailboxes that slots go to.
func (e *Engine) Stores() []StoreStatus {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []StoreStatus
	for _, st := range e.depots {
		s := StoreStatus{Address: st.address, Own: st.own, Bucket: time.Duration(st.bucket.Load()), LastSuccess: st.lastOK, LastFailure: st.lastFail,
			Problem: st.words(), Family: st.family, Courier: st.courier, Left: !st.usable(), Draining: slices.Contains(e.draining, st.address),
			Loops: st.health.loops.good, Lost: st.health.loops.lost, LoopDelay: st.health.delay}
		if w := st.health.state.words(); w != "" && st.heard.lie == nil { // of a lie the other words say more
			s.Problem = w
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b StoreStatus) int { return cmp.Compare(a.Address.Onion, b.Address.Onion) })
	return out
}

// Forget ends a contact (by server name) or a link (by ContactStatus.ID): its keys, its boxes and what waits for it
// are deleted, as is what waits for a stranger. The other node is not told, and is not introduced again until a link of a person's joins the
// two. ErrNoContact.
func (e *Engine) Forget(name string) error {
	if err := e.forget(name); err != nil {
		return err
	}
	server := onionid.Name(name)
	if _, err := server.Key(); err != nil {
		return nil // it was a link
	}
	return e.forgetBeside(server)
}

// forgetBeside makes the others forget what a node that is no contact any more gave them.
func (e *Engine) forgetBeside(server onionid.Name) error {
	if e.files != nil {
		if err := e.files.ForgetServer(server); err != nil {
			return err
		}
	}
	if e.accounts == nil {
		return nil
	}
	users, err := e.rooms.Sharers(server)
	if err != nil {
		return err
	}
	return e.accounts.ForgetServer(server, topicsOf(users))
}

func (e *Engine) forget(name string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for v, in := range e.invites {
		if linkID(v) == name {
			return e.forgetLink(tableInvite, v, in.peer, func() {
				delete(e.expected, in.reply().id.Handle())
				delete(e.invites, v)
			})
		}
	}
	for v, a := range e.accepts {
		if linkID(v) == name {
			return e.forgetLink(tableAccept, v, a.from, func() { delete(e.accepts, v) })
		}
	}
	c := e.contacts[onionid.Name(name)]
	if c == nil {
		n, err := e.emptyOutbox(name)
		if err != nil || n == 0 && !e.beingIntroduced(onionid.Name(name)) {
			return cmp.Or(err, ErrNoContact)
		}
		return e.shunNow(onionid.Name(name)) // a stranger
	}
	end := func() {}
	if err := e.endContact(c, func(txn store.Txn) (err error) {
		end, err = e.shun(txn, c.name)
		return err
	}); err != nil {
		return err
	}
	end()
	_, err := e.emptyOutbox(name)
	return err
}

// endContact ends a contact but for what waits for it. The caller holds mu.
func (e *Engine) endContact(c *contact, with func(store.Txn) error) error {
	if err := e.kv.Update(func(txn store.Txn) error {
		return errors.Join(with(txn), erase(txn, c.name, false), txn.Delete(store.Key(tableAccept, c.voucher[:])))
	}); err != nil {
		return fmt.Errorf("forget a contact: %w", err)
	}
	e.unexpect(c)
	delete(e.contacts, c.name)
	e.setPeers()
	delete(e.accepts, c.voucher)
	for _, st := range e.depots {
		for h, t := range st.todo {
			if t.contact == c {
				delete(st.todo, h)
			}
		}
	}
	e.reroute()
	return nil
}

// emptyOutbox drops what waits for a server, by pieces: after a crash in between the rest is a stranger's, and can be
// forgotten again.
func (e *Engine) emptyOutbox(name string) (n int, err error) {
	for {
		var items []store.Item
		err := e.kv.Update(func(txn store.Txn) error {
			var err error
			if items, err = store.Pending(txn, name, 0, 1000); err != nil {
				return err
			}
			seqs := make([]uint64, 0, len(items))
			for _, it := range items {
				seqs = append(seqs, it.Seq)
			}
			return store.Dequeue(txn, name, seqs...)
		})
		if err != nil {
			return n, fmt.Errorf("drop what waits for a server: %w", err)
		}
		if n += len(items); len(items) == 0 {
			return n, nil
		}
	}
}

// forgetLink is for links that an introduction made too: peer is whom it would have made a contact, who then is shunned.
func (e *Engine) forgetLink(table byte, v [32]byte, peer onionid.Name, apply func()) error {
	end := func() {}
	if err := e.kv.Update(func(txn store.Txn) (err error) {
		if peer != "" {
			if end, err = e.shun(txn, peer); err != nil {
				return err
			}
		}
		return txn.Delete(store.Key(table, v[:]))
	}); err != nil {
		return fmt.Errorf("forget a link: %w", err)
	}
	end()
	apply()
	e.reroute()
	return nil
}
