// SPDX-License-Identifier: Apache-2.0

package room

import (
	"fmt"
	"slices"

	"tarn/dag"
	"tarn/matrix"
)

// redactions looks at an event that became visible: what it redacts, and what redacted it before it came (spec: server-server
// API, "Redactions"; room version 3, "Handling redactions").
func (p *plan) redactions(h hash, e *held) error {
	if e.ev.Type() == matrix.TypeRedaction {
		target, err := hashOf(e.ev.Redacts())
		if err == nil {
			p.redacts[[2]hash{target, h}] = true
			if err := p.redact(target, h, e); err != nil {
				return err
			}
		}
	}
	prefix := redactionPrefix(p.n, h)
	var by []hash
	err := p.rd.Scan(prefix, nil, func(k, _ []byte) (bool, error) {
		by = append(by, hash(k[len(prefix):]))
		return len(by) < 20, nil
	})
	if err != nil {
		return fmt.Errorf("looking for redactions: %w", err)
	}
	for k := range p.redacts {
		if k[0] == h {
			by = append(by, k[1])
		}
	}
	for _, b := range by {
		r, err := p.held(b)
		if err != nil {
			return err
		}
		if r == nil {
			continue
		}
		if err := p.redact(h, b, r); err != nil {
			return err
		}
	}
	return nil
}

// redact marks target as redacted if the redaction counts and the target is here.
func (p *plan) redact(target, by hash, redaction *held) error {
	e, err := p.held(target)
	if e == nil || e.redacted || target == by || err != nil {
		return err
	}
	ok, err := p.mayRedact(redaction, e)
	if err != nil || !ok {
		return err
	}
	p.change(target, e).redacted = true
	kind, _ := e.ev.Relation()
	if text, _ := readable(e.ev); (kind != "" || text != "") && e.shown && !slices.Contains(p.fresh, target) && !slices.Contains(p.seated, target) {
		p.unlinked = append(p.unlinked, target)
	}
	return nil
}

// mayRedact: the sender is of the same server as the event's, or has the power (room version 3). Nothing redacts a create event.
func (q *reading) mayRedact(redaction, e *held) (bool, error) {
	if redaction.status != dag.Accepted || e.ev.Is(matrix.TypeCreate, "") {
		return false, nil
	}
	if redaction.ev.Server() == e.ev.Server() {
		return true, nil
	}
	s, err := q.state(redaction.before)
	if err != nil {
		return false, err
	}
	power, err := q.powerIn(s)
	if err != nil {
		return false, err
	}
	return power.User(redaction.ev.Sender()) >= power.Redact, nil
}

// redacter refuses a local user's redaction of what is not their own, without the power: the rules of the room leave it to
// each server to hold its users apart (room version 3, "Handling redactions").
func (p *plan) redacter(n NewEvent) error {
	target, err := p.byID(n.Redacts)
	if err != nil {
		return err
	}
	if target != nil && target.ev.Sender() == n.Sender {
		return nil
	}
	power, err := p.powerIn(p.current)
	if err != nil {
		return err
	}
	if power.User(n.Sender) < power.Redact {
		return fmt.Errorf("%w: redacting another's event", ErrForbidden)
	}
	return nil
}

// redactedBy finds the redaction that counts for a redacted event.
func (q *reading) redactedBy(h hash, e *held) (*matrix.Event, error) {
	prefix := redactionPrefix(q.n, h)
	var out *matrix.Event
	err := q.rd.Scan(prefix, nil, func(k, _ []byte) (bool, error) {
		r, err := q.held(hash(k[len(prefix):]))
		if err != nil || r == nil {
			return err == nil, err
		}
		ok, err := q.mayRedact(r, e)
		if ok {
			out = r.ev
		}
		return !ok, err
	})
	return out, err
}
