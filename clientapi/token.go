// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"strconv"
	"strings"

	"tarn/store"
)

// tokenPrefix is the form of tokens: version 1, then the stream position in decimal. The token of position n is the
// place after every change with a position up to n, for /sync, /messages and /context alike. Positions outlive
// restarts, so tokens do. A later form gets another prefix and this one stays readable.
const tokenPrefix = "s1_"

// syncPrefix is the form of a /sync token whose to-device events did not all fit the answer: "s2_", the position, "_", and
// the position up to which they were given.
const syncPrefix = "s2_"

// edgePrefix is another form of a token of /messages, of the same place. A page that ends where the node waits for older events (room.Page.Older) has it
// when it would end at the token that it began at: clients take that for the beginning of the room.
const edgePrefix = "s3_"

// otherToken is a token of p that is not s.
func otherToken(p store.Pos, s string) string {
	if t := token(p); t != s {
		return t
	}
	return edgePrefix + strconv.FormatUint(uint64(p), 10)
}

// syncToken is a token with that second position.
func syncToken(p, inbox store.Pos) string {
	return syncPrefix + strconv.FormatUint(uint64(p), 10) + "_" + strconv.FormatUint(uint64(inbox), 10)
}

// parseSyncToken reads either form.
func parseSyncToken(s string) (p, inbox store.Pos, err error) {
	rest, found := strings.CutPrefix(s, syncPrefix)
	if !found {
		p, err = parseToken(s)
		return p, p, err
	}
	first, second, found := strings.Cut(rest, "_")
	if p, err = parseToken(tokenPrefix + first); err == nil {
		inbox, err = parseToken(tokenPrefix + second)
	}
	if err != nil || !found || inbox >= p {
		return 0, 0, invalid("not a token of this server")
	}
	return p, inbox, nil
}

// token is the wire form of a place in the stream.
func token(p store.Pos) string { return tokenPrefix + strconv.FormatUint(uint64(p), 10) }

// parseToken reads one: exactly what token and otherToken write.
func parseToken(s string) (store.Pos, error) {
	if strings.HasPrefix(s, syncPrefix) { // a client may give a /sync token to /messages or /keys/changes
		p, _, err := parseSyncToken(s)
		return p, err
	}
	digits, found := strings.CutPrefix(s, tokenPrefix)
	if !found {
		digits, found = strings.CutPrefix(s, edgePrefix)
	}
	if !found || digits == "" || digits[0] < '0' || digits[0] > '9' || len(digits) > 1 && digits[0] == '0' {
		return 0, invalid("not a token of this server")
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil {
		return 0, invalid("not a token of this server")
	}
	return store.Pos(n), nil
}
