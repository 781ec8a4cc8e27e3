// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"encoding/binary"
	"errors"
	"time"

	"tarn/mailbox"
)

// A mailbox can hide the answer to a link of ours: it keeps the box and leaves it out of its digest, and nobody would ever know
// that there was one. So each link's answer is looked for unlisted twice: at a random time in the middle half of the link's life,
// and shortly before its end. No more often: who asks twice for a handle that nobody has written yet shows the mailbox that both are one
// node's (probe). So both times follow from the link's secret, and a node that was started anew looks at none that is over: it may have looked. One
// that was off then has missed it. And a look that left is over, whatever came of it.
const (
	answerLooks = 2
	lastLook    = time.Hour // before the link's end, at the earliest
	hidFor      = 7 * 24 * time.Hour

	labelLooks = "tarn/1 invitation answer looks"
)

// lookAt is when the answer to a link is looked for, the first time (0) or the second.
func (in *invite) lookAt(look int) time.Time {
	h := derive(in.replySecret[:], in.voucher[:], labelLooks, 8*answerLooks)
	u := float64(binary.BigEndian.Uint64(h[8*look:])>>11) / (1 << 53)
	life := in.expiry.Sub(in.created)
	if look == 0 {
		return in.created.Add(life/4 + time.Duration(u*float64(life)/2))
	}
	return in.expiry.Add(-time.Duration((0.1 + 0.9*u) * float64(min(lastLook, life/8))))
}

// lookForAnswer looks for the answer to a link at the mailbox, if that is due.
func (e *Engine) lookForAnswer(d *depot, now time.Time) (job, bool) {
	for _, in := range e.invites {
		if in.store != d.address || in.failed != "" || in.deposited.IsZero() || !now.Before(in.expiry) || in.looked >= answerLooks {
			continue
		}
		h := in.reply().id.Handle()
		if in.lookDue.IsZero() { // a link that was just made, or read from the disk
			for in.looked < answerLooks && in.lookAt(in.looked).Before(e.began) {
				in.looked++
			}
			if in.looked == answerLooks {
				continue
			}
			in.lookDue = in.lookAt(in.looked)
		}
		if in.lookDue.After(now) || d.todo[h] != nil {
			continue
		}
		if in.looked++; in.looked < answerLooks {
			in.lookDue = in.lookAt(in.looked)
		}
		// What the new contact wrote since is listed, perhaps: digests are read again from the link's beginning on.
		j := e.fetch(d, &todo{handle: h, ref: ref{invite: in}, listed: in.created, tries: -1})
		j.store = d
		done := j.done
		j.done = func(err error) {
			if done(err); errors.Is(err, errNotSent) && e.invites[in.voucher] == in {
				in.looked--
				in.lookDue = now
			}
			if e.invites[in.voucher] == nil {
				if d.unlisted == nil {
					d.unlisted = map[mailbox.Handle]time.Time{}
				}
				d.unlisted[h] = time.Now()
			}
		}
		return j, true
	}
	return job{}, false
}

// judgeUnlisted tells of boxes that were found though no page listed them, once all pages until then are read. The caller
// holds mu.
func (e *Engine) judgeUnlisted(now time.Time) {
	for _, d := range e.depots {
		for h, at := range d.unlisted {
			if d.descriptor == nil || !d.follow.begun || d.follow.cursor() <= mailbox.BucketAt(at, d.descriptor.bucket)+1 {
				continue
			}
			delete(d.unlisted, h)
			d.hid = now
			e.log.Warn("a mailbox of ours did not list a box that it had")
		}
	}
}
