// SPDX-License-Identifier: Apache-2.0

package onion

import (
	"context"
	"crypto/ecdh"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"tarn/crypto/onionid"
)

// Network is what the rest of the program sees of Tor: [*Tor] is the real one, oniontest.Host the one in memory. One
// suite (oniontest.TestNetwork) says what both do. All methods may be called from many goroutines at once.
type Network interface {
	// Dial connects to addr, exactly "<56 base32 characters>.onion:port"; anything else is ErrNotOnion.
	// It errs at once with ErrNotReady while there is no connection to the network. A peer that is down makes it wait
	// until ctx ends (tor's own limit is 2 minutes), so ctx should have a deadline: 30 s or more.
	// Connections of different isolation strings share no circuit; those of equal ones may.
	// It does not retry; ErrDescNotFound is worth a retry for some seconds after the peer published.
	Dial(ctx context.Context, addr, isolation string) (net.Conn, error)

	// Listen offers the onion service of key on the virtual port (1..65535). The listener works at once, the world
	// finds it when it is published: whenever the network is up, and again after each restart, until it is closed.
	// A second Listen with the same key adds a port to the service if the options are equal. ctx bounds only the call.
	Listen(ctx context.Context, key ed25519.PrivateKey, port int, opt ...ListenOption) (net.Listener, error)

	// WaitPublished returns nil when all chosen directories (or all that could be reached) have the descriptor of a
	// service that this network listens for, ErrNoService if there is none, or ctx's error.
	WaitPublished(ctx context.Context, name onionid.Name) error
}

// Errors of Dial. They are wrapped together with what tor said.
var (
	// ErrNotOnion: the address is not "<56 base32 characters>.onion:port" with a right checksum.
	ErrNotOnion = errors.New("not an onion address with a port")
	// ErrNotReady: tor is not connected to its network (yet, or any more); nothing was tried.
	ErrNotReady = errors.New("not connected to Tor")
	// ErrOff: the configuration says tor.mode = off. Dial's error wraps ErrNotReady too.
	ErrOff = errors.New("Tor is switched off in the configuration")
	// ErrDescNotFound: nobody has published this onion lately, or the directory asked has not got it yet (SOCKS F0).
	ErrDescNotFound = errors.New("the onion service is not published")
	// ErrIntroFailed: the service's introduction points do not reach it, so it is probably down (SOCKS F2, F7).
	ErrIntroFailed = errors.New("the onion service does not answer its introduction points")
	// ErrRendFailed: no meeting point could be agreed on; a retry may help (SOCKS F3).
	ErrRendFailed = errors.New("the meeting with the onion service failed")
	// ErrNeedAuth: the service lets in only those whose key it knows; ours is missing or wrong (SOCKS F4, F5).
	ErrNeedAuth = errors.New("the onion service needs client authorisation")
	// ErrBadOnion: tor rejects the name or the descriptor it found (SOCKS F1, F6).
	ErrBadOnion = errors.New("the onion address or its descriptor is invalid")
	// ErrRefused: the service is there, but offers nothing on this port, or its program is down.
	ErrRefused = errors.New("the onion service refused the connection")
	// ErrUnreachable: tor gave up for another reason, most often a time limit.
	ErrUnreachable = errors.New("the onion service could not be reached")
)

// Errors of Listen and WaitPublished.
var (
	// ErrInUse: this network already listens on that port of the onion, or with other options.
	ErrInUse = errors.New("the onion port is in use")
	// ErrNoService: this network does not listen for that onion.
	ErrNoService = errors.New("no such onion service here")
)

// Limits of a service.
const (
	maxClientKeys = 330 // keys of authorised clients a service: they must fit into its 50 kB descriptor
	maxPorts      = 16  // virtual ports a service: ours uses one to three
)

// ListenConfig is what the options of Listen say. Networks read it by [NewListenConfig]; callers use the options.
type ListenConfig struct {
	ClientKeys [][32]byte // x25519 public keys of the clients let in, sorted, each once; empty: everybody
	PoWRate    int        // proof-of-work defence: requests served a second under attack; 0: no defence
	PoWBurst   int        // and how many at once
}

