// SPDX-License-Identifier: Apache-2.0

package mailbox

import (
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"tarn/crypto/onionid"
	"tarn/crypto/sealed"
)

var (
	// ErrNoDescriptor: the mailbox's descriptor of today is not known yet.
	ErrNoDescriptor = errors.New("mailbox: the descriptor is not known yet")
	// ErrDescriptor: the bytes are not a descriptor signed by that onion, or it says something impossible.
	ErrDescriptor = errors.New("mailbox: invalid descriptor")
)

// Limits of what a descriptor may say.
const (
	MinBucket = 50 * time.Millisecond // shorter only burdens the store (tests use 500 ms)
	MaxBucket = time.Hour
	MaxTTL    = 366 * 24 * time.Hour
	MaxFamily = 32 // bytes

	// SkewTolerance is how wrong a node's clock may be: until this long after midnight (UTC) it may use the key of the
	// day before, and from this long before midnight the key of the next.
	SkewTolerance = 2 * time.Hour

	maxKeys           = 3 // yesterday's, today's, tomorrow's
	requestKeySize    = 4 + sealed.PublicKeySize
	descriptorFixed   = 1 + ed25519.PublicKeySize + 1 + MaxFamily + 8 + 8 + ed25519.PublicKeySize + 1
	maxDescriptorSize = descriptorFixed + maxKeys*requestKeySize + maxPolicySize + signatureSize
	signatureSize     = ed25519.SignatureSize

	descriptorLabel = "tarn/1 mailbox descriptor\x00" // before what the onion key signs; SPEC mailbox §5
	requestLabel    = "tarn/1 store request\x00"      // HPKE info; SPEC mailbox §3
	sessionLabel    = "tarn/1 courier session\x00"    // HPKE info of a session hello
)

// Roles are what a mailbox does; bits.
type Roles byte

// The roles.
const (
	RoleStore   Roles = 1 // keeps boxes
	RoleCourier Roles = 2 // holds sessions with nodes, delays and forwards their sealed requests

	allRoles = RoleStore | RoleCourier
)

// Has says whether all of the roles are among r.
func (r Roles) Has(roles Roles) bool { return r&roles == roles }

// Descriptor is what a mailbox says of itself, signed with the onion key (after a label of its own, so that the
// signature means nothing elsewhere).
type Descriptor struct {
	Geometry int
	Onion    onionid.Name
	Roles    Roles
	Family   string            // who operates it, in the operator's own words: up to MaxFamily printable ASCII characters; "": a family of its own
	Bucket   time.Duration     // length of a digest bucket; 10 s by default; whole milliseconds. 0 without RoleStore
	TTL      time.Duration     // how long a box is kept; whole milliseconds. 0 without RoleStore
	Signing  ed25519.PublicKey // signs digests; certified by the onion key, which signs the descriptor. Nil without RoleStore
	Keys     []RequestKey      // for sealed requests: today's, and tomorrow's once it is near
	Deposits Policy            // what a deposit needs
	Signed   []byte            // the whole, as it came; ParseDescriptor sets it, so that it can be shown to others
}

// RequestKey is a hybrid HPKE public key of a mailbox with the days (UTC) it serves.
type RequestKey struct {
	Epoch  uint32 // days since 1970-01-01
	Public []byte // MLKEM768X25519: 1216 bytes
}

// Epoch is the key epoch of t: days since 1970-01-01 (UTC).
func Epoch(t time.Time) uint32 { return uint32(t.Unix() / (24 * 60 * 60)) }

// RequestInfo is the HPKE info of a request to that store under that day's key: it binds role, store and epoch.
func RequestInfo(onion ed25519.PublicKey, epoch uint32) []byte {
	return info(requestLabel, onion, epoch)
}

// SessionInfo is the HPKE info of a session hello to that courier under that day's key.
func SessionInfo(onion ed25519.PublicKey, epoch uint32) []byte {
	return info(sessionLabel, onion, epoch)
}

