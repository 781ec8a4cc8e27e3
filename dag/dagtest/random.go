// SPDX-License-Identifier: Apache-2.0

//go:build goexperiment.jsonv2 || go1.27

package dagtest

import (
	"errors"
	"fmt"
	"time"

	"tarn/dag"
	"tarn/matrix"
)

// Dice gives a number from 0 to n-1: a test's own source of chance.
type Dice func(n int) int

// Random is a forked room: up to steps events after the usual beginning, by members of several servers whose clocks are
// up to an hour apart, on up to 4 branches that fork and join. Most events are allowed where they were sent; about one in
// ten of those that are not is in the room all the same, as a bad server would do it. The room is open (join_rule public)
// and the first two of the users are its creator and an admin.
func Random(dice Dice, version matrix.RoomVersion, users []User, steps int) (*RandomRoom, error) {
	creator := users[0]
	b, err := NewBranch(version, creator, nil)
	if err != nil {
		return nil, err
	}
	levels := func(whom matrix.UserID, level int) any {
		m := map[matrix.UserID]int{users[1].ID: 100, creator.ID: 100}
		if m[whom] = level; level < 0 {
			delete(m, whom) // the user's entry is taken away
		}
		if version.PrivilegedRoomCreators() {
			delete(m, creator.ID)
		}
		return map[string]any{"users": m, "invite": 0}
	}
	b.Must(creator, matrix.TypePowerLevels, Key(""), levels(users[1].ID, 100))
	b.Must(creator, matrix.TypeJoinRules, Key(""), `{"join_rule":"public"}`)
	for _, u := range users[1:] {
		b.Join(u)
	}
	rr := &RandomRoom{Root: b, Branches: []*Branch{b}}
	for range steps {
		at := dice(len(rr.Branches))
		br := rr.Branches[at]
		switch d := dice(10); {
		case d == 0 && len(rr.Branches) < 4:
			rr.Branches = append(rr.Branches, br.Fork())
			continue
		case d == 1 && len(rr.Branches) > 1:
			if other := dice(len(rr.Branches)); other != at {
				if err := br.Merge(rr.Branches[other]); err != nil {
					return nil, err
				}
				rr.Branches = append(rr.Branches[:other], rr.Branches[other+1:]...)
			}
			continue
		}
		by, whom := users[dice(len(users))], users[dice(len(users))]
		now := br.Now
		br.Now = now.Add(time.Duration(dice(7200)-3600) * time.Second)
		ev, err := act(dice, br, by, whom, levels)
		br.Now = now.Add(time.Second)
		if errors.Is(err, dag.ErrNotAllowed) {
			if dice(10) == 0 {
				br.PutRejected(ev)
			}
		} else if err != nil {
			return nil, err
		}
	}
	return rr, nil
}

// act is one random deed.
func act(dice Dice, b *Branch, by, whom User, levels func(matrix.UserID, int) any) (*matrix.Event, error) {
	switch dice(12) {
	case 0:
		return b.Member(by, by, matrix.MemberJoin)
	case 1:
		return b.Member(by, by, matrix.MemberLeave)
	case 2:
		return b.Member(by, whom, matrix.MemberLeave)
	case 3:
		return b.Member(by, whom, matrix.MemberBan)
	case 4:
		return b.Member(by, whom, matrix.MemberInvite)
	case 5:
		return b.Send(by, matrix.TypeJoinRules, Key(""), fmt.Sprintf(`{"join_rule":%q}`, []string{"public", "invite"}[dice(2)]))
	case 6, 7:
		return b.Send(by, matrix.TypePowerLevels, Key(""), levels(whom.ID, []int{-1, 0, 50, 100}[dice(4)]))
	case 8:
		return b.Send(by, matrix.TypeTopic, Key(""), fmt.Sprintf(`{"topic":"%d"}`, dice(1000)))
	case 9:
		return b.Send(by, matrix.TypeName, Key(""), fmt.Sprintf(`{"name":"%d"}`, dice(1000)))
	default:
		return b.Send(by, matrix.TypeMessage, nil, fmt.Sprintf(`{"body":"%d"}`, dice(1000)))
	}
}

// RandomRoom is what Random made.
type RandomRoom struct {
	Root     *Branch
	Branches []*Branch // the ends
}

// Events is all events, each after what it leans on and follows.
func (rr *RandomRoom) Events() []*matrix.Event { return *rr.Root.Ord }

// States are the states at the ends of the branches.
func (rr *RandomRoom) States() []dag.State {
	out := make([]dag.State, len(rr.Branches))
	for i, b := range rr.Branches {
		out[i] = b.Room.Current
	}
	return out
}
