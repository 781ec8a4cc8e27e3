// SPDX-License-Identifier: Apache-2.0

package bundle

import "fmt"

// Split cuts a record into fragments each of which fits an otherwise empty bundle, whatever it holds. A record that
// fits whole gives one fragment, which does not use id; else id must be random and used once. Data alias the record's.
// ErrTooLarge if the record exceeds MaxRecord; ErrMalformed if it has type 0.
func Split(r Record, id [16]byte) ([]Fragment, error) {
	if r.Type == 0 {
		return nil, fmt.Errorf("splitting a record: %w: type 0", ErrMalformed)
	}
	if len(r.Data) > MaxRecord {
		return nil, fmt.Errorf("splitting a record of %d bytes: %w", len(r.Data), ErrTooLarge)
	}
	if len(r.Data) <= maxFragment {
		return []Fragment{{Type: r.Type, Count: 1, Data: r.Data}}, nil
	}
	n := (len(r.Data) + maxFragment - 1) / maxFragment
	fs := make([]Fragment, n)
	for i := range fs {
		// All full but the last, so that the last leaves room for something else in its bundle.
		from, to := i*maxFragment, min((i+1)*maxFragment, len(r.Data))
		fs[i] = Fragment{Type: r.Type, ID: id, Index: uint16(i), Count: uint16(n), Data: r.Data[from:to:to]}
	}
	return fs, nil
}

// Join puts a record together from all its fragments, in any order (replicate keeps them on disk until they are
// complete: their boxes' keys are gone once acknowledged). ErrMalformed if one is missing, doubled or does not fit the
// others; ErrTooLarge if the whole exceeds MaxRecord. The record is new memory.
func Join(fs []Fragment) (Record, error) {
	if len(fs) == 0 || len(fs) > MaxFragments {
		return Record{}, fmt.Errorf("joining %d fragments: %w", len(fs), ErrMalformed)
	}
	first, total := fs[0], 0
	for _, f := range fs {
		if f.Type != first.Type || f.ID != first.ID || f.Count != first.Count {
			return Record{}, fmt.Errorf("joining fragments: %w: they are of different records", ErrMalformed)
		}
		if total += len(f.Data); total > MaxRecord {
			return Record{}, fmt.Errorf("joining fragments: %w", ErrTooLarge)
		}
	}
	if first.Type == 0 || int(first.Count) != len(fs) {
		return Record{}, fmt.Errorf("joining fragments: %w: %d of %d", ErrMalformed, len(fs), first.Count)
	}
	at := make([][]byte, len(fs))
	seen := make([]bool, len(fs))
	for _, f := range fs {
		if int(f.Index) >= len(fs) || seen[f.Index] {
			return Record{}, fmt.Errorf("joining fragments: %w: number %d is doubled or out of range", ErrMalformed, f.Index)
		}
		at[f.Index], seen[f.Index] = f.Data, true
	}
	data := make([]byte, 0, total)
	for _, d := range at {
		data = append(data, d...)
	}
	return Record{Type: first.Type, Data: data}, nil
}
