// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"errors"
	"fmt"
	"math"
	"time"

	"tarn/mailbox"
)

// ErrProfile: a profile has an impossible value, or no profile has that name.
var ErrProfile = errors.New("replicate: impossible profile")

// Profile is the schedule's parameters: how much traffic is made, and so how soon a message arrives. It is data: the
// four of Profiles, or any other. DESIGN §5 has the table and the simulated delays behind it.
type Profile struct {
	Name string
	// Frame is the mean time between two ticks. Each tick is one frame to a courier, or in direct mode one PUT, one GET
	// and Digests DIGEST transactions.
	Frame time.Duration
	// Mix is the mean of the exponential delay that the sender of a half asks of each courier on its way.
	Mix time.Duration
	// Lag is how long after a frame up its frame down comes, whatever happened: the truncated delays of Hops couriers
	// and two round trips over Tor.
	Lag time.Duration
	// Push is the time between two page frames, in which a courier passes on the newest digests.
	Push time.Duration
	// Hops is how many couriers a half passes, of different operators: 1, or 3.
	Hops int
	// SecondCopy is how long a box waits for the peer's acknowledgement before it is also written to its second store.
	SecondCopy time.Duration
	// Digests is for direct mode: how many digest pages are read a tick, at least 1. More than 1 pays when a store's digest bucket is
	// not longer than Frame: measured with 10 s buckets, balanced delivers in 31 s (p95 64 s) with 2 and in 71 s (209 s)
	// with 1.
	Digests int
	// CoverPut is the probability that an idle PUT slot writes a random box and not a sealed no-op. It costs the
	// store's disk, and hides from the store how much is written.
	CoverPut float64
	// AckDelay is the mean of the exponential delay of an acknowledgement that has nothing to ride on.
	AckDelay time.Duration
	// Retransmit is how long a box waits for the peer's acknowledgement before it is written again, the first time;
	// the wait doubles up to RetransmitMax.
	Retransmit    time.Duration
	RetransmitMax time.Duration
	// Want is how long a missing event is waited for before the peer is asked, and the first pause between two requests.
	Want time.Duration
	// Heads is the mean time between two summaries of the shared rooms' heads to a contact.
	Heads time.Duration
	// Timeout ends a transaction with a mailbox that does not answer.
	Timeout time.Duration
	// InFlight bounds the transactions that are under way; a slot beyond it is dropped, not delayed.
	InFlight int
}

// Profiles are the named ones, fastest first. Balanced is the default.
func Profiles() []Profile {
	return []Profile{
		{Name: "instant", Frame: 3 * time.Second, Mix: 500 * time.Millisecond, Lag: 3 * time.Second, Push: 5 * time.Second, Hops: 1, SecondCopy: 4 * time.Minute,
			Digests: 1, CoverPut: 0.3, AckDelay: time.Minute, Retransmit: 10 * time.Minute, RetransmitMax: 6 * time.Hour,
			Want: 30 * time.Second, Heads: 30 * time.Minute, Timeout: time.Minute, InFlight: 128},
		{Name: "balanced", Frame: 10 * time.Second, Mix: 2 * time.Second, Lag: 3500 * time.Millisecond, Push: 10 * time.Second, Hops: 1, SecondCopy: 10 * time.Minute,
			Digests: 2, CoverPut: 0.3, AckDelay: 5 * time.Minute, Retransmit: 30 * time.Minute, RetransmitMax: 12 * time.Hour,
			Want: 2 * time.Minute, Heads: time.Hour, Timeout: 90 * time.Second, InFlight: 64},
		{Name: "economy", Frame: 60 * time.Second, Mix: 5 * time.Second, Lag: 12 * time.Second, Push: time.Minute, Hops: 1, SecondCopy: 45 * time.Minute,
			Digests: 1, CoverPut: 0.3, AckDelay: 15 * time.Minute, Retransmit: 2 * time.Hour, RetransmitMax: 24 * time.Hour,
			Want: 10 * time.Minute, Heads: 4 * time.Hour, Timeout: 2 * time.Minute, InFlight: 32},
		{Name: "paranoid", Frame: 10 * time.Second, Mix: 20 * time.Second, Lag: 125 * time.Second, Push: 10 * time.Second, Hops: 3, SecondCopy: 20 * time.Minute,
			Digests: 2, CoverPut: 1, AckDelay: 5 * time.Minute, Retransmit: 30 * time.Minute, RetransmitMax: 12 * time.Hour,
			Want: 5 * time.Minute, Heads: time.Hour, Timeout: 90 * time.Second, InFlight: 64},
	}
}

// Balanced is the default profile.
func Balanced() Profile { p, _ := ParseProfile("balanced"); return p }

// ParseProfile finds a named profile; ErrProfile.
func ParseProfile(name string) (Profile, error) {
	for _, p := range Profiles() {
		if p.Name == name {
			return p, nil
		}
	}
	return Profile{}, fmt.Errorf("%w: there is none named %q", ErrProfile, name)
}

// CustomProfile makes a profile for tests and demonstrations from its frame alone; every other time is a multiple of
// it: mixing a fifth of a frame, acknowledgements after 4 frames, second copies after 20, rewrites after 40, requests for
// missing events after 8, heads every 200.
func CustomProfile(frame time.Duration, coverPut float64) Profile {
	mix := min(frame/5, maxDelay/4)
	return Profile{Name: "custom", Frame: frame, Mix: mix, Lag: 2*mix + 2*time.Second, Push: max(frame, 500*time.Millisecond), Hops: 1, SecondCopy: 20 * frame, Digests: 2, CoverPut: coverPut, AckDelay: 4 * frame, Retransmit: 40 * frame, RetransmitMax: 2000 * frame,
		Want: 8 * frame, Heads: 200 * frame, Timeout: max(30*time.Second, 2*frame), InFlight: 128}
}

