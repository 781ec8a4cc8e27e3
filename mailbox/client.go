// SPDX-License-Identifier: Apache-2.0

package mailbox

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"tarn/crypto/sealed"
)

// Errors that a store answers, or that its answer shows.
var (
	ErrExists   = errors.New("mailbox: another box has that id")
	ErrFull     = errors.New("mailbox: the store is full")
	ErrBusy     = errors.New("mailbox: the store is busy")
	ErrBadReply = errors.New("mailbox: the store answered something that is not an answer")
	ErrNotYet   = errors.New("mailbox: that digest page is not closed yet")
	// ErrGone: the page begins longer ago than a box is kept. A page of a lower level that begins later may still be there.
	ErrGone = errors.New("mailbox: that digest page has expired")
	// ErrTooMany: the page has more handles than a store puts into one; the pages of the level below have them.
	ErrTooMany = errors.New("mailbox: too many handles for a page of that level")
	// ErrRefused: the store does not understand the request; one of the two programs is newer, or wrong.
	ErrRefused = errors.New("mailbox: the store refused the request")
)

// DefaultTimeout ends a transaction whose ctx has no deadline.
const DefaultTimeout = 2 * time.Minute

// Dialer is package onion's, or its twin's.
type Dialer interface {
	// Dial connects to addr, "<56 characters>.onion:port". Connections of different isolation strings share no circuit.
	Dial(ctx context.Context, addr, isolation string) (net.Conn, error)
}

// Client speaks to one store in direct mode: each call is one transaction on its own isolated circuit, UpSize bytes
// up and DownSize bytes down, whatever it is. Safe for concurrent use.
type Client struct {
	addr Address
	dial Dialer

	mu      sync.Mutex // guards the two below, for the time of copying them
	current *Descriptor
	keys    map[uint32]*sealed.PublicKey
}

// NewClient makes a client; it dials only when called.
func NewClient(a Address, d Dialer) *Client { return &Client{addr: a, dial: d} }

// Address is the store's.
func (c *Client) Address() Address { return c.addr }

// Current is the descriptor that was fetched last, if there is one and it has a key for now. It dials nothing.
func (c *Client) Current() (Descriptor, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current == nil {
		return Descriptor{}, false
	}
	_, ok := c.current.keyAt(time.Now())
	return *c.current, ok
}

// Descriptor fetches (a transaction like the others) and checks the store's signed descriptor, and keeps it; the
// other calls err with ErrNoDescriptor until one valid for today is there: the schedule decides when to fetch.
// Anything but such a descriptor is ErrBadReply (wrapping ErrDescriptor).
func (c *Client) Descriptor(ctx context.Context) (Descriptor, error) {
	d, _, err := c.Fetch(ctx)
	return d, err
}

// Fetch is Descriptor, and gives it also as it is signed, followed by zeros: for who hands it on.
func (c *Client) Fetch(ctx context.Context) (Descriptor, []byte, error) {
	var up [UpSize]byte
	DescriptorRequest(&up)
	down, err := c.transact(ctx, &up)
	if err != nil {
		return Descriptor{}, nil, err
	}
	switch Clear(down[0]) {
	case ClearDescriptor:
	case ClearBusy:
		return Descriptor{}, nil, ErrBusy
	case ClearRefused:
		return Descriptor{}, nil, ErrRefused
	default:
		return Descriptor{}, nil, ErrBadReply
	}
	d, err := c.take(down[1:])
	return d, down[1 : 1+BoxSize], err
}

