// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"tarn/mailbox"
)

// maxCouriers is how many couriers a node may name.
const maxCouriers = 16

// maxMailboxes is how many mailboxes a node may name as its own: what other nodes take (SPEC §7.8).
const maxMailboxes = 3

// Node is the configuration of a Tarn node. Paths that do not begin with / are relative to this file's folder.
// Times are written like "10s", "5m", "24h", sizes like "500MiB", "10GiB". What is not set keeps the value shown here.
type Node struct {
	// Where the node keeps its keys, rooms and users. One process only.
	DataDir string `toml:"data_dir"`
	// The mailboxes where your contacts leave boxes for you: the lines that `mailbox address` prints, of mailboxes
	// that you or others host; at most three. Without one the node can neither receive nor make contacts.
	Mailboxes []string `toml:"mailboxes"`
	// Mailboxes that may carry this node's frames (couriers), as lines like those above; at most sixteen. Your own and your
	// contacts' mailboxes are used as couriers too, if they offer it and belong to another operator than your mailboxes. The
	// node draws two and keeps them for months. When none is known, requests go to the mailboxes directly.
	Couriers []string `toml:"couriers"`
	// Invite codes that operators of your mailboxes gave you, where a mailbox wants one: "LINE CODE", the mailbox's line
	// and the code. A code is used once; it can stay here.
	MailboxCodes []string `toml:"mailbox_codes"`
	// When nodes that share a room become contacts by themselves, introduced by a contact of both that is in it: "needed" (in encrypted rooms all,
	// for without it their people cannot read each other there; in others until two contacts are in the room, for with one the room is lost to you when that
	// one leaves), "rooms" (all in all rooms: receipts and files cross then, too) or "off". It counts for
	// this node in all three parts. `node forget` ends such a contact for good.
	Introductions string `toml:"introductions"`
	// How many contacts may be introduced, at most, 1 to 1000. Each may leave boxes for you; and each whose mailboxes nobody else of your contacts
	// has makes all that you send wait a frame longer, on average.
	MaxIntroduced int `toml:"max_introduced"`
	// What is written to the log: "debug", "info", "warn" or "error". Above debug no line names a user, room, onion or box.
	LogLevel string `toml:"log_level"`
	// The Client-Server API: where your Matrix clients connect.
	Client Client `toml:"client"`
	// The files that your users upload.
	Media Media `toml:"media"`
	// What was said in rooms before your users came.
	History History `toml:"history"`
	// How the node reaches the Tor network.
	Tor Tor `toml:"tor"`
	// When the node speaks to mailboxes. It never depends on whether anybody is talking.
	Profile Profile `toml:"profile"`
}

// Client is the Client-Server API's part.
type Client struct {
	// The address that the Client-Server API listens on. Plain HTTP: keep it on loopback, or behind a TLS proxy.
	Listen string `toml:"listen"`
	// The URL that clients are told to use (/.well-known/matrix/client). Empty: http:// and the listen address.
	BaseURL string `toml:"base_url"`
	// Let anybody who reaches the address make an account, without a token. Refused unless listen is loopback, and base_url, if it
	// is set.
	OpenRegistration bool `toml:"open_registration"`
	// Let whoever reaches the address and knows a file's name have it without a token: clients from before 2024 want it
	// (matrix-nio). Refused as open_registration is.
	OpenMedia bool `toml:"open_media"`
	// Switch the limits on log-in attempts off. For tests and benchmarks.
	NoRateLimit bool `toml:"no_rate_limit"`
}

// Media is the part of the files.
type Media struct {
	// The greatest file that can be uploaded, 64KiB to 16GiB. Clients ask for it before they send.
	MaxUpload Bytes `toml:"max_upload"`
	// The most disk that all files may take, without thumbnails; at least max_upload. When it is reached uploads are refused until
	// you raise it or delete some (`node media list`, `node media delete`).
	Quota Bytes `toml:"quota"`
	// The greatest file that crosses between this node and another's through mailboxes; at most 1GiB, and not more than max_upload. 0: what the
	// profile's frames carry in three hours: 24MiB for instant, 8MiB for balanced and paranoid, 1.3MiB for economy. A megabyte is 126 boxes, in two of three frames: at balanced
	// 32 minutes if nobody says anything else meanwhile, 9 at instant, 3 hours at economy.
	RemoteMax Bytes `toml:"remote_max"`
	// The most disk that the files of one other server may take, of quota.
	RemoteQuota Bytes `toml:"remote_quota"`
}

// History is what is fetched of it, from the nodes of members.
type History struct {
	// How many events are fetched of each room that somebody comes into from outside, before anybody reads them. More are fetched as clients page
	// back; then the contact that is asked can tell that somebody reads. 0: none.
	Ahead int `toml:"ahead"`
	// How many events are fetched in all, of each such time; at most 50000. 0: none, the last 50 come with the invite.
	Most int `toml:"most"`
}