// Validate errs with ErrProfile and words about the field that is impossible.
func (p Profile) Validate() error {
	bad := func(format string, a ...any) error {
		return fmt.Errorf("%w: %s", ErrProfile, fmt.Sprintf(format, a...))
	}
	switch {
	case p.Frame < 10*time.Millisecond || p.Frame > 24*time.Hour:
		return bad("frame is %v, must be within 10ms and 24h", p.Frame)
	case p.Digests < 1 || p.Digests > 8:
		return bad("digests is %d, must be within 1 and 8", p.Digests)
	case !(p.CoverPut >= 0 && p.CoverPut <= 1):
		return bad("cover_put is %v, must be within 0 and 1", p.CoverPut)
	case p.Mix < 0 || p.Mix > maxDelay/4:
		return bad("mix is %v, must be within 0 and %v", p.Mix, maxDelay/4)
	case p.Lag < 100*time.Millisecond || p.Lag > maxDelay:
		return bad("lag is %v, must be within 100ms and %v", p.Lag, maxDelay)
	case p.Push < 250*time.Millisecond || p.Push > time.Hour:
		return bad("push is %v, must be within 250ms and 1h", p.Push)
	case p.Hops != 1 && p.Hops != maxHops:
		return bad("hops is %d, must be 1 or %d", p.Hops, maxHops)
	case p.SecondCopy <= 0:
		return bad("second_copy is %v, must be above 0", p.SecondCopy)
	case p.AckDelay <= 0 || p.Want <= 0 || p.Heads <= 0 || p.Retransmit <= 0:
		return bad("every delay must be above 0")
	case p.RetransmitMax < p.Retransmit:
		return bad("retransmit_max (%v) is below retransmit (%v)", p.RetransmitMax, p.Retransmit)
	case p.Timeout < time.Second:
		return bad("timeout is %v, must be at least 1s", p.Timeout)
	case p.InFlight < 2+p.Digests || p.InFlight > 4096:
		return bad("in_flight is %d, must be within %d and 4096", p.InFlight, 2+p.Digests)
	}
	return nil
}

// transactionTime is what one transaction with a mailbox over Tor takes, assumed for estimates (facts: 0.7 s one way).
const transactionTime = 1500 * time.Millisecond

// Mode is the way that a node's traffic goes.
type Mode byte

// The modes.
const (
	Direct   Mode = iota // to the stores themselves, each request on its own circuit: no courier is known
	Couriers             // in frames to two couriers
)

func (m Mode) String() string { return [...]string{"direct", "couriers"}[m] }

// ExpectedDelay estimates the mean time from a message to its delivery when both nodes are up. ticks is how many PUTs it
// takes, on average, until one goes where a box for the receiver may lie: at least 1.
func (p Profile) ExpectedDelay(m Mode, ticks float64, bucket time.Duration) time.Duration {
	frames := scale(max(1, ticks), p.Frame)
	if m == Couriers {
		// The wait for a frame that goes there; the way to the store; the rest of the page's time, and the push; the
		// wait for a frame; its answer, Lag after it arrived.
		return p.lead() + frames + time.Duration(p.Hops)*(p.Mix+oneWay) + oneWay + max(bucket, p.Push)/2 + pushTime + p.Frame + p.lead() + p.Lag + 2*oneWay
	}
	digest := frames / time.Duration(max(1, p.Digests))
	return frames + bucket + digest + digestLag(digest, bucket) + frames + 3*transactionTime + p.lead()
}

// Assumed for estimates: one way over Tor (facts: 0.7 s), and a bucket's way from its end through a courier to the node.
const (
	oneWay   = 700 * time.Millisecond
	pushTime = 3000 * time.Millisecond
)

// digestLag is how much longer a bucket waits to be read when buckets close about as fast as DIGEST slots come, or
// faster: then many wait for the next larger page. Fitted to TestDeliveryTakesAboutWhatTheProfilePromises.
func digestLag(interval, bucket time.Duration) time.Duration {
	if bucket <= 0 {
		return 0
	}
	load := float64(interval) / float64(bucket) // buckets a slot
	lag := 2.6 * math.Pow(min(load, 1), 4)
	if load > 1 {
		lag += 22.5 * (1 - 1/load)
	}
	return time.Duration(lag * float64(bucket))
}

// BytesPerDay is what the schedule sends and receives in a day, without what Tor adds: it does not depend on use.
func (p Profile) BytesPerDay(m Mode) int64 {
	day := float64(24 * time.Hour)
	ticks := day / float64(p.Frame)
	if m == Couriers {
		return int64(ticks*float64(frameBytes(p.Hops)) + day/float64(p.Push)*mailbox.PageFrameSize)
	}
	return int64(ticks * float64(2+p.Digests) * float64(mailbox.UpSize+mailbox.DownSize))
}

// frameBytes is a frame up and its frame down.
func frameBytes(hops int) int {
	if hops > 1 {
		return (32 + 18) * mailbox.CellData
	}
	return mailbox.UpSize + mailbox.DownSize
}

// lead is how long before its time a slot's content is chosen, so that choosing (and its disk sync) never shows in
// the time at which the slot's transaction begins.
func (p Profile) lead() time.Duration { return min(p.Frame/4, 250*time.Millisecond) }
