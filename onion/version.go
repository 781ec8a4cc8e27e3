// SPDX-License-Identifier: Apache-2.0

package onion

import (
	"fmt"
	"strconv"
	"strings"
)

// torVersion is tor's four numbers.
type torVersion [4]int

var (
	// oldestTor is refused below: its onion services are not those of today's network, and options of ours are unknown.
	oldestTor = torVersion{0, 4, 8, 0}
	// safeTor is warned of below: 0.4.9.11 fixes a man in the middle at the rendezvous point and a remote crash
	// (facts: tor #41297, #41295). It is no refusal because stable systems are slow.
	safeTor = torVersion{0, 4, 9, 11}
)

// parseVersion reads "0.4.9.11", "0.4.9.11-alpha (git-…)", "0.4.9.11-0+deb12u1".
func parseVersion(s string) (torVersion, error) {
	s, _, _ = strings.Cut(strings.TrimSpace(s), " ")
	s, _, _ = strings.Cut(s, "-")
	parts := strings.Split(s, ".")
	var v torVersion
	if len(parts) != len(v) {
		return v, fmt.Errorf("tor version of %d numbers: want 4", len(parts))
	}
	for i, p := range parts {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil {
			return torVersion{}, fmt.Errorf("tor version: number %d is none", i+1)
		}
		v[i] = int(n)
	}
	return v, nil
}

func (v torVersion) less(w torVersion) bool {
	for i := range v {
		if v[i] != w[i] {
			return v[i] < w[i]
		}
	}
	return false
}

func (v torVersion) String() string { return fmt.Sprintf("%d.%d.%d.%d", v[0], v[1], v[2], v[3]) }
