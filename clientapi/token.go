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

// token is the wire form of a place in the stream.
func token(p store.Pos) string { return tokenPrefix + strconv.FormatUint(uint64(p), 10) }

// parseToken reads one: exactly what token writes.
func parseToken(s string) (store.Pos, error) {
	digits, found := strings.CutPrefix(s, tokenPrefix)
	if !found || digits == "" || digits[0] < '0' || digits[0] > '9' || len(digits) > 1 && digits[0] == '0' {
		return 0, invalid("not a token of this server")
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil {
		return 0, invalid("not a token of this server")
	}
	return store.Pos(n), nil
}
