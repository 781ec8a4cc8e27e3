// SPDX-License-Identifier: Apache-2.0

package media

import (
	"context"
	"errors"
	"fmt"
)

// Waiting says of a file of another server how far it is. It is ErrNotYet.
type Waiting struct {
	Here, Parts uint64 // Parts is 0 while it is not known
}

func (w *Waiting) Error() string {
	if w.Parts == 0 {
		return "the file is asked for and has not begun to come: it comes in boxes, which takes minutes"
	}
	return fmt.Sprintf("%d of %d parts are here: the file comes in boxes, which takes minutes", w.Here, w.Parts)
}

func (w *Waiting) Unwrap() error { return ErrNotYet }

// NotComing says why a file of another server does not come.
type NotComing struct {
	Large bool // it has Size bytes, and we take Max
	Gone  bool // its server does not have it, or does not give it to us
	Size  int64
	Max   int64
	why   string
}

func (n *NotComing) Error() string {
	switch n.why {
	case failedLarge:
		return fmt.Sprintf("the file has %d bytes; this node takes up to %d of another's through mailboxes ([media] remote_max)", n.Size, n.Max)
	case failedSpace:
		return "there is no space for the file: this node's operator can give more ([media] quota, remote_quota)"
	case failedHash:
		return "what came was twice not the file that its server described"
	case failedSilent:
		return "the file's server did not answer"
	}
	return "the file's server does not have it, or does not give it to this one"
}

// GetRemote opens a file of another server. r.Small: or the thumbnail that its server made, if the file is not here; isSmall tells that it is that. If it is not
// here it is asked for, at the schedule's next opportunity, and GetRemote waits until ctx ends: *Waiting. *NotComing if it will not come; without ask, ErrUnreached.
func (s *Store) GetRemote(ctx context.Context, r Remote, ask bool) (f *File, isSmall bool, err error) {
	f, err = s.awaitRemote(ctx, r, ask, func() (*File, error) {
		f, err := s.open(Remote{Server: r.Server, ID: r.ID}.key())
		if isSmall = r.Small && errors.Is(err, ErrNotFound); isSmall {
			return s.open(r.key())
		}
		return f, err
	})
	return f, isSmall, err
}

func (s *Store) awaitRemote(ctx context.Context, r Remote, ask bool, open func() (*File, error)) (*File, error) {
	if !r.valid() {
		return nil, ErrNotFound
	}
	for {
		changed, forget := s.await(r.topic()) // before the look, so that nothing slips between
		f, err := open()
		if !errors.Is(err, ErrNotFound) {
			forget()
			return f, err
		}
		if !ask {
			forget()
			return nil, ErrUnreached
		}
		if err := s.Want(r, true); err != nil {
			forget()
			return nil, err
		}
		if err := s.notComing(r); err != nil {
			forget()
			return nil, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			forget()
			return nil, s.standing(r)
		}
	}
}

// notComing is *NotComing if it is so. A thumbnail that does not come has the file instead of it.
func (s *Store) notComing(r Remote) error {
	s.remote.mu.Lock()
	defer s.remote.mu.Unlock()
	c := s.remote.coming[r.Server][r.name()]
	if c != nil && c.Failed != "" && r.Small {
		c = s.remote.coming[r.Server][r.ID]
	}
	if c == nil || c.Failed == "" {
		return nil
	}
	return &NotComing{Large: c.Failed == failedLarge, Gone: c.Failed == failedNone, Size: c.Size, Max: s.opt.RemoteMax, why: c.Failed}
}

func (s *Store) standing(r Remote) error {
	s.remote.mu.Lock()
	defer s.remote.mu.Unlock()
	w := &Waiting{}
	c := s.remote.coming[r.Server][r.name()]
	if c != nil && c.Failed != "" && r.Small {
		c = s.remote.coming[r.Server][r.ID]
	}
	if c != nil && c.Hash != "" {
		w.Here, w.Parts = c.got, parts(c.Size)
	}
	return w
}
