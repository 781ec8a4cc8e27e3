// SPDX-License-Identifier: Apache-2.0

package mailbox

import (
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"tarn/crypto/layered"
	"tarn/crypto/sealed"
)

// Sizes of what a session carries after its hello, in bytes. Frames of one kind have one size, whatever they hold.
const (
	UpFrameSize   = UpSize       // node to courier: 22 cells
	DownFrameSize = DownSize     // courier to node, one for each frame up: 17 cells
	PageFrameSize = 3 * CellData // courier to node, at the courier's constant times: 3 cells, 1,494 bytes

	// The same for sessions whose halves have layers (GeometryLayers).
	LayeredUpFrameSize   = 32 * CellData // 15,936 bytes
	LayeredDownFrameSize = 18 * CellData // 8,964 bytes

	// MaxFollow is how many stores' pages a session is pushed.
	MaxFollow = 3
	// MaxReceipts is how many receipts fit a frame down.
	MaxReceipts = 3
	// PushedRoom is how many bytes of a page frame there are for pages, each with its store's onion key and a length of
	// 2 bytes before it.
	PushedRoom = pagePlain - 1
	// PushedOverhead is what a page takes in a page frame beside its own bytes.
	PushedOverhead = 32 + 2

	pagePlain = PageFrameSize - 1 - TagSize

	subHeader  = 32 + 4 + 4 // target, delay, epoch
	atFollow   = 4 + 1
	atPut      = atFollow + MaxFollow*32
	atReceived = 1 + 4 // of a frame down: the GET answer

	maxFrameDelay = uint32(MaxDelay / time.Millisecond)
)

const (
	_ = uint(UpFrameSize - TagSize - (atPut + 2*subHeader + SealedPutSize + SealedGetSize))
	_ = uint(DownFrameSize - 1 - TagSize - (atReceived + GetAnswerSize + 1 + MaxReceipts*(4+ReceiptSize)))
	_ = uint(LayeredUpFrameSize - TagSize - (atPut + 2*subHeader + SealedPutSize + SealedGetSize + 2*MaxLayers*layered.Overhead))
	_ = uint(LayeredDownFrameSize - 1 - TagSize - (atReceived + GetAnswerSize + 1 + MaxReceipts*(4+ReceiptSize) + (1+MaxReceipts)*MaxLayers*replyLayer))
)

// Layout is the sizes of a session's frames. There is one for each geometry.
type Layout struct {
	Geometry byte
	Layers   int // of every half
	Up, Down int // sizes of frames
}

// LayoutOf is a geometry's; false: there is none.
func LayoutOf(geometry byte) (Layout, bool) {
	switch geometry {
	case Geometry:
		return Layout{Geometry, 0, UpFrameSize, DownFrameSize}, true
	case GeometryLayers:
		return Layout{GeometryLayers, MaxLayers, LayeredUpFrameSize, LayeredDownFrameSize}, true
	}
	return Layout{}, false
}

func (l Layout) put() int     { return HalfSize(true, l.Layers) }
func (l Layout) get() int     { return HalfSize(false, l.Layers) }
func (l Layout) receipt() int { return HalfAnswerSize(true, l.Layers) }
func (l Layout) answer() int  { return HalfAnswerSize(false, l.Layers) }
func (l Layout) atGet() int   { return atPut + subHeader + l.put() }
func (l Layout) atUpPad() int { return l.atGet() + subHeader + l.get() }
func (l Layout) atReceipts() int {
	return atReceived + l.answer()
}

// ErrFrame: the bytes are not a frame of this session, or it says something impossible.
var ErrFrame = errors.New("mailbox: invalid frame")

// Labels of a session's keys. SPEC chapter 4.
const (
	upLabel   = "tarn/1 session up"
	downLabel = "tarn/1 session down"
)

// SaltSize is the size of the salt that a courier mixes into a session's keys: a hello that somebody plays again gives
// other keys, so that no two frames share key and nonce.
const SaltSize = 32

// Channel is one direction of a session: ChaCha20-Poly1305 with a counter as nonce, so that nothing can be left out,
// repeated or reordered unnoticed. Not safe for concurrent use.
type Channel struct {
	layout Layout
	aead   cipher.AEAD
	next   uint64
}

// Layout is the sizes of its frames.
func (c *Channel) Layout() Layout { return c.layout }

// SessionChannels are the two directions of the session whose hello has that reply key.
func SessionChannels(l Layout, r *sealed.Reply, salt []byte) (up, down *Channel) {
	make := func(label string) *Channel {
		aead, err := chacha20poly1305.New(r.Derive(salt, label, chacha20poly1305.KeySize))
		if err != nil {
			panic("mailbox: " + err.Error()) // the key's size is a constant
		}
		return &Channel{layout: l, aead: aead}
	}
	return make(upLabel), make(downLabel)
}

