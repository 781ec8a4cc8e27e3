// SPDX-License-Identifier: Apache-2.0

package replicate

import "time"

// A contact fetches one box a frame, whoever wrote it. Where each word is a box, one who comes back after a night has a box to fetch for every word
// of every room, and one with many contacts is told more each day than it can fetch. But a box holds some dozens of small events. So what is for
// a contact that has not acknowledged for long is gathered: it leaves when a box is full of it, or when half as long as the oldest box has waited
// passed since the last one. To one who is away for a time t so go log t boxes that are not full; and one who fetches
// late is told seldom enough that it keeps up. When it acknowledges, what was gathered leaves at once. SPEC §7.4.

// lookAgain is how many frames pass until it is looked again whether what was gathered fills a box.
const lookAgain = 10

// silence is how long a contact has not acknowledged the oldest box behind the newest that it did acknowledge, and last when the newest was
// made. (One before that is lost, or will come by itself: its like are written again.)
func (c *contact) silence(now time.Time) (silence time.Duration, last time.Time) {
	for at, b := range c.boxes {
		if !b.eliciting || c.overtaken(at) {
			continue
		}
		silence = max(silence, now.Sub(b.created))
		if b.created.After(last) {
			last = b.created
		}
	}
	return silence, last
}

// gathers tells whether what waits for a contact is to wait for more. An acknowledgement takes along what there is: else two who are late
// would each wait for the other's. And what the contact is asked for goes out: the answer may be had elsewhere.
func (e *Engine) gathers(c *contact, now time.Time) bool {
	if !c.ackDue.IsZero() && now.After(c.ackDue) {
		return false
	}
	silence, last := c.silence(now)
	return silence > e.profile.Load().Retransmit && now.Sub(last) < silence/2 && c.fragments == 0 && !c.wantDue(now) && !e.fileQuestions(c, now)
}

// nextBox fills a box for a contact; nil: what there is waits for more. While something is gathered it is not looked with every frame whether a box is full.
func (e *Engine) nextBox(c *contact, now time.Time) (*filling, error) {
	if !e.gathers(c, now) {
		return e.fill(c, now)
	}
	if now.Before(c.gatherAt) {
		return nil, nil
	}
	f, err := e.fill(c, now)
	if err != nil || f.full || f.split != 0 || !f.eliciting {
		return f, err
	}
	c.gatherAt = now.Add(e.jitter(lookAgain * e.profile.Load().Frame))
	return nil, nil
}
