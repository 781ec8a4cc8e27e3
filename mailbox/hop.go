// SPDX-License-Identifier: Apache-2.0

package mailbox

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"time"

	"tarn/crypto/layered"
	"tarn/crypto/sealed"
)

// A half may go through further couriers than the session's: each peels a layer (package crypto/layered), holds what is
// in it, and hands it on. So the session's courier does not know the store, the last courier does not know the session,
// and one between the two knows neither. A session has halves of one number of layers: so sizes tell nothing.
const (
	// MaxLayers is how many couriers a half goes through beside the session's, in the sessions that have layers.
	MaxLayers = 2
	// GeometryLayers is the geometry of the frames of such a session.
	GeometryLayers = 2

	replyLayer = 1 + layered.ReplyOverhead // clear 1, sealed answer

	hopLabel = "tarn/1 courier hop\x00" // HPKE info of a layer; SPEC chapter 4
)

// HopInfo is the HPKE info of a layer for that courier under that day's key.
func HopInfo(onion ed25519.PublicKey, epoch uint32) []byte { return info(hopLabel, onion, epoch) }

// HalfSize is the size of a half with that many layers around it.
func HalfSize(put bool, layers int) int {
	if put {
		return SealedPutSize + layers*layered.Overhead
	}
	return SealedGetSize + layers*layered.Overhead
}

// HalfAnswerSize is the size of the answer to a half with that many layers around it.
func HalfAnswerSize(put bool, layers int) int {
	if put {
		return ReceiptSize + layers*replyLayer
	}
	return GetAnswerSize + layers*replyLayer
}

// HalfShape tells a half by its size; ok is false if no half has it.
func HalfShape(size int) (put bool, layers int, ok bool) {
	for layers = range MaxLayers + 1 {
		if size == HalfSize(true, layers) || size == HalfSize(false, layers) {
			return size == HalfSize(true, layers), layers, true
		}
	}
	return false, 0, false
}

// RefuseHalf is the answer to a half of that size that nobody opened.
func RefuseHalf(size int, c Clear) []byte {
	put, layers, _ := HalfShape(size)
	b := make([]byte, HalfAnswerSize(put, layers))
	rand.Read(b)
	b[0] = byte(c)
	return b
}

// PeeledHalf is a half whose outermost layer a courier has taken off.
type PeeledHalf struct {
	SubRequest
	Back  time.Duration // how long to hold the answer
	reply *sealed.Reply
}

// PeelHalf takes the layer off that is sealed to the courier's own key of that epoch. sealed.ErrOpen: there is none. The
// sender's delays are cut to MaxDelay.
func PeelHalf(key *sealed.PrivateKey, onion ed25519.PublicKey, epoch uint32, box []byte) (PeeledHalf, error) {
	m, r, err := layered.Peel(key, HopInfo(onion, epoch), box)
	if err != nil {
		return PeeledHalf{}, sealed.ErrOpen
	}
	return PeeledHalf{SubRequest{Target: m.Next, Delay: min(m.Delay, MaxDelay), Epoch: m.Epoch, Box: m.Inner}, min(m.Back, MaxDelay), r}, nil
}

// Answer puts the courier's layer around the answer that came for the inner half.
func (p *PeeledHalf) Answer(inner []byte) []byte {
	return p.reply.AppendSeal(append(make([]byte, 0, replyLayer+len(inner)), byte(ClearSealed)), inner)
}

// OwnHalf is what of a half is for the very mailbox that it came to: the rest stands for layers that it has not. answer
// fills the answer to it up to what the half's size asks for.
func OwnHalf(box []byte) (half []byte, answer func([]byte) []byte) {
	put, layers, _ := HalfShape(len(box))
	return box[:HalfSize(put, 0)], func(a []byte) []byte { return pad(a, HalfAnswerSize(put, layers)) }
}

// pad lengthens b with random bytes.
func pad(b []byte, size int) []byte {
	out := make([]byte, size)
	rand.Read(out[copy(out, b):])
	return out
}

// Hop is a courier that a half goes through after the session's.
type Hop struct {
	Courier *Client       // whose descriptor must be known
	Delay   time.Duration // how long it holds the half
	Back    time.Duration // how long it holds the answer
}

// Via sends a half, before it is sent, through further couriers, and makes it the size of one with that many layers. A
// route that is shorter ends where the half is for: at its last courier, or if it is empty at the session's own (only
// so can be asked for the descriptors of those that come after). ErrNoDescriptor: a courier's key of today is not known;
// the half is as it was.
func (h *Half) Via(layers int, route ...Hop) error {
	if len(route) > layers || layers > MaxLayers || h.box == nil || len(h.box) != HalfSize(h.put, 0) {
		return fmt.Errorf("%w: %d hops in %d layers", ErrRequest, len(route), layers)
	}
	if n := len(route); n > 0 && n < layers && route[n-1].Courier.addr != h.Target() {
		return fmt.Errorf("%w: a short route ends at another courier", ErrRequest)
	}
	next := layered.Header{Next: h.target, Epoch: h.epoch}
	hops := make([]layered.Hop, len(route))
	for i := len(route) - 1; i >= 0; i-- {
		epoch, key, onion, err := route[i].Courier.today()
		if err != nil {
			return err
		}
		next.Delay, next.Back = min(max(route[i].Delay, 0), MaxDelay), min(max(route[i].Back, 0), MaxDelay)
		hops[i] = layered.Hop{Key: key, Info: HopInfo(onion, epoch), Header: next}
		next = layered.Header{Next: [layered.AddressSize]byte(onion), Epoch: epoch}
	}
	box := pad(h.box, HalfSize(h.put, layers-len(route)))
	var replies []*sealed.Reply
	if len(route) > 0 {
		var err error
		if box, replies, err = layered.Wrap(hops, box); err != nil {
			return err
		}
	}
	h.target, h.epoch, h.box, h.replies, h.layers = next.Next, next.Epoch, box, replies, layers
	for _, x := range route {
		h.route = append(h.route, x.Courier)
	}
	return nil
}

// HopError says that a half failed at a courier on its way: this one could not be reached, or could not open it.
type HopError struct {
	Hop int // in the route of Via
	Err error
}

// Error is error's.
func (e *HopError) Error() string { return fmt.Sprintf("courier %d on the way: %v", e.Hop+1, e.Err) }

// Unwrap is what failed.
func (e *HopError) Unwrap() error { return e.Err }

// unwrap takes the couriers' layers off an answer. What a courier could not do is said by the one before it, or in clear
// by itself.
func (h *Half) unwrap(b []byte) ([]byte, error) {
	if len(b) != HalfAnswerSize(h.put, h.layers) {
		return nil, ErrBadReply
	}
	for i, r := range h.replies {
		if err := clearError(Clear(b[0])); err != nil {
			h.route[i].distrust(err)
			return nil, &HopError{i, err}
		}
		var err error
		if b, err = r.Open(b[1:]); err != nil {
			return nil, ErrBadReply
		}
	}
	return b[:HalfAnswerSize(h.put, 0)], nil
}