// A ListenOption changes how Listen offers a service.
type ListenOption func(*ListenConfig) error

// ClientAuth lets in only the clients that hold one of these x25519 keys ([Tor.AddClientKey]): others cannot even learn
// whether the service is up. At least one key, at most 330.
func ClientAuth(keys ...*ecdh.PublicKey) ListenOption {
	return func(c *ListenConfig) error {
		if len(keys) == 0 || len(keys) > maxClientKeys {
			return fmt.Errorf("client authorisation with %d keys: want 1 to %d", len(keys), maxClientKeys)
		}
		for _, k := range keys {
			if k == nil || k.Curve() != ecdh.X25519() {
				return errors.New("client authorisation: not an x25519 key")
			}
			c.ClientKeys = append(c.ClientKeys, [32]byte(k.Bytes()))
		}
		slices.SortFunc(c.ClientKeys, func(a, b [32]byte) int { return slices.Compare(a[:], b[:]) })
		c.ClientKeys = slices.Compact(c.ClientKeys)
		return nil
	}
}

// ProofOfWork makes clients solve a puzzle while more than rate (1..65535) connections a second arrive, burst of them
// at once: for public mailboxes. It costs nothing otherwise.
func ProofOfWork(rate, burst int) ListenOption {
	return func(c *ListenConfig) error {
		if rate < 1 || rate > 65535 || burst < rate || burst > 65535 {
			return fmt.Errorf("proof of work: rate %d, burst %d: want 1 ≤ rate ≤ burst ≤ 65535", rate, burst)
		}
		c.PoWRate, c.PoWBurst = rate, burst
		return nil
	}
}

// NewListenConfig is what opt say together.
func NewListenConfig(opt ...ListenOption) (ListenConfig, error) {
	var c ListenConfig
	for _, o := range opt {
		if err := o(&c); err != nil {
			return ListenConfig{}, err
		}
	}
	return c, nil
}

// Equal says whether two services may be one onion's.
func (c ListenConfig) Equal(d ListenConfig) bool {
	return slices.Equal(c.ClientKeys, d.ClientKeys) && c.PoWRate == d.PoWRate && c.PoWBurst == d.PoWBurst
}

// Addr is the address of an onion service, "<name>:port", or a word for what has none (an accepted client).
type Addr string

// Network is "onion".
func (Addr) Network() string { return "onion" }

// String is the address as Dial takes it.
func (a Addr) String() string { return string(a) }

// AnonymousClient is the remote address of every accepted connection: there is nothing to know about a client.
const AnonymousClient Addr = "anonymous"

// Address joins name and port to what Dial takes.
func Address(name onionid.Name, port int) string { return string(name) + ":" + strconv.Itoa(port) }

// maxAddress is the longest valid address: 56 + ".onion" + ":" + 5 digits.
const maxAddress = 56 + 6 + 1 + 5

// ParseAddress takes addr apart. The form is exact, so that one target has one spelling: lower case, no blanks, a
// decimal port 1..65535 without leading zeros. Everything else is ErrNotOnion, without the address in the text (it
// may be a name that somebody took care not to resolve).
func ParseAddress(addr string) (onionid.Name, int, error) {
	if len(addr) > maxAddress {
		return "", 0, ErrNotOnion
	}
	host, digits, ok := strings.Cut(addr, ":")
	if !ok || digits == "" || digits[0] == '0' || strings.Trim(digits, "0123456789") != "" {
		return "", 0, ErrNotOnion
	}
	port, err := strconv.Atoi(digits)
	if err != nil || port > 65535 {
		return "", 0, ErrNotOnion
	}
	name, err := onionid.Parse(host)
	if err != nil { // its text is not passed on: it might quote the name
		return "", 0, ErrNotOnion
	}
	return name, port, nil
}

// CheckListen says whether key and port can be a service's.
func CheckListen(key ed25519.PrivateKey, port int) error {
	if len(key) != ed25519.PrivateKeySize {
		return fmt.Errorf("onion key of %d bytes: want %d", len(key), ed25519.PrivateKeySize)
	}
	if port < 1 || port > 65535 {
		return fmt.Errorf("onion port %d: want 1 to 65535", port)
	}
	return nil
}
