// SPDX-License-Identifier: Apache-2.0

package mailbox

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"
)

// Limits of the digest.
const (
	// Levels is the number of page levels: 0 (one bucket), 1 (6 buckets), 2 (60 buckets), 3 (1440 buckets).
	Levels = 4
	// PageHandles is the number of handles in every part of a page but its last.
	PageHandles = 1000

	pageHeaderSize = 1 + 8 + 2 + 2 + 2
	pageLabel      = "tarn/1 digest page\x00" // before what the digest key signs; SPEC mailbox §6
)

// ErrPage: the bytes are not the page asked for, signed by the store.
var ErrPage = errors.New("mailbox: invalid digest page")

// PageAddr names a digest page by time alone: the same for everybody, so that it names no reader.
// Level 0 is one bucket (Descriptor.Bucket long), level 1 is 6 buckets, level 2 is 60, level 3 is 1440.
type PageAddr struct {
	Level uint8
	Index uint64 // time / (bucket * LevelSpan)
	Part  uint16 // 0-based; a page with more handles than fit one answer has several parts
}

// Page is one signed part of a digest.
type Page struct {
	PageAddr
	Parts   uint16
	Handles []Handle // sorted
	// Closed is how many buckets since 1970 were closed at the store when it answered: those below. 0: not told (Pushed).
	Closed uint64
	// Signature is the store's; ParsePage sets it, so that the part can be shown to others (Bytes).
	Signature [signatureSize]byte
}

// LevelSpan is how many buckets a page of the level covers: 1, 6, 60 or 1440; 0 for a level that does not exist.
func LevelSpan(level uint8) uint64 {
	if level >= Levels {
		return 0
	}
	return [Levels]uint64{1, 6, 60, 1440}[level]
}

// BucketAt is the bucket of t when buckets are bucket long: whole buckets since 1970 (0 before).
func BucketAt(t time.Time, bucket time.Duration) uint64 {
	return uint64(max(t.UnixMilli(), 0)) / uint64(max(bucket.Milliseconds(), 1))
}

// PageAt addresses part 0 of the page of that level that t falls in.
func PageAt(level uint8, t time.Time, bucket time.Duration) PageAddr {
	return PageAddr{Level: level, Index: BucketAt(t, bucket) / max(LevelSpan(level), 1)}
}

// Buckets is the range of buckets that the page covers, from included, to not. ok is false for an address that no
// page can have.
func (p PageAddr) Buckets() (from, to uint64, ok bool) {
	span := LevelSpan(p.Level)
	if span == 0 || p.Index >= math.MaxInt64/span {
		return 0, 0, false
	}
	return p.Index * span, (p.Index + 1) * span, true
}

// Times is the range of time that the page covers when buckets are bucket long. It saturates at the far end of time.
func (p PageAddr) Times(bucket time.Duration) (from, to time.Time) {
	f, t, ok := p.Buckets()
	ms := uint64(max(bucket.Milliseconds(), 1))
	if limit := uint64(math.MaxInt64) / ms; !ok || t > limit {
		f, t = limit, limit
	}
	return time.UnixMilli(int64(f * ms)), time.UnixMilli(int64(t * ms))
}

// EarlyError is ErrNotYet with what the store says of its clock.
type EarlyError struct {
	Closed uint64 // buckets below are closed
}

func (e EarlyError) Error() string { return ErrNotYet.Error() }

// Unwrap is ErrNotYet.
func (e EarlyError) Unwrap() error { return ErrNotYet }

// Slack bounds an estimate of how long after its end, by the asker's clock, a bucket is closed at a store: it is negative
// if that clock is behind. closed is what the store said between asked and answered; a clock that is more than
// SkewTolerance off is believed to be that much off.
func Slack(estimate, bucket time.Duration, closed uint64, asked, answered time.Time) time.Duration {
	if limit := uint64(math.MaxInt64) / uint64(max(bucket.Milliseconds(), 1)); closed == 0 || closed > limit-1 {
		return estimate
	}
	end := time.UnixMilli(int64(closed) * bucket.Milliseconds())
	estimate = max(estimate, asked.Sub(end)-bucket) // the next was not closed then
	estimate = min(estimate, answered.Sub(end))     // the last was
	return max(min(estimate, SkewTolerance), -SkewTolerance)
}

