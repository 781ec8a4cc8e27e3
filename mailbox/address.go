// SPDX-License-Identifier: Apache-2.0

package mailbox

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"tarn/crypto/onionid"
)

// ErrAddress: the text is not a mailbox address.
var ErrAddress = errors.New("mailbox: not a mailbox address")

// Port is the virtual port of a mailbox's onion service.
const Port = 4001

const (
	addressPrefix = "tarn-mailbox:1:"
	onionSuffix   = ".onion"
	maxAddress    = len(addressPrefix) + 56 + len(onionSuffix)
)

// Address is the one line that an operator gives to others: "tarn-mailbox:1:<56 characters>".
type Address struct{ Onion onionid.Name }

// ParseAddress reads that line; blanks around it are ignored, since people paste it. Anything else is ErrAddress.
func ParseAddress(s string) (Address, error) {
	if len(s) > 2*maxAddress {
		return Address{}, fmt.Errorf("%w: too long", ErrAddress)
	}
	rest, ok := strings.CutPrefix(strings.TrimSpace(s), addressPrefix)
	if !ok {
		return Address{}, fmt.Errorf("%w: it does not begin with %q", ErrAddress, addressPrefix)
	}
	if strings.HasSuffix(rest, onionSuffix) {
		return Address{}, fmt.Errorf("%w: write it without %q", ErrAddress, onionSuffix)
	}
	name, err := onionid.Parse(rest + onionSuffix)
	if err != nil {
		return Address{}, fmt.Errorf("%w: %w", ErrAddress, err)
	}
	return Address{Onion: name}, nil
}

// String is that line.
func (a Address) String() string {
	return addressPrefix + strings.TrimSuffix(string(a.Onion), onionSuffix)
}

// dial is the address as a [Dialer] takes it.
func (a Address) dial() string { return string(a.Onion) + ":" + strconv.Itoa(Port) }