// Profile is the schedule.
type Profile struct {
	// "instant", "balanced", "economy", "paranoid", or "custom": then the values below count (and only then can they be changed).
	Name string `toml:"name"`
	// Mean time between two frames, at least 20 ms. A frame writes, reads and looks for news, whatever there is to do.
	Frame time.Duration `toml:"frame"`
	// Mean delay that is asked of a courier before it passes a request on, up to 2m30s: it mixes yours with others'.
	Mix time.Duration `toml:"mix"`
	// How long after a frame the courier answers it, up to 10m; at least one and a half times mix, and time for Tor.
	Lag time.Duration `toml:"lag"`
	// Time between two pushes of what is new in the mailboxes, 250ms to 1h.
	Push time.Duration `toml:"push"`
	// Without a courier: how many pages of a mailbox's digest are read a frame, 1 to 8. More than 1 pays when the mailbox's
	// digest bucket is not longer than the frame.
	Digests int `toml:"digests"`
	// Which share of the idle write slots stores a box of random bytes, 0 to 1.
	CoverPut float64 `toml:"cover_put"`
	// Mean delay of an acknowledgement that has nothing to ride on.
	AckDelay time.Duration `toml:"ack_delay"`
	// How long to wait for an acknowledgement before a box is written again.
	Rewrite time.Duration `toml:"rewrite"`
}

// maxHistory is room.MaxOlder.
const maxHistory = 50_000

// DefaultNode is what a new node begins with.
func DefaultNode() Node {
	return Node{
		DataDir:   ".",
		Mailboxes: []string{},
		Couriers:  []string{},

		MailboxCodes: []string{},

		Introductions: "needed", MaxIntroduced: 32,

		LogLevel: "info",
		Client:   Client{Listen: "127.0.0.1:8008"},
		Media:    Media{MaxUpload: 50 << 20, Quota: 10 << 30, RemoteQuota: 1 << 30},
		History:  History{Ahead: 200, Most: 10_000},
		Tor:      defaultTor(),
		Profile:  Profile{Name: "balanced", Frame: 10 * time.Second, Mix: 2 * time.Second, Lag: 3500 * time.Millisecond, Push: 10 * time.Second, Digests: 1, CoverPut: 0.3, AckDelay: 5 * time.Minute, Rewrite: 30 * time.Minute},
	}
}

// Check that the values are possible.
func (n *Node) Check() error {
	if n.DataDir == "" {
		return fmt.Errorf("data_dir is empty")
	}
	if len(n.Mailboxes) > maxMailboxes {
		return fmt.Errorf("mailboxes: %d of them; at most %d", len(n.Mailboxes), maxMailboxes)
	}
	if len(n.Couriers) > maxCouriers {
		return fmt.Errorf("couriers: %d of them; at most %d", len(n.Couriers), maxCouriers)
	}
	for what, list := range map[string][]string{"mailboxes": n.Mailboxes, "couriers": n.Couriers} {
		for i, m := range list {
			if slices.Contains(list[:i], m) {
				return fmt.Errorf("%s: %q stands there twice", what, m)
			}
			if _, err := mailbox.ParseAddress(m); err != nil {
				return fmt.Errorf("%s: %q: %w", what, m, err)
			}
		}
	}
	if _, err := n.Codes(); err != nil {
		return err
	}
	if !slices.Contains([]string{"needed", "rooms", "off"}, n.Introductions) {
		return fmt.Errorf(`introductions is %q: it can be "needed", "rooms" or "off"`, n.Introductions)
	}
	if n.MaxIntroduced < 1 || n.MaxIntroduced > 1000 {
		return fmt.Errorf("max_introduced is %d: it must be between 1 and 1000", n.MaxIntroduced)
	}
	if err := checkLevel(n.LogLevel); err != nil {
		return err
	}
	if err := n.Client.check(); err != nil {
		return err
	}
	if err := n.Media.check(); err != nil {
		return err
	}
	switch h := n.History; {
	case h.Most < 0 || h.Most > maxHistory:
		return fmt.Errorf("history.most is %d: it must be between 0 and %d", h.Most, maxHistory)
	case h.Ahead < 0 || h.Ahead > h.Most:
		return fmt.Errorf("history.ahead is %d: it must be between 0 and most, which is %d", h.Ahead, h.Most)
	}
	if err := n.Tor.Check(); err != nil {
		return err
	}
	return n.Profile.check()
}

// Codes is mailbox_codes by mailbox.
func (n *Node) Codes() (map[mailbox.Address]mailbox.Code, error) {
	out := map[mailbox.Address]mailbox.Code{}
	for _, line := range n.MailboxCodes {
		address, text, _ := strings.Cut(strings.TrimSpace(line), " ")
		a, err := mailbox.ParseAddress(address)
		if err != nil {
			return nil, fmt.Errorf("mailbox_codes: %q: %w", line, err)
		}
		c, err := mailbox.ParseCode(text)
		if err != nil {
			return nil, fmt.Errorf("mailbox_codes: %q: %w", line, err)
		}
		out[a] = c
	}
	return out, nil
}

func checkLevel(l string) error {
	switch l {
	case "debug", "info", "warn", "error":
		return nil
	}
	return fmt.Errorf(`log_level is %q: it can be "debug", "info", "warn" or "error"`, l)
}