func (c *Channel) nonce() []byte {
	var n [chacha20poly1305.NonceSize]byte
	binary.BigEndian.PutUint64(n[4:], c.next)
	c.next++
	return n[:]
}

// The kinds of what comes down a session: one byte in clear before the sealed rest, which it is bound to.
const (
	downFrame byte = 1
	pageFrame byte = 2
)

// SubRequest is a half as the courier sees it.
type SubRequest struct {
	Target [32]byte      // onion key of the mailbox that it is for
	Delay  time.Duration // forward it that long after the frame came; whole milliseconds, at most MaxDelay
	Epoch  uint32        // of the key that it is sealed to
	Box    []byte        // SealedPutSize or SealedGetSize bytes, and what the layers of the session take
}

// UpFrame is a frame from a node to its courier.
type UpFrame struct {
	Lag      time.Duration // answer the frame that long after it came; whole milliseconds, at most MaxDelay
	Follow   [][32]byte    // stores whose new digest pages are to be pushed
	Put, Get SubRequest
}

// AppendUpFrame appends the sealed frame to dst: Layout.Up bytes.
func (c *Channel) AppendUpFrame(dst []byte, f *UpFrame) ([]byte, error) {
	l := c.layout
	if len(f.Follow) > MaxFollow || len(f.Put.Box) != l.put() || len(f.Get.Box) != l.get() {
		return nil, fmt.Errorf("%w: %d stores followed, halves of %d and %d bytes", ErrFrame, len(f.Follow), len(f.Put.Box), len(f.Get.Box))
	}
	p := make([]byte, l.Up-TagSize)
	putDelay(p, f.Lag)
	p[4] = byte(len(f.Follow))
	for i, o := range f.Follow {
		copy(p[atFollow+32*i:], o[:])
	}
	putSub(p[atPut:], f.Put)
	putSub(p[l.atGet():], f.Get)
	return c.aead.Seal(dst, c.nonce(), p, nil), nil
}

func putDelay(p []byte, d time.Duration) {
	binary.BigEndian.PutUint32(p, uint32(min(max(d, 0), MaxDelay)/time.Millisecond))
}

func putSub(p []byte, s SubRequest) {
	copy(p, s.Target[:])
	putDelay(p[32:], s.Delay)
	binary.BigEndian.PutUint32(p[36:], s.Epoch)
	copy(p[subHeader:], s.Box)
}

// OpenUpFrame opens the next frame; b is spoiled, and the boxes of f lie in it. Anything else than that frame is ErrFrame,
// after which the session is of no use.
func (c *Channel) OpenUpFrame(b []byte) (f UpFrame, err error) {
	if len(b) != c.layout.Up {
		return f, fmt.Errorf("%w: %d bytes", ErrFrame, len(b))
	}
	p, err := c.aead.Open(b[:0], c.nonce(), b, nil)
	if err != nil {
		return f, fmt.Errorf("%w: it does not open", ErrFrame)
	}
	return parseUpFrame(c.layout, p)
}

func parseUpFrame(l Layout, p []byte) (f UpFrame, err error) {
	n := int(p[4])
	lag, ok1 := delay(p)
	put, ok2 := sub(p[atPut:], l.put())
	get, ok3 := sub(p[l.atGet():], l.get())
	if n > MaxFollow || !ok1 || !ok2 || !ok3 || !zero(p[atFollow+32*min(n, MaxFollow):atPut]) || !zero(p[l.atUpPad():]) {
		return f, fmt.Errorf("%w: impossible values", ErrFrame)
	}
	f = UpFrame{Lag: lag, Put: put, Get: get}
	for i := range n {
		f.Follow = append(f.Follow, [32]byte(p[atFollow+32*i:]))
	}
	return f, nil
}

func delay(p []byte) (time.Duration, bool) {
	ms := binary.BigEndian.Uint32(p)
	return time.Duration(ms) * time.Millisecond, ms <= maxFrameDelay
}

func sub(p []byte, size int) (SubRequest, bool) {
	d, ok := delay(p[32:])
	return SubRequest{Target: [32]byte(p), Delay: d, Epoch: binary.BigEndian.Uint32(p[36:]), Box: p[subHeader : subHeader+size : subHeader+size]}, ok
}

// HalfAnswer is the answer to a half of the frame up that was the session's Frame-th, counted from 0.
type HalfAnswer struct {
	Frame uint32
	Data  []byte // ReceiptSize or GetAnswerSize bytes (and what the layers take), sealed between store and node
}

