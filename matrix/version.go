// SPDX-License-Identifier: Apache-2.0

//go:build goexperiment.jsonv2 || go1.27

package matrix

import "errors"

// DefaultVersion is what new rooms get: their ids name no server.
const DefaultVersion RoomVersion = "12"

// ErrVersion: a room version that Tarn does not speak, or not the one that was named.
var ErrVersion = errors.New("unsupported room version")

// OfferedVersions are those that a user may choose for a new room. A new slice each time.
func OfferedVersions() []RoomVersion { return []RoomVersion{"11", "12"} }

// Offered says whether a user may create a room of version v.
func Offered(v RoomVersion) bool { return v == "11" || v == "12" }

// Supported says whether rooms of version v are read and joined: 6 to 12. Older ones allow floats in events,
// so that their bytes have no canonical form.
func Supported(v RoomVersion) bool {
	switch v {
	case "6", "7", "8", "9", "10", "11", "12":
		return true
	}
	return false
}
