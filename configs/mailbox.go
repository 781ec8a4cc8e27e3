// SPDX-License-Identifier: Apache-2.0

package configs

import (
	_ "embed"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"

	"tarn/mailbox"
)

// Mailbox is the configuration of a Tarn mailbox. Paths that do not begin with / are relative to this file's folder.
// Times are written like "10s", "5m", "24h", sizes like "500MiB", "10GiB". What is not set keeps the value shown here.
type Mailbox struct {
	// Where the mailbox keeps its key and its boxes. One process only.
	DataDir string `toml:"data_dir"`
	// What is written to the log: "debug", "info", "warn" or "error". No line at any level tells of a request.
	LogLevel string `toml:"log_level"`
	// Whether the mailbox keeps boxes for others.
	Store bool `toml:"store"`
	// Whether the mailbox carries requests: nodes hold long sessions with it, and it forwards what they seal to stores,
	// mixed and delayed, so that no store sees which node asks. It can not read them.
	Courier bool `toml:"courier"`
	// A label that all mailboxes of yours share, up to 32 printable ASCII characters. Nodes then do not use one of them as
	// courier to another, which would let you see both ends. Worth setting if you host more than one.
	Family string `toml:"family"`
	// How many addresses the mailbox has, 1 to 64. Each is a mailbox of its own to nodes, with a share of the quota. Worth
	// raising when more than some 300 nodes use it: the list of new boxes that each of them reads gets shorter.
	Ponds int `toml:"ponds"`
	// Sessions that the courier holds at once, 1 to 100000. Each takes about 60 kB of memory, 180 kB at most.
	MaxSessions int `toml:"max_sessions"`
	// Frames a second that one session may ask for, 1 to 50; a node whose profile makes more is refused, and says so. The
	// profile "instant" makes one in three seconds. All sessions together get one a second for each of max_sessions.
	MaxFrames int `toml:"max_frames"`
	// Of these, how many are kept for sessions with a session token, which the accounts of this mailbox draw (16 a day): who floods
	// it without an account leaves those alone. Half of max_sessions at most; 0 without store or deposit = "tokens", which give them.
	ReservedSessions int `toml:"reserved_sessions"`
	// Halves with layers (of nodes whose halves go through several couriers) that the courier passes on a day, 10000 to 100000000.
	// A node makes 17280 a day with a frame each 10 s. Each takes 16 bytes of memory and 8 of disk for two days.
	MaxLayers int `toml:"max_layers"`
	// Links with other mailboxes at once, in each direction, 1 to 10000, for each of the ponds.
	MaxLinks int `toml:"max_links"`
	// The most disk that boxes may take. When it is reached, writers are told that the mailbox is full until boxes expire. Each
	// of the ponds needs at least 4 MiB for each expiry_unit of the ttl and two more, and 34 MiB for boxes: 98 MiB as it stands here. A box takes 8.5 KiB; a node at the balanced profile writes about 2,600 a day.
	Quota Bytes `toml:"quota"`
	// How much of the file system stays free, whatever the quota says; at least 64MiB.
	Reserve Bytes `toml:"reserve"`
	// What a deposit needs: "tokens", one for each box, which an account draws and shares with its contacts, so that the
	// mailbox can bound who fills it without knowing who writes; or "open", nothing: anybody who knows the address can fill it.
	Deposit string `toml:"deposit"`
	// How one gets an account: any of "work" (a proof of work; nothing is asked of a person), "code" (`mailbox
	// invite-code` makes one) and "list" (account_list). Without "work" only people you know can use the mailbox.
	Accounts []string `toml:"accounts"`
	// The accounts that need no code: lines that `node tokens` prints.
	AccountList []string `toml:"account_list"`
	// How hard the proof of work is, 1 to 28: each more doubles it. 22 is about a second of one processor.
	WorkBits int `toml:"work_bits"`
	// Tokens that an account may draw of one day, at least 100. A node at the balanced profile needs about 5,000, with
	// those for its contacts. All accounts together may draw twice what the quota has room for, those by work half of it.
	TokensPerDay int `toml:"tokens_per_day"`
	// How long a box is kept: at least this, and up to an expiry_unit longer. At most 8784h.
	TTL time.Duration `toml:"ttl"`
	// Boxes are forgotten together, this many hours' worth at a time: their key is destroyed and their files are
	// deleted. Each unit of the ttl is an open database, of about 1 MiB of memory. Cannot change later.
	ExpiryUnit time.Duration `toml:"expiry_unit"`
	// The public list of new boxes is published in pieces of this length, 50ms to 1h, whole milliseconds. It is the
	// same for everybody; shorter means quicker delivery and more work for everybody. Cannot change later.
	DigestBucket time.Duration `toml:"digest_bucket"`
	// Connections served at once, 1 to 10000, for each of the ponds. Each takes about 50 kB of memory while it lasts.
	MaxConnections int `toml:"max_connections"`
	// While more than this many connections a second arrive, tor asks newcomers for a proof of work, 0 to 65535.
	// 0: never. Worth setting (for instance 30) for a mailbox whose address is public.
	PowRate int `toml:"pow_rate"`
	// How the mailbox reaches the Tor network.
	Tor Tor `toml:"tor"`
}