func (c *Client) check() error {
	ap, err := c.Address()
	if err != nil {
		return err
	}
	outside := ""
	if !ap.Addr().IsLoopback() {
		outside = fmt.Sprintf("client.listen is a loopback address, and %q is not", c.Listen)
	}
	if c.BaseURL != "" {
		u, err := url.Parse(c.BaseURL)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return fmt.Errorf("client.base_url is %q: it must be an http or https URL", c.BaseURL)
		}
		if !loopbackHost(u.Hostname()) {
			outside = fmt.Sprintf("client.base_url is of this machine, and %q is not", c.BaseURL)
		}
	}
	switch {
	case c.OpenRegistration && outside != "":
		return fmt.Errorf("client.open_registration is only possible while %s: others could make accounts on your node", outside)
	case c.OpenMedia && outside != "":
		return fmt.Errorf("client.open_media is only possible while %s: others could have your users' files", outside)
	}
	return nil
}

func loopbackHost(h string) bool {
	a, err := netip.ParseAddr(h)
	return h == "localhost" || err == nil && a.IsLoopback()
}

func (m *Media) check() error {
	switch {
	case m.MaxUpload < 64<<10 || m.MaxUpload > 16<<30:
		return fmt.Errorf("media.max_upload is %v: it must be between 64KiB and 16GiB", m.MaxUpload)
	case m.Quota < m.MaxUpload:
		return fmt.Errorf("media.quota is %v: it must be at least max_upload, which is %v", m.Quota, m.MaxUpload)
	case m.RemoteMax != 0 && (m.RemoteMax < 64<<10 || m.RemoteMax > min(m.MaxUpload, 1<<30)):
		return fmt.Errorf("media.remote_max is %v: it must be 0, or between 64KiB and max_upload, which is %v, and not above 1GiB", m.RemoteMax, m.MaxUpload)
	case m.RemoteQuota < 64<<10 || m.RemoteQuota > m.Quota:
		return fmt.Errorf("media.remote_quota is %v: it must be between 64KiB and quota, which is %v", m.RemoteQuota, m.Quota)
	}
	return nil
}

// Address is Listen read. A host's name is refused: to look it up would be a question to a name server.
func (c *Client) Address() (netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(c.Listen)
	switch {
	case err != nil:
	case host == "":
		host = "::"
	case host == "localhost":
		host = "127.0.0.1"
	}
	ap, perr := netip.ParseAddrPort(net.JoinHostPort(host, port))
	if err != nil || perr != nil {
		return ap, fmt.Errorf(`client.listen is %q: it must be an IP address and a port, like "127.0.0.1:8008"`, c.Listen)
	}
	return ap, nil
}

// URL is what clients are told to use.
func (c *Client) URL() string {
	if c.BaseURL != "" {
		return c.BaseURL
	}
	return "http://" + c.Listen
}

func (p *Profile) check() error {
	switch p.Name {
	case "instant", "balanced", "economy", "paranoid":
		// Values that are set and do not count would be a surprise: less cover than somebody believes.
		rest := DefaultNode().Profile
		if rest.Name = p.Name; *p != rest {
			return fmt.Errorf(`profile.name is %q: frame, mix, lag, push, digests, cover_put, ack_delay and rewrite count only with "custom"`, p.Name)
		}
		return nil
	case "custom":
	default:
		return fmt.Errorf(`profile.name is %q: it can be "instant", "balanced", "economy", "paranoid" or "custom"`, p.Name)
	}
	if p.Frame < 20*time.Millisecond || p.Frame > 24*time.Hour {
		return fmt.Errorf("profile.frame is %v: it must be between 20ms and 24h", p.Frame)
	}
	if p.Mix < 0 || p.Mix > 150*time.Second {
		return fmt.Errorf("profile.mix is %v: it must be between 0 and 2m30s", p.Mix)
	}
	if p.Lag < max(p.Mix*3/2, 100*time.Millisecond) || p.Lag > 10*time.Minute {
		return fmt.Errorf("profile.lag is %v: it must be at least one and a half times mix and 100ms, and at most 10m", p.Lag)
	}
	if p.Push < 250*time.Millisecond || p.Push > time.Hour {
		return fmt.Errorf("profile.push is %v: it must be between 250ms and 1h", p.Push)
	}
	if p.Digests < 1 || p.Digests > 8 {
		return fmt.Errorf("profile.digests is %d: it must be between 1 and 8", p.Digests)
	}
	if !(p.CoverPut >= 0 && p.CoverPut <= 1) {
		return fmt.Errorf("profile.cover_put is %v: it must be between 0 and 1", p.CoverPut)
	}
	if p.AckDelay <= 0 || p.AckDelay > 24*time.Hour {
		return fmt.Errorf("profile.ack_delay is %v: it must be above 0 and at most 24h", p.AckDelay)
	}
	if p.Rewrite < 2*p.Frame || p.Rewrite > 7*24*time.Hour {
		return fmt.Errorf("profile.rewrite is %v: it must be at least two frames and at most 168h", p.Rewrite)
	}
	return nil
}
