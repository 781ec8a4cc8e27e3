// SPDX-License-Identifier: Apache-2.0

package bundle

import "tarn/mailbox"

// MaxStores is how many mailboxes a contact may name.
const MaxStores = 16

// Contact is a TypeContact record: what a node says of itself to a contact.
type Contact struct {
	Serial  uint64            // grows with every change: one that arrives late and is older is dropped
	Stores  []mailbox.Address // where to leave boxes for it; at most MaxStores
	Name    string            // a hint for people, UTF-8 without control characters; at most 255 bytes; may be empty
	Profile string            // of its schedule, so that the delay can be told; at most 32 bytes; may be empty
}

// Record encodes c: serial, list of addresses, name, profile. ErrTooLarge or ErrMalformed if ParseContact would refuse it.
func (c Contact) Record() (Record, error) {
	var w writer
	w.number(c.Serial, 1<<63-1, "serial")
	w.number(uint64(len(c.Stores)), MaxStores, "stores")
	for _, a := range c.Stores {
		w.store(a)
	}
	w.text(c.Name, maxText, "name")
	w.text(c.Profile, maxProfile, "profile")
	return w.record(TypeContact, "a contact")
}

const maxProfile = 32 // bytes of a profile's name

// ParseContact decodes a TypeContact record. ErrMalformed, ErrTooLarge.
func ParseContact(data []byte) (Contact, error) {
	r := &reader{b: data}
	c := Contact{Serial: r.number(1<<63-1, "serial")}
	n := r.count(MaxStores, 64, "stores")
	for range n {
		c.Stores = append(c.Stores, r.store())
	}
	c.Name = r.text(maxText, "name")
	c.Profile = r.text(maxProfile, "profile")
	if err := r.end("a contact"); err != nil {
		return Contact{}, err
	}
	return c, nil
}

// store writes the address of a mailbox.
func (w *writer) store(a mailbox.Address) {
	if _, err := mailbox.ParseAddress(a.String()); err != nil {
		w.fail(ErrMalformed, "store address")
	}
	w.text(a.String(), maxText, "store address")
}

// store reads one, in its one spelling.
func (r *reader) store() mailbox.Address {
	s := r.text(maxText, "store address")
	if r.err != nil {
		return mailbox.Address{}
	}
	a, err := mailbox.ParseAddress(s)
	if err != nil || a.String() != s {
		r.fail(ErrMalformed, "store address")
		return mailbox.Address{}
	}
	return a
}
