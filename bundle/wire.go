// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"encoding/binary"
	"fmt"
)

// The primitives of all records: a number is a uvarint (base 128, low group first, in its shortest form), a string is
// its length and its bytes, a list is its count and its members.

// appendBytes writes length and bytes.
func appendBytes[T ~string | ~[]byte](b []byte, s T) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// reader takes a record apart. The first error stays, and everything after it reads as zero.
type reader struct {
	b   []byte
	err error
}

// fail keeps the first error: what says what was wrong.
func (r *reader) fail(err error, what string) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s", err, what)
	}
	r.b = nil
}

// number reads one of at most max.
func (r *reader) number(max uint64, what string) uint64 {
	if r.err != nil {
		return 0
	}
	n, k := binary.Uvarint(r.b)
	switch {
	case k <= 0:
		r.fail(ErrMalformed, what+" is cut off")
		return 0
	case k > 1 && r.b[k-1] == 0:
		r.fail(ErrMalformed, what+" is not in its shortest form")
		return 0
	case n > max:
		r.fail(ErrTooLarge, what)
		return 0
	}
	r.b = r.b[k:]
	return n
}

// bytes reads a length of at most max and as many bytes, which alias the record.
func (r *reader) bytes(max int, what string) []byte {
	n := r.number(uint64(max), what)
	return r.take(int(n), what)
}

// take reads n bytes, which alias the record.
func (r *reader) take(n int, what string) []byte {
	if r.err != nil {
		return nil
	}
	if n > len(r.b) {
		r.fail(ErrMalformed, what+" is cut off")
		return nil
	}
	out := r.b[:n:n]
	r.b = r.b[n:]
	return out
}

// count reads how many members follow: at most max, and not more than the bytes left can hold at size bytes each, so
// that memory for them may be taken.
func (r *reader) count(max, size int, what string) int {
	n := r.number(uint64(max), what)
	if r.err == nil && n > uint64(len(r.b)/size) {
		r.fail(ErrMalformed, what+" is more than there are bytes for")
		return 0
	}
	return int(n)
}

// end is the error so far; bytes that are left over are one.
func (r *reader) end(what string) error {
	if r.err == nil && len(r.b) != 0 {
		r.fail(ErrMalformed, "bytes are left over")
	}
	if r.err != nil {
		return fmt.Errorf("reading %s: %w", what, r.err)
	}
	return nil
}

// writer builds a record; what a reader would refuse is an error here.
type writer struct {
	b   []byte
	err error
}

func (w *writer) fail(err error, what string) {
	if w.err == nil {
		w.err = fmt.Errorf("%w: %s", err, what)
	}
}

func (w *writer) number(n, max uint64, what string) {
	if n > max {
		w.fail(ErrTooLarge, what)
	}
	w.b = binary.AppendUvarint(w.b, n)
}

func (w *writer) bytes(b []byte, max int, what string) {
	if len(b) > max {
		w.fail(ErrTooLarge, what)
	}
	w.b = appendBytes(w.b, b)
}

// record is what was written, or why it can not be.
func (w *writer) record(t Type, what string) (Record, error) {
	if w.err == nil && len(w.b) > MaxRecord {
		w.fail(ErrTooLarge, "record")
	}
	if w.err != nil {
		return Record{}, fmt.Errorf("writing %s: %w", what, w.err)
	}
	return Record{Type: t, Data: w.b}, nil
}
