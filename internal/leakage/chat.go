// SPDX-License-Identifier: Apache-2.0

package leakage

import (
	"math/rand/v2"
	"slices"
	"time"
)

// Turns of a conversation: the mean, and how far it goes either way. With about 16 turns each side writes some eight
// boxes in an hour of chat, as in the simulations that the aims come from.
const (
	minTurns = 8
	maxTurns = 24
	// think is the mean time from reading a message to sending the answer, beyond thinkLeast: reading and typing.
	think      = 50 * time.Second
	thinkLeast = 10 * time.Second
	// again is the probability that another message follows in the same turn, up to burst.
	again = 0.25
	burst = 3
	// lastTurn: nobody begins a turn later in the hour. Then the traffic of an hour of chat stays in it, nearly.
	lastTurn = 50 * time.Minute
)

// A Turn is what one side says before the other answers.
type Turn struct {
	Think    time.Duration // after the last message of the turn before was read
	Messages int
	Pauses   []time.Duration // between its messages
}

// A Conversation is closed-loop: a side answers what it has read. A speaks first.
type Conversation struct {
	Hour  int
	Start time.Duration // since the beginning of the world
	A, B  int
	Turns []Turn
}

// Speaker is who has the turn.
func (c *Conversation) Speaker(turn int) int {
	if turn%2 == 0 {
		return c.A
	}
	return c.B
}

// Listener is the other one.
func (c *Conversation) Listener(turn int) int { return c.A + c.B - c.Speaker(turn) }

// Late tells whether at is too late in the conversation's hour for another turn.
func (c *Conversation) Late(at time.Duration) bool {
	return at > time.Duration(c.Hour)*time.Hour+lastTurn
}

// Uptime is one node's times of being up: sorted, apart.
type Uptime []struct{ From, To time.Duration }

// Up tells whether the node is up at a time.
func (u Uptime) Up(at time.Duration) bool {
	for _, s := range u {
		if at >= s.From && at < s.To {
			return true
		}
	}
	return false
}

// Chat is who knows whom, and who talks when. The conversations of one seed are the same in every world.
type Chat struct {
	Nodes, Hours  int
	Contacts      [][]int // of each node, about six
	Conversations []Conversation
	Uptimes       []Uptime // nil: everybody, always
}

// Degree is how many contacts a node has, about.
const Degree = 6

// NewChat draws the people. In each hour half of the nodes chat, each with one contact; some pairs talk more than
// others. If away, each node is up for some hours of each day, and only those that are up talk.
func NewChat(nodes, hours int, away bool, seed uint64) *Chat {
	rng := rand.New(rand.NewPCG(seed, 0xc4a7))
	c := &Chat{Nodes: nodes, Hours: hours, Contacts: make([][]int, nodes)}
	if away {
		for range nodes {
			c.Uptimes = append(c.Uptimes, uptime(hours, rng))
		}
	}
	type edge struct {
		a, b   int
		weight float64
	}
	var edges []edge
	link := func(a, b int) {
		if a == b || slices.Contains(c.Contacts[a], b) || len(c.Contacts[a]) > Degree || len(c.Contacts[b]) > Degree {
			return
		}
		c.Contacts[a], c.Contacts[b] = append(c.Contacts[a], b), append(c.Contacts[b], a)
		edges = append(edges, edge{min(a, b), max(a, b), rng.ExpFloat64()})
	}
	for a := range nodes {
		link(a, (a+1)%nodes) // nobody is alone
	}
	for tries := 0; len(edges) < nodes*Degree/2 && tries < nodes*100; tries++ {
		link(rng.IntN(nodes), rng.IntN(nodes))
	}
	for h := range hours {
		// The order of arrival of independent exponential clocks: heavier edges come sooner.
		type arrival struct {
			edge
			at float64
		}
		var order []arrival
		for _, e := range edges {
			order = append(order, arrival{e, rng.ExpFloat64() / e.weight})
		}
		slices.SortFunc(order, func(x, y arrival) int {
			if x.at < y.at {
				return -1
			}
			return 1
		})
		begin := time.Duration(h) * time.Hour
		talking := make([]bool, nodes)
		n := 0
		for _, e := range order {
			if n+2 > (nodes+1)/2 {
				break
			}
			start := begin + time.Duration(rng.Float64()*float64(15*time.Minute))
			turns := drawTurns(rng)
			if talking[e.a] || talking[e.b] || away && (!c.Uptimes[e.a].Up(start) && !c.Uptimes[e.b].Up(start)) {
				continue
			}
			a, b := e.a, e.b
			if rng.IntN(2) == 0 {
				a, b = b, a
			}
			if away && !c.Uptimes[a].Up(start) {
				a, b = b, a // who is away does not begin
			}
			talking[a], talking[b] = true, true
			n += 2
			c.Conversations = append(c.Conversations, Conversation{h, start, a, b, turns})
		}
	}
	return c
}