// DefaultMailbox is what a new mailbox begins with.
func DefaultMailbox() Mailbox {
	return Mailbox{
		DataDir:          ".",
		LogLevel:         "info",
		Store:            true,
		Courier:          true,
		Ponds:            1,
		MaxSessions:      1000,
		ReservedSessions: 250,
		MaxFrames:        4,
		MaxLayers:        4 << 20,
		MaxLinks:         256,
		Quota:            10 << 30,
		Reserve:          256 << 20,
		Deposit:          "tokens",
		Accounts:         []string{"work", "code"},
		AccountList:      []string{},
		WorkBits:         22,
		TokensPerDay:     6000,
		TTL:              14 * 24 * time.Hour,
		ExpiryUnit:       24 * time.Hour,
		DigestBucket:     10 * time.Second,
		MaxConnections:   512,
		Tor:              defaultTor(),
	}
}

// maxUnits bounds the open databases: ttl / expiry_unit.
const maxUnits = 100

// What the least quota is reckoned from: package mailbox/store's UnitCost and BoxCost, which a test compares, and boxes.
const (
	unitCost = 4 << 20
	boxCost  = 8704
	minBoxes = 4096
)

// leastQuota is what each pond needs to take any boxes worth speaking of: the databases of all expiry units that can be there at
// once cost their share before the first box.
func (m *Mailbox) leastQuota() Bytes {
	return Bytes(m.TTL/m.ExpiryUnit+2)*unitCost + minBoxes*boxCost
}

// Check that the values are possible.
func (m *Mailbox) Check() error {
	if m.DataDir == "" {
		return fmt.Errorf("data_dir is empty")
	}
	if err := checkLevel(m.LogLevel); err != nil {
		return err
	}
	switch {
	case !m.Store && !m.Courier:
		return fmt.Errorf("store and courier are both false: the mailbox would do nothing")
	case mailbox.CheckFamily(m.Family) != nil:
		return fmt.Errorf("family is %q: %w", m.Family, mailbox.CheckFamily(m.Family))
	case m.Ponds < 1 || m.Ponds > 64 || !m.Store && m.Ponds != 1:
		return fmt.Errorf("ponds is %d: it must be between 1 and 64, and 1 without store", m.Ponds)
	case m.MaxSessions < 1 || m.MaxSessions > 100_000:
		return fmt.Errorf("max_sessions is %d: it must be between 1 and 100000", m.MaxSessions)
	case m.ReservedSessions < 0 || m.Courier && m.ReservedSessions > m.MaxSessions/2:
		return fmt.Errorf("reserved_sessions is %d: it must be between 0 and %d, half of max_sessions", m.ReservedSessions, m.MaxSessions/2)
	case m.Courier && m.ReservedSessions > 0 && (!m.Store || m.Deposit == "open"):
		return fmt.Errorf(`reserved_sessions is %d: without store and deposit = "tokens" there are no session tokens, so it must be 0`, m.ReservedSessions)
	case m.MaxFrames < 1 || m.MaxFrames > 50:
		return fmt.Errorf("max_frames is %d: it must be between 1 and 50", m.MaxFrames)
	case m.MaxLayers < 10_000 || m.MaxLayers > 100_000_000:
		return fmt.Errorf("max_layers is %d: it must be between 10000 and 100000000", m.MaxLayers)
	case m.MaxLinks < 1 || m.MaxLinks > 10_000:
		return fmt.Errorf("max_links is %d: it must be between 1 and 10000", m.MaxLinks)
	case m.Deposit != "open" && m.Deposit != "tokens":
		return fmt.Errorf(`deposit is %q: it can be "tokens" or "open"`, m.Deposit)
	case m.WorkBits < 1 || m.WorkBits > mailbox.MaxNodeWork:
		return fmt.Errorf("work_bits is %d: it must be between 1 and %d, which is the most that a node works", m.WorkBits, mailbox.MaxNodeWork)
	case m.TokensPerDay < 100 || m.TokensPerDay > mailbox.MaxCap:
		return fmt.Errorf("tokens_per_day is %d: it must be between 100 and %d", m.TokensPerDay, mailbox.MaxCap)
	case m.Reserve < 64<<20:
		return fmt.Errorf("reserve is %v: it must be at least 64MiB", m.Reserve)
	case m.DigestBucket < mailbox.MinBucket || m.DigestBucket > mailbox.MaxBucket || m.DigestBucket%time.Millisecond != 0:
		return fmt.Errorf("digest_bucket is %v: it must be between %v and %v, in whole milliseconds", m.DigestBucket, mailbox.MinBucket, mailbox.MaxBucket)
	case m.TTL < m.DigestBucket || m.TTL > mailbox.MaxTTL || m.TTL%time.Millisecond != 0:
		return fmt.Errorf("ttl is %v: it must be between digest_bucket and %v, in whole milliseconds", m.TTL, mailbox.MaxTTL)
	case m.ExpiryUnit < 100*time.Millisecond || m.ExpiryUnit > 31*24*time.Hour || m.ExpiryUnit%time.Millisecond != 0:
		return fmt.Errorf("expiry_unit is %v: it must be between 100ms and 744h, in whole milliseconds", m.ExpiryUnit)
	case m.TTL/m.ExpiryUnit > maxUnits:
		return fmt.Errorf("ttl is %v and expiry_unit %v: more than %d units would be open at once", m.TTL, m.ExpiryUnit, maxUnits)
	case m.Store && m.Quota/Bytes(m.Ponds) < m.leastQuota():
		return fmt.Errorf("quota is %v: with this ttl and expiry_unit it must be at least %d MiB for each pond", m.Quota, (m.leastQuota()+1<<20-1)>>20)
	case m.MaxConnections < 1 || m.MaxConnections > 10000:
		return fmt.Errorf("max_connections is %d: it must be between 1 and 10000", m.MaxConnections)
	case m.PowRate < 0 || m.PowRate > 65535:
		return fmt.Errorf("pow_rate is %d: it must be between 0 and 65535", m.PowRate)
	}
	if _, _, err := m.AccountWays(); err != nil {
		return err
	}
	return m.Tor.Check()
}