// DownFrame is a frame from a courier to a node.
type DownFrame struct {
	Get      *HalfAnswer  // nil: none is there
	Receipts []HalfAnswer // at most MaxReceipts
}

// AppendDownFrame appends the sealed frame to dst: Layout.Down bytes.
func (c *Channel) AppendDownFrame(dst []byte, f *DownFrame) ([]byte, error) {
	l := c.layout
	p := make([]byte, l.Down-1-TagSize)
	if f.Get != nil {
		if len(f.Get.Data) != l.answer() {
			return nil, fmt.Errorf("%w: an answer of %d bytes", ErrFrame, len(f.Get.Data))
		}
		p[0] = 1
		binary.BigEndian.PutUint32(p[1:], f.Get.Frame)
		copy(p[atReceived:], f.Get.Data)
	}
	if len(f.Receipts) > MaxReceipts {
		return nil, fmt.Errorf("%w: %d receipts", ErrFrame, len(f.Receipts))
	}
	p[l.atReceipts()] = byte(len(f.Receipts))
	for i, r := range f.Receipts {
		at := l.atReceipts() + 1 + i*(4+l.receipt())
		if len(r.Data) != l.receipt() {
			return nil, fmt.Errorf("%w: a receipt of %d bytes", ErrFrame, len(r.Data))
		}
		binary.BigEndian.PutUint32(p[at:], r.Frame)
		copy(p[at+4:], r.Data)
	}
	return c.sealDown(dst, downFrame, p), nil
}

func (c *Channel) sealDown(dst []byte, kind byte, p []byte) []byte {
	return c.aead.Seal(append(dst, kind), c.nonce(), p, []byte{kind})
}

func (c *Channel) openDown(b []byte) ([]byte, error) {
	p, err := c.aead.Open(b[1:1], c.nonce(), b[1:], b[:1])
	if err != nil {
		return nil, fmt.Errorf("%w: it does not open", ErrFrame)
	}
	return p, nil
}

// parseDownFrame reads the plaintext; the answers lie in it.
func parseDownFrame(l Layout, p []byte) (f DownFrame, err error) {
	at, size := l.atReceipts(), 4+l.receipt()
	n := int(p[at])
	if p[0] > 1 || p[0] == 0 && !zero(p[1:at]) || n > MaxReceipts || !zero(p[at+1+min(n, MaxReceipts)*size:]) {
		return f, fmt.Errorf("%w: impossible values", ErrFrame)
	}
	if p[0] == 1 {
		f.Get = &HalfAnswer{binary.BigEndian.Uint32(p[1:]), p[atReceived:at]}
	}
	for i := range n {
		r := p[at+1+i*size : at+1+(i+1)*size]
		f.Receipts = append(f.Receipts, HalfAnswer{binary.BigEndian.Uint32(r), r[4:]})
	}
	return f, nil
}

// PushedPage is one part of a digest page on its way down a session.
type PushedPage struct {
	Store [32]byte // onion key
	Part  []byte   // as the store signed it
}

// AppendPageFrame appends the sealed frame to dst: PageFrameSize bytes.
func (c *Channel) AppendPageFrame(dst []byte, pages []PushedPage) ([]byte, error) {
	p := make([]byte, 1, pagePlain)
	for _, g := range pages {
		if len(p)+PushedOverhead+len(g.Part) > pagePlain || len(g.Part) == 0 || p[0] == 255 {
			return nil, fmt.Errorf("%w: the pages do not fit", ErrFrame)
		}
		p[0]++
		p = append(p, g.Store[:]...)
		p = binary.BigEndian.AppendUint16(p, uint16(len(g.Part)))
		p = append(p, g.Part...)
	}
	return c.sealDown(dst, pageFrame, p[:pagePlain]), nil
}

// parsePageFrame reads the plaintext; the parts lie in it.
func parsePageFrame(p []byte) (pages []PushedPage, err error) {
	n, p := int(p[0]), p[1:]
	for range n {
		if len(p) < PushedOverhead {
			return nil, fmt.Errorf("%w: too many pages", ErrFrame)
		}
		size := int(binary.BigEndian.Uint16(p[32:]))
		if size == 0 || size > len(p)-PushedOverhead {
			return nil, fmt.Errorf("%w: a page of %d bytes", ErrFrame, size)
		}
		pages = append(pages, PushedPage{[32]byte(p), p[PushedOverhead : PushedOverhead+size]})
		p = p[PushedOverhead+size:]
	}
	if !zero(p) {
		return nil, fmt.Errorf("%w: something follows the pages", ErrFrame)
	}
	return pages, nil
}
