// SPDX-License-Identifier: Apache-2.0

package room

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"tarn/dag"
	"tarn/matrix"
)

// The room's server ACL (C-S API, "Server access control lists"; server-server API, "Server Access Control Lists (ACLs)"). It is no rule of the graph: each
// server keeps to it as it has it. So nothing is taken from a denied server, given to it, or answered. An event that a denied server wrote and that another brings
// is soft-failed: it is shown to nobody and nothing leans on it, until somebody who is not denied wrote something that does; then it has its place, for
// all nodes are to have the same graph.

// acl is an m.room.server_acl that was read.
type acl struct {
	allow, deny []string
	literals    bool // IP addresses may be

	mu      sync.Mutex // guards decided, for the time of a decision
	decided map[matrix.ServerName]bool
}

// maxDecided bounds the servers that an ACL remembers: more than rooms have.
const maxDecided = 4096

// readACL reads the content of an m.room.server_acl. What is no list is an empty one, so that a broken ACL denies all.
func readACL(content json.RawMessage) *acl {
	var c struct {
		Allow    []any `json:"allow"`
		Deny     []any `json:"deny"`
		Literals any   `json:"allow_ip_literals"`
	}
	var fields map[string]json.RawMessage
	if json.Unmarshal(content, &fields) == nil {
		_ = json.Unmarshal(fields["allow"], &c.Allow)
		_ = json.Unmarshal(fields["deny"], &c.Deny)
		_ = json.Unmarshal(fields["allow_ip_literals"], &c.Literals)
	}
	a := &acl{literals: c.Literals != false, decided: map[matrix.ServerName]bool{}}
	for to, list := range map[*[]string][]any{&a.allow: c.Allow, &a.deny: c.Deny} {
		for _, x := range list {
			if s, ok := x.(string); ok {
				*to = append(*to, strings.ToLower(s))
			}
		}
	}
	return a
}

// allows decides by the specification's five sentences; the first (no ACL: allow) is the caller's.
func (a *acl) allows(server matrix.ServerName) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if yes, ok := a.decided[server]; ok {
		return yes
	}
	name := strings.ToLower(string(server))
	if host, port, ok := strings.Cut(name, ":"); ok && !strings.Contains(port, ":") { // names are matched without their port
		name = host
	} else if i := strings.LastIndex(name, "]:"); i >= 0 {
		name = name[:i+1]
	}
	matches := func(list []string) bool {
		return slices.ContainsFunc(list, func(pattern string) bool { return glob(pattern, name) })
	}
	_, err := netip.ParseAddr(strings.Trim(name, "[]"))
	yes := (err != nil || a.literals) && !matches(a.deny) && matches(a.allow)
	if len(a.decided) >= maxDecided {
		clear(a.decided)
	}
	a.decided[server] = yes
	return yes
}

// glob matches * and ?; its cost is at most the product of the two lengths.
func glob(pattern, s string) bool {
	p, i, star, mark := 0, 0, -1, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, i
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == s[i]):
			p++
			i++
		case star >= 0:
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// aclIn is a state's ACL; nil: there is none.
func (q *reading) aclIn(s dag.State) (*acl, error) {
	id, ok := s[matrix.StateKey{Type: matrix.TypeServerACL}]
	if !ok {
		return nil, nil
	}
	q.r.aclMu.Lock()
	a := q.r.acls[id]
	q.r.aclMu.Unlock()
	if a != nil {
		return a, nil
	}
	e, err := q.byID(id)
	if err != nil || e == nil {
		return nil, err
	}
	a = readACL(e.ev.Content()) // as it was written, whatever was redacted later: its content stays by the redaction rules
	q.r.aclMu.Lock()
	defer q.r.aclMu.Unlock()
	if q.r.acls == nil || len(q.r.acls) >= 64 {
		q.r.acls = map[matrix.EventID]*acl{}
	}
	q.r.acls[id] = a
	return a, nil
}

// deniedIn tells whether a state's ACL denies a server. Nobody denies itself.
func (q *reading) deniedIn(s dag.State, server matrix.ServerName) (bool, error) {
	if server == q.r.server() {
		return false, nil
	}
	a, err := q.aclIn(s)
	return a != nil && !a.allows(server), err
}

// denied tells whether the room's present ACL denies a server.
func (q *reading) denied(server matrix.ServerName) (bool, error) {
	s, err := q.state(q.row.current)
	if err != nil {
		return false, err
	}
	return q.deniedIn(s, server)
}

// admitted are those of some servers that a state's ACL does not deny.
func (q *reading) admitted(s dag.State, servers []matrix.ServerName) ([]matrix.ServerName, error) {
	a, err := q.aclIn(s)
	if a == nil || err != nil {
		return servers, err
	}
	var out []matrix.ServerName
	for _, server := range servers {
		if a.allows(server) {
			out = append(out, server)
		}
	}
	return out, nil
}

// soften makes a denied server's event soft-failed.
func (p *plan) soften(ev *matrix.Event, in *dag.Insertion) (denied bool, err error) {
	if denied, err = p.deniedIn(p.current, ev.Server()); !denied || err != nil {
		return denied, err
	}
	if in.Status == dag.Accepted {
		in.Status, in.Heads, in.Current = dag.SoftFailed, p.graph().Heads, p.current
	}
	return true, nil
}