// take checks a descriptor and keeps it.
func (c *Client) take(b []byte) (Descriptor, error) {
	d, err := ParseDescriptor(c.addr, b)
	if err != nil {
		return Descriptor{}, fmt.Errorf("%w: %w", ErrBadReply, err)
	}
	if _, ok := d.keyAt(time.Now()); !ok {
		return Descriptor{}, fmt.Errorf("%w: it has no key for today (UTC): the store's clock or ours is wrong", ErrNoDescriptor)
	}
	keys := make(map[uint32]*sealed.PublicKey, len(d.Keys))
	for _, k := range d.Keys {
		if keys[k.Epoch], err = sealed.ParsePublicKey(k.Public); err != nil {
			return Descriptor{}, fmt.Errorf("%w: %w", ErrBadReply, err)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.current, c.keys = &d, keys
	return d, nil
}

// distrust forgets the descriptor if err says that it is not the mailbox's present one.
func (c *Client) distrust(err error) {
	if !errors.Is(err, ErrNoDescriptor) && !errors.Is(err, ErrRefused) && !errors.Is(err, ErrBadReply) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.current, c.keys = nil, nil
}

// Put writes a box: nil when the store has it durably (also if it had the very same before), ErrExists, ErrFull, ErrBusy.
// After any other error the store may have it or not; writing it again is safe. token is the deposit right; nil: none.
func (c *Client) Put(ctx context.Context, id BoxID, box *[BoxSize]byte, token *[TokenSize]byte) error {
	r := Request{Op: OpPut, ID: id, Box: box[:]}
	if token != nil {
		r.Token = *token
	}
	_, err := c.ask(ctx, r)
	return err
}

// Nothing is a Put that stores nothing; nobody but the store can tell.
func (c *Client) Nothing(ctx context.Context) error {
	_, err := c.ask(ctx, Request{Op: OpNothing})
	return err
}

// Get reads the box with that handle. Of an absent one it returns random bytes, as the store sent them: only who holds the key can tell.
func (c *Client) Get(ctx context.Context, h Handle) (*[BoxSize]byte, error) {
	body, err := c.ask(ctx, Request{Op: OpGet, Get: h})
	if err != nil {
		return nil, err
	}
	if !zero(body[BoxSize:]) {
		return nil, ErrBadReply
	}
	return (*[BoxSize]byte)(body), nil
}

// Digest reads a page and checks its signature, address and order. ErrNotYet, ErrGone and ErrTooMany are answers of the
// store; a page that does not hold is ErrBadReply (wrapping ErrPage).
func (c *Client) Digest(ctx context.Context, p PageAddr) (Page, error) {
	body, err := c.ask(ctx, Request{Op: OpDigest, Page: p})
	if err != nil {
		return Page{}, err
	}
	return c.ReadPage(p, body)
}

// today is the mailbox's key to use now, of that epoch, and its onion key; ErrNoDescriptor if it is not known.
func (c *Client) today() (epoch uint32, key *sealed.PublicKey, onion ed25519.PublicKey, err error) {
	c.mu.Lock()
	var k RequestKey
	ok := false
	if c.current != nil {
		k, ok = c.current.keyAt(time.Now())
	}
	key = c.keys[k.Epoch]
	c.mu.Unlock()
	if !ok || key == nil {
		return 0, nil, nil, ErrNoDescriptor
	}
	onion, err = c.addr.Onion.Key()
	if err != nil {
		return 0, nil, nil, fmt.Errorf("mailbox: %w", err)
	}
	return k.Epoch, key, onion, nil
}

// ask makes one sealed transaction and returns the answer's body.
func (c *Client) ask(ctx context.Context, r Request) ([]byte, error) {
	epoch, key, onion, err := c.today()
	if err != nil {
		return nil, err
	}
	var up [UpSize]byte
	reply, err := SealRequest(&up, r, key, RequestInfo(onion, epoch), epoch)
	if err != nil {
		return nil, err
	}
	down, err := c.transact(ctx, &up)
	if err != nil {
		return nil, err
	}
	status, body, err := OpenAnswer(down, reply)
	if err != nil {
		return nil, err
	}
	return body, status.err(body)
}

// transact is the one exchange that there is: a connection on a circuit of its own, UpSize bytes, DownSize bytes.
func (c *Client) transact(ctx context.Context, up *[UpSize]byte) (*[DownSize]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, DefaultTimeout) // the earlier of the two deadlines counts
	defer cancel()
	// The isolation string is fresh for each transaction: a circuit that two share would tie them together.
	conn, err := c.dial.Dial(ctx, c.addr.dial(), "mailbox-"+rand.Text())
	if err != nil {
		return nil, fmt.Errorf("mailbox: connect: %w", err)
	}
	defer conn.Close()
	return exchange(ctx, conn, up)
}

// exchange sends up and reads the answer; ctx ends it by closing conn.
func exchange(ctx context.Context, conn net.Conn, up *[UpSize]byte) (*[DownSize]byte, error) {
	stop := context.AfterFunc(ctx, func() { conn.Close() }) // ends a Read or Write that hangs
	defer stop()
	if _, err := conn.Write(up[:]); err != nil {
		return nil, exchangeError(ctx, "send the request", err)
	}
	down := new([DownSize]byte)
	if _, err := io.ReadFull(conn, down[:]); err != nil {
		return nil, exchangeError(ctx, "read the answer", err)
	}
	return down, nil
}

// exchangeError says ctx's reason when ctx ended the exchange.
func exchangeError(ctx context.Context, what string, err error) error {
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return fmt.Errorf("mailbox: %s: %w", what, err)
}