// SignPage makes the wire form of one part. p.Handles must be ascending, without doubles, at most PageHandles.
// Signatures are deterministic: a part has one form for ever.
func SignPage(signing ed25519.PrivateKey, onion ed25519.PublicKey, bucket time.Duration, p Page) []byte {
	b := p.unsigned()
	return append(b, ed25519.Sign(signing, pageMessage(onion, bucket, b))...)
}

// Bytes is the part as it came: with its signature.
func (p Page) Bytes() []byte { return append(p.unsigned(), p.Signature[:]...) }

func (p Page) unsigned() []byte {
	b := make([]byte, 0, pageHeaderSize+len(p.Handles)*HandleSize+signatureSize)
	b = append(b, p.Level)
	b = binary.BigEndian.AppendUint64(b, p.Index)
	b = binary.BigEndian.AppendUint16(b, p.Part)
	b = binary.BigEndian.AppendUint16(b, p.Parts)
	b = binary.BigEndian.AppendUint16(b, uint16(len(p.Handles)))
	for _, h := range p.Handles {
		b = append(b, h[:]...)
	}
	return b
}

// pageMessage is what is signed: the label, whose digest it is, how long its buckets are, and the part itself.
func pageMessage(onion ed25519.PublicKey, bucket time.Duration, part []byte) []byte {
	m := make([]byte, 0, len(pageLabel)+len(onion)+8+len(part))
	m = append(append(m, pageLabel...), onion...)
	m = binary.BigEndian.AppendUint64(m, uint64(bucket.Milliseconds()))
	return append(m, part...)
}

// ParsePage reads the part want of d's digest from b, where only zeros may follow it, and checks form, order and
// signature. Everything else is ErrPage.
func ParsePage(d Descriptor, want PageAddr, b []byte) (Page, error) {
	if len(b) < pageHeaderSize+signatureSize {
		return Page{}, fmt.Errorf("%w: too short", ErrPage)
	}
	p := Page{PageAddr: PageAddr{b[0], binary.BigEndian.Uint64(b[1:]), binary.BigEndian.Uint16(b[9:])}, Parts: binary.BigEndian.Uint16(b[11:])}
	n := int(binary.BigEndian.Uint16(b[13:]))
	end := pageHeaderSize + n*HandleSize
	switch {
	case p.PageAddr != want:
		return Page{}, fmt.Errorf("%w: another page than was asked for", ErrPage)
	case p.Part >= p.Parts:
		return Page{}, fmt.Errorf("%w: part %d of %d", ErrPage, p.Part, p.Parts)
	case n > PageHandles || len(b) < end+signatureSize:
		return Page{}, fmt.Errorf("%w: %d handles", ErrPage, n)
	case n < PageHandles && p.Part+1 < p.Parts || n == 0 && p.Part > 0:
		return Page{}, fmt.Errorf("%w: a part that is not full is not the last", ErrPage)
	case !zero(b[end+signatureSize:]):
		return Page{}, fmt.Errorf("%w: something follows it", ErrPage)
	}
	onion, err := d.Onion.Key()
	if err != nil {
		return Page{}, fmt.Errorf("%w: %w", ErrPage, err)
	}
	if len(d.Signing) != ed25519.PublicKeySize || !ed25519.Verify(d.Signing, pageMessage(onion, d.Bucket, b[:end]), b[end:end+signatureSize]) {
		return Page{}, fmt.Errorf("%w: the store did not sign it", ErrPage)
	}
	p.Signature = [signatureSize]byte(b[end:])
	p.Handles = make([]Handle, n)
	for i := range p.Handles {
		p.Handles[i] = Handle(b[pageHeaderSize+i*HandleSize:])
		if i > 0 && bytes.Compare(p.Handles[i-1][:], p.Handles[i][:]) >= 0 {
			return Page{}, fmt.Errorf("%w: handles out of order", ErrPage)
		}
	}
	return p, nil
}

// Size is how many bytes the part has as it is signed.
func (p Page) Size() int { return pageHeaderSize + len(p.Handles)*HandleSize + signatureSize }