func drawTurns(rng *rand.Rand) []Turn {
	turns := make([]Turn, minTurns+rng.IntN(maxTurns-minTurns+1))
	for i := range turns {
		t := Turn{Think: thinkLeast + time.Duration(rng.ExpFloat64()*float64(think)), Messages: 1}
		for t.Messages < burst && rng.Float64() < again {
			t.Messages++
		}
		for range t.Messages - 1 {
			t.Pauses = append(t.Pauses, 3*time.Second+time.Duration(rng.ExpFloat64()*float64(10*time.Second)))
		}
		turns[i] = t
	}
	return turns
}

// uptime draws a node's days: most people have habits (up from some hour for some hours, not to the minute the same
// every day, now and then not at all), a quarter leaves the machine on for days.
func uptime(hours int, rng *rand.Rand) Uptime {
	var u Uptime
	end := time.Duration(hours) * time.Hour
	add := func(from, to time.Duration) {
		from, to = max(0, from), min(to, end)
		if n := len(u); n > 0 && from <= u[n-1].To {
			u[n-1].To = max(u[n-1].To, to)
		} else if from < to {
			u = append(u, struct{ From, To time.Duration }{from, to})
		}
	}
	hour := func(mean, spread float64) time.Duration {
		return time.Duration((mean + spread*rng.NormFloat64()) * float64(time.Hour))
	}
	if rng.Float64() < 0.25 {
		for at := time.Duration(0); at < end; {
			to := at + time.Duration(rng.ExpFloat64()*float64(60*time.Hour))
			add(at, to)
			at = to + hour(3, 1).Abs() + time.Minute
		}
		return u
	}
	begin, length := rng.Float64()*24, 5+rng.Float64()*8
	for day := -1; day*24 < hours; day++ {
		if rng.Float64() < 0.1 {
			continue
		}
		from := time.Duration(day*24)*time.Hour + hour(begin, 0.75)
		add(from, from+max(hour(length, 1.5), 30*time.Minute))
	}
	return u
}

// Chatting is whether the node's user has a conversation in that hour.
func (c *Chat) Chatting() [][]bool {
	out := make([][]bool, c.Nodes)
	for i := range out {
		out[i] = make([]bool, c.Hours+1)
	}
	for _, v := range c.Conversations {
		out[v.A][v.Hour], out[v.B][v.Hour] = true, true
	}
	return out
}

// Pairs is the truth about pairs: those who talked, and those who are no contacts. Contacts that did not talk are left
// out: their nodes know each other, which is neither.
func (c *Chat) Pairs() map[[2]int]bool {
	out := map[[2]int]bool{}
	for a := range c.Nodes {
		for b := a + 1; b < c.Nodes; b++ {
			if !slices.Contains(c.Contacts[a], b) {
				out[[2]int{a, b}] = false
			}
		}
	}
	for _, v := range c.Conversations {
		out[[2]int{min(v.A, v.B), max(v.A, v.B)}] = true
	}
	return out
}