func info(label string, onion ed25519.PublicKey, epoch uint32) []byte {
	b := make([]byte, 0, len(label)+len(onion)+4)
	b = append(append(b, label...), onion...)
	return binary.BigEndian.AppendUint32(b, epoch)
}

// SignDescriptor makes the wire form of d, whose Onion and Geometry are set from onion. It errs with ErrDescriptor
// when d says something that ParseDescriptor would refuse.
func SignDescriptor(onion ed25519.PrivateKey, d Descriptor) ([]byte, error) {
	pub := onion.Public().(ed25519.PublicKey)
	d.Geometry, d.Onion = Geometry, onionid.FromKey(pub)
	if err := d.check(); err != nil {
		return nil, err
	}
	b := make([]byte, 0, maxDescriptorSize)
	b = append(b, Geometry)
	b = append(b, pub...)
	b = append(b, byte(d.Roles))
	family, signing := [MaxFamily]byte{}, [ed25519.PublicKeySize]byte{}
	copy(family[:], d.Family)
	copy(signing[:], d.Signing)
	b = append(b, family[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(d.Bucket.Milliseconds()))
	b = binary.BigEndian.AppendUint64(b, uint64(d.TTL.Milliseconds()))
	b = append(b, signing[:]...)
	b = append(b, byte(len(d.Keys)))
	for _, k := range d.Keys {
		b = binary.BigEndian.AppendUint32(b, k.Epoch)
		b = append(b, k.Public...)
	}
	b = d.Deposits.append(b)
	return append(b, ed25519.Sign(onion, append([]byte(descriptorLabel), b...))...), nil
}

// ParseDescriptor reads a descriptor of the store a, followed by nothing but zeros. Everything else is ErrDescriptor.
func ParseDescriptor(a Address, b []byte) (Descriptor, error) {
	onion, err := a.Onion.Key()
	if err != nil {
		return Descriptor{}, fmt.Errorf("%w: %w", ErrDescriptor, err)
	}
	if len(b) < descriptorFixed+signatureSize {
		return Descriptor{}, fmt.Errorf("%w: too short", ErrDescriptor)
	}
	if b[0] != Geometry {
		return Descriptor{}, fmt.Errorf("%w: geometry %d, want %d", ErrDescriptor, b[0], Geometry)
	}
	n := int(b[descriptorFixed-1])
	atPolicy := descriptorFixed + n*requestKeySize
	if n > maxKeys || len(b) < atPolicy {
		return Descriptor{}, fmt.Errorf("%w: %d keys", ErrDescriptor, n)
	}
	policy, ok := policySize(b[atPolicy:])
	end := atPolicy + policy
	if !ok || len(b) < end+signatureSize {
		return Descriptor{}, fmt.Errorf("%w: too short", ErrDescriptor)
	}
	// The signature comes first: nothing below is worth an error of its own unless the store itself said it.
	if !ed25519.Verify(onion, append([]byte(descriptorLabel), b[:end]...), b[end:end+signatureSize]) {
		return Descriptor{}, fmt.Errorf("%w: the onion did not sign it", ErrDescriptor)
	}
	if !zero(b[end+signatureSize:]) {
		return Descriptor{}, fmt.Errorf("%w: something follows it", ErrDescriptor)
	}
	p := b[1:]
	if string(p[:ed25519.PublicKeySize]) != string(onion) {
		return Descriptor{}, fmt.Errorf("%w: it names another onion", ErrDescriptor)
	}
	roles := Roles(p[ed25519.PublicKeySize])
	p = p[ed25519.PublicKeySize+1:]
	family := strings.TrimRight(string(p[:MaxFamily]), "\x00")
	p = p[MaxFamily:]
	bucket, ttl := binary.BigEndian.Uint64(p), binary.BigEndian.Uint64(p[8:])
	if bucket > uint64(MaxBucket/time.Millisecond) || ttl > uint64(MaxTTL/time.Millisecond) {
		return Descriptor{}, fmt.Errorf("%w: a duration is too long", ErrDescriptor)
	}
	d := Descriptor{
		Geometry: Geometry,
		Onion:    a.Onion,
		Roles:    roles,
		Family:   family,
		Bucket:   time.Duration(bucket) * time.Millisecond,
		TTL:      time.Duration(ttl) * time.Millisecond,
		Signed:   append([]byte(nil), b[:end+signatureSize]...),
	}
	if signing := p[16 : 16+ed25519.PublicKeySize]; roles.Has(RoleStore) || !zero(signing) {
		d.Signing = append(ed25519.PublicKey(nil), signing...)
	}
	for p = b[descriptorFixed:atPolicy]; len(p) > 0; p = p[requestKeySize:] {
		d.Keys = append(d.Keys, RequestKey{binary.BigEndian.Uint32(p), append([]byte(nil), p[4:requestKeySize]...)})
	}
	d.Deposits = parsePolicy(b[atPolicy:end])
	return d, d.check()
}

// check refuses what no mailbox may say.
func (d Descriptor) check() error {
	store := d.Roles.Has(RoleStore)
	switch {
	case d.Roles == 0 || d.Roles&^allRoles != 0:
		return fmt.Errorf("%w: roles %d", ErrDescriptor, d.Roles)
	case CheckFamily(d.Family) != nil:
		return fmt.Errorf("%w: %w", ErrDescriptor, CheckFamily(d.Family))
	case !store && (d.Bucket != 0 || d.TTL != 0 || d.Signing != nil):
		return fmt.Errorf("%w: a store's values without its role", ErrDescriptor)
	case len(d.Keys) == 0 || len(d.Keys) > maxKeys:
		return fmt.Errorf("%w: %d request keys", ErrDescriptor, len(d.Keys))
	case !store:
	case d.Bucket < MinBucket || d.Bucket > MaxBucket || d.Bucket%time.Millisecond != 0:
		return fmt.Errorf("%w: a bucket of %v", ErrDescriptor, d.Bucket)
	case d.TTL < d.Bucket || d.TTL > MaxTTL || d.TTL%time.Millisecond != 0:
		return fmt.Errorf("%w: a TTL of %v", ErrDescriptor, d.TTL)
	case len(d.Signing) != ed25519.PublicKeySize:
		return fmt.Errorf("%w: a signing key of %d bytes", ErrDescriptor, len(d.Signing))
	}
	for i, k := range d.Keys {
		if i > 0 && k.Epoch <= d.Keys[i-1].Epoch {
			return fmt.Errorf("%w: request keys out of order", ErrDescriptor)
		}
		if _, err := sealed.ParsePublicKey(k.Public); err != nil {
			return fmt.Errorf("%w: %w", ErrDescriptor, err)
		}
	}
	return d.Deposits.check()
}

// CheckFamily says what is wrong with a family's label; nil: nothing.
func CheckFamily(s string) error {
	if len(s) > MaxFamily {
		return fmt.Errorf("a family of %d bytes: at most %d", len(s), MaxFamily)
	}
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return errors.New("a family with something else than printable ASCII characters")
		}
	}
	if strings.TrimSpace(s) != s {
		return errors.New("a family that begins or ends with a blank")
	}
	return nil
}

// keyAt picks the request key to use at t by the caller's clock, which may be wrong by SkewTolerance.
func (d Descriptor) keyAt(t time.Time) (RequestKey, bool) {
	for _, at := range []time.Time{t, t.Add(-SkewTolerance), t.Add(SkewTolerance)} {
		for _, k := range d.Keys {
			if k.Epoch == Epoch(at) {
				return k, true
			}
		}
	}
	return RequestKey{}, false
}

// zero says whether b has nothing but zeros.
func zero(b []byte) bool {
	var or byte
	for _, c := range b {
		or |= c
	}
	return or == 0
}
