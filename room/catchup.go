// SPDX-License-Identifier: Apache-2.0

package room

import (
	"math"

	"tarn/dag"
	"tarn/matrix"
	"tarn/store"
)

// maxCatchUp bounds the events that are handed to a server when its first user has joined; what is older comes by
// heads and wants.
const maxCatchUp = 500

// catchUp hands a server what was said here between an invite and its acceptance. The invite carried the room as it
// was then; until the join arrives, which takes as long as the peer's schedule, the server is not in the room and gets
// nothing. Without this the peer would learn of those events only from a later one, or from a heads summary. The
// inviting server alone does it, for it knows what went with the invite; or the one that answered who asked to join (asking.go). What the history visibility keeps from the
// newcomer is redacted when it is packed (RawFor).
func (p *plan) catchUp(join *held) error {
	ev := join.ev
	server := ev.Server()
	if join.status == dag.Rejected || ev.Type() != matrix.TypeMember || ev.Membership() != matrix.MemberJoin ||
		server == p.r.server() || p.census.servers[server] != 1 || len(p.r.contacts([]matrix.ServerName{server})) == 0 {
		return nil
	}
	from, err := p.handover(server)
	if err != nil {
		return err
	}
	if from != 0 {
		p.handed = append(p.handed, server)
	} else {
		if join.replaces == (hash{}) {
			return nil
		}
		invite, err := p.held(join.replaces)
		if err != nil || invite == nil || invite.ev.Membership() != matrix.MemberInvite || !p.r.local(invite.ev.Sender()) {
			return err
		}
		from = invite.place
	}
	n := 0
	return p.walk(from+1, math.MaxUint64, false, func(e placed) (bool, error) {
		if e.ev.Server() == server {
			return true, nil
		}
		p.outbox = append(p.outbox, delivery{server, store.ItemEvent, itemData(p.row.id, e.ev.ID())})
		n++
		return n < maxCatchUp, nil
	})
}