// AccountWays is accounts and account_list as package mailbox has them.
func (m *Mailbox) AccountWays() (ways mailbox.Accounts, list []mailbox.AccountID, err error) {
	names := map[string]mailbox.Accounts{"work": mailbox.AccountsWork, "code": mailbox.AccountsCode, "list": mailbox.AccountsList}
	for _, w := range m.Accounts {
		if names[w] == 0 || ways&names[w] != 0 {
			return 0, nil, fmt.Errorf(`accounts: %q: they are "work", "code" and "list", each once`, w)
		}
		ways |= names[w]
	}
	if ways == 0 {
		return 0, nil, fmt.Errorf("accounts is empty: nobody could draw tokens")
	}
	for _, a := range m.AccountList {
		id, err := mailbox.ParseAccountID(a)
		if err != nil {
			return 0, nil, fmt.Errorf("account_list: %q: %w", a, err)
		}
		list = append(list, id)
	}
	if len(list) > 0 && ways&mailbox.AccountsList == 0 {
		return 0, nil, fmt.Errorf(`account_list has accounts, but accounts has no "list"`)
	}
	return ways, list, nil
}

//go:embed mailbox.toml
var mailboxSample string

// RenderMailbox writes m as a configuration file: the sample, with its comments, and m's values.
func RenderMailbox(m Mailbox) []byte { return render(mailboxSample, reflect.ValueOf(m)) }

// Bytes is a size, written like "500MiB"; without a unit it is bytes.
type Bytes int64

var byteUnits = []struct {
	name string
	size Bytes
}{
	{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"B", 1},
}

// String is the shortest exact form in binary units.
func (b Bytes) String() string {
	for _, u := range byteUnits[:4] {
		if b != 0 && b%u.size == 0 {
			return strconv.FormatInt(int64(b/u.size), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(b), 10) + "B"
}

// UnmarshalText reads a size; negative ones, fractions and what exceeds 63 bits are errors.
func (b *Bytes) UnmarshalText(text []byte) error {
	s := strings.TrimSpace(string(text))
	unit := Bytes(1)
	for _, u := range byteUnits {
		if digits, ok := strings.CutSuffix(s, u.name); ok {
			s, unit = strings.TrimSpace(digits), u.size
			break
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/int64(unit) {
		return fmt.Errorf("%q is not a size like 500MiB or 10GiB", text)
	}
	*b = Bytes(n) * unit
	return nil
}

// Set makes Bytes a flag.Value.
func (b *Bytes) Set(s string) error { return b.UnmarshalText([]byte(s)) }
