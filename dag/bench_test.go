// SPDX-License-Identifier: Apache-2.0

//go:build goexperiment.jsonv2 || go1.27

package dag_test

import (
	"encoding/base64"
	"encoding/json/v2"
	"fmt"
	"testing"
	"time"

	"maunium.net/go/mautrix/federation/eventauth"
	"maunium.net/go/mautrix/federation/pdu"
	"maunium.net/go/mautrix/id"

	"tarn/dag"
	"tarn/dag/dagtest"
	"tarn/matrix"
)

// conflicted is a room in which n members changed their names differently on two branches.
func conflicted(b *testing.B, n int) (*dagtest.Branch, []dag.State) {
	root := open(b, "12", map[matrix.UserID]int{bob.ID: 100}, bob).Unchecked()
	users := make([]dagtest.User, n/2)
	for i := range users {
		users[i] = servers[i%3].User(fmt.Sprint("u", i))
		root.Join(users[i])
	}
	side := root.Fork()
	for _, u := range users {
		root.Must(u, matrix.TypeMember, key(string(u.ID)), `{"membership":"join","displayname":"a"}`)
		side.Must(u, matrix.TypeMember, key(string(u.ID)), `{"membership":"join","displayname":"b"}`)
	}
	return root, []dag.State{root.Room.Current, side.Room.Current}
}

// bans is a room in which n members were banned on one branch and kicked on the other.
func bans(b *testing.B, n int) (*dagtest.Branch, []dag.State) {
	root := open(b, "12", map[matrix.UserID]int{bob.ID: 100}, bob).Unchecked()
	users := make([]dagtest.User, n/2)
	for i := range users {
		users[i] = servers[i%3].User(fmt.Sprint("u", i))
		root.Join(users[i])
	}
	side := root.Fork()
	for _, u := range users {
		if _, err := root.Member(alice, u, "ban"); err != nil {
			b.Fatal(err)
		}
		if _, err := side.Member(bob, u, "leave"); err != nil {
			b.Fatal(err)
		}
	}
	return root, []dag.State{root.Room.Current, side.Room.Current}
}

func benchResolve(b *testing.B, make func(*testing.B, int) (*dagtest.Branch, []dag.State)) {
	for _, n := range []int{1000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			room, sets := make(b, n)
			b.ReportAllocs()
			for b.Loop() {
				resolve(b, room, sets...)
			}
		})
	}
}

func BenchmarkResolveMembers(b *testing.B)      { benchResolve(b, conflicted) }
func BenchmarkResolveKicksAndBans(b *testing.B) { benchResolve(b, bans) }

// BenchmarkResolveTopicIn10kRoom is the everyday case: a small conflict in a large room.
func BenchmarkResolveTopicIn10kRoom(b *testing.B) {
	root := open(b, "12", map[matrix.UserID]int{bob.ID: 50}, bob).Unchecked()
	for i := range 10_000 {
		root.Join(servers[0].User(fmt.Sprint("u", i)))
	}
	side := root.Fork()
	root.Must(bob, matrix.TypeTopic, key(""), `{"topic":"a"}`)
	side.Must(alice, matrix.TypeTopic, key(""), `{"topic":"b"}`)
	b.ReportAllocs()
	for b.Loop() {
		resolve(b, root, root.Room.Current, side.Room.Current)
	}
}

// wire is the bytes of a room with n messages.
func wire(b *testing.B, n int) (*dagtest.Branch, [][]byte) {
	room := open(b, "12", map[matrix.UserID]int{bob.ID: 50}, bob, carol)
	for i := range n {
		room.Must(crowd[i%3], matrix.TypeMessage, nil, fmt.Sprintf(`{"body":"forty characters of a message, or %06d","msgtype":"m.text"}`, i))
	}
	raws := make([][]byte, 0, n)
	for _, ev := range *room.Ord {
		raws = append(raws, ev.Raw())
	}
	return room, raws
}

const chain = 500

// BenchmarkIngest is all that a received event costs before it is stored: parse, hash, id, signature, auth, heads.
func BenchmarkIngest(b *testing.B) {
	room, raws := wire(b, chain)
	keys := dagtest.Keys(servers...)
	b.ReportAllocs()
	for b.Loop() {
		r := dagtest.NewRoom(room.Room.ID, "12")
		for _, raw := range raws {
			ev, err := matrix.Parse("12", raw)
			if err != nil {
				b.Fatal(err)
			}
			if err := ev.Verify(keys); err != nil {
				b.Fatal(err)
			}
			if in, err := r.Deliver(ev); err != nil || in.Status != dag.Accepted {
				b.Fatal(in.Status, in.Why, err)
			}
		}
	}
	b.ReportMetric(float64(b.N*len(raws))/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkIngestByTheLibraryAlone is the same steps with nothing of ours: the raw limit.
func BenchmarkIngestByTheLibraryAlone(b *testing.B) {
	_, raws := wire(b, chain)
	known := dagtest.Keys(servers...)
	getKey := func(server string, keyID id.KeyID, _ time.Time) (id.SigningKey, time.Time, error) {
		pub, err := known(matrix.ServerName(server), string(keyID))
		return id.SigningKey(base64.RawStdEncoding.EncodeToString(pub)), time.UnixMilli(matrix.MaxDepth), err
	}
	b.ReportAllocs()
	for b.Loop() {
		held := map[id.EventID]*pdu.PDU{}
		get := func(ids []id.EventID) ([]*pdu.PDU, error) {
			out := make([]*pdu.PDU, len(ids))
			for i, x := range ids {
				out[i] = held[x]
			}
			return out, nil
		}
		for _, raw := range raws {
			p := new(pdu.PDU)
			if err := json.Unmarshal(raw, p); err != nil {
				b.Fatal(err)
			}
			if !p.VerifyContentHash() {
				b.Fatal("hash")
			}
			x, err := p.GetEventID("12")
			if err != nil {
				b.Fatal(err)
			}
			if err := p.VerifySignature("12", p.Sender.Homeserver(), getKey); err != nil {
				b.Fatal(err)
			}
			if err := eventauth.Authorize("12", p, nil, get, getKey); err != nil {
				b.Fatal(err)
			}
			held[x] = p
		}
	}
	b.ReportMetric(float64(b.N*len(raws))/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkSend is a message of our own: choose the auth events, build, sign, insert.
func BenchmarkSend(b *testing.B) {
	room := open(b, "12", nil, bob)
	r := deliver(b, room)
	b.ReportAllocs()
	for b.Loop() {
		p := matrix.Proto{
			Room: r.ID, Sender: bob.ID, Type: matrix.TypeMessage, Content: []byte(`{"body":"hi","msgtype":"m.text"}`),
			PrevEvents: r.Heads, Depth: 9, Time: dagtest.Start,
		}
		p.AuthEvents = dag.AuthEvents("12", r.Current, p)
		ev, err := matrix.Build("12", p, bob.Signer)
		if err != nil {
			b.Fatal(err)
		}
		if in, err := r.Deliver(ev); err != nil || in.Status != dag.Accepted {
			b.Fatal(in.Why, err)
		}
	}
}
