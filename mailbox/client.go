// SPDX-License-Identifier: Apache-2.0

package mailbox

import (
	"context"
	"errors"
	"net"
)

// Errors that a store answers, or that its answer shows.
var (
	ErrExists   = errors.New("mailbox: another box has that id")
	ErrFull     = errors.New("mailbox: the store is full")
	ErrBusy     = errors.New("mailbox: the store is busy")
	ErrBadReply = errors.New("mailbox: the store answered something that is not an answer")
	ErrNotYet   = errors.New("mailbox: that digest page is not closed yet")
	ErrGone     = errors.New("mailbox: that digest page has expired")
)

// Dialer is package onion's, or its twin's.
type Dialer interface {
	Dial(ctx context.Context, addr, isolation string) (net.Conn, error)
}

// PageAddr names a digest page by time alone: the same for everybody, so that it names no reader.
// Level 0 is one bucket (Descriptor.Bucket long), level 1 is 60 buckets, level 2 is 1440.
type PageAddr struct {
	Level uint8
	Index uint64 // time / (bucket * LevelSpan)
	Part  uint16 // 0-based; a page with more handles than fit one answer has several parts
}

// Page is one signed part of a digest.
type Page struct {
	PageAddr
	Parts   uint16
	Handles []Handle // sorted
}

// Client speaks to one store in direct mode: each call is one transaction on its own isolated circuit, UpSize bytes
// up and DownSize bytes down, whatever it is. Safe for concurrent use.
type Client struct{}

// NewClient makes a client; it dials only when called.
func NewClient(a Address, d Dialer) *Client { panic("unwritten") }

// Descriptor fetches (a transaction like the others) and checks the store's signed descriptor, and keeps it; the
// other calls err with ErrNoDescriptor until one valid for today is there: the schedule decides when to fetch.
func (c *Client) Descriptor(ctx context.Context) (Descriptor, error) { panic("unwritten") }

// Put writes a box: nil when the store has it durably (also if it had the very same before), ErrExists, ErrFull, ErrBusy.
func (c *Client) Put(ctx context.Context, id BoxID, box *[BoxSize]byte) error { panic("unwritten") }

// Nothing is a Put that stores nothing; nobody but the store can tell.
func (c *Client) Nothing(ctx context.Context) error { panic("unwritten") }

// Get reads the box with that handle. Of an absent one it returns random bytes, as the store sent them: only who holds the key can tell.
func (c *Client) Get(ctx context.Context, h Handle) (*[BoxSize]byte, error) { panic("unwritten") }

// Digest reads a page and checks its signature, address and order.
func (c *Client) Digest(ctx context.Context, p PageAddr) (Page, error) { panic("unwritten") }
