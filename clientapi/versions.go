// SPDX-License-Identifier: Apache-2.0

package clientapi

import "tarn/matrix"

// versions: GET /versions. From v1.4 on matrix-js-sdk speaks of m.thread by its stable name. unstable_features names
// only what is there.
func (a *API) versions(*call) (any, error) {
	return map[string]any{
		"versions": []string{"r0.5.0", "r0.6.0", "r0.6.1", "v1.1", "v1.2", "v1.3", "v1.4", "v1.5", "v1.6", "v1.7",
			"v1.8", "v1.9", "v1.10", "v1.11", "v1.12", "v1.13", "v1.14", "v1.15", "v1.16"},
		"unstable_features": map[string]bool{
			"org.matrix.msc4306":                      true, // threads.go; Element X asks for it
			"org.matrix.msc3814":                      true, // dehydrated.go
			"org.matrix.simplified_msc3575":           true, // slidingsync.go; Element X asks for it
			"uk.half-shot.msc2666.query_mutual_rooms": true, // people.go; Element Web asks for it
		},
	}, nil
}

// wellKnown: GET /.well-known/matrix/client.
func (a *API) wellKnown(*call) (any, error) {
	if a.cfg.BaseURL == "" {
		return nil, notFound("this node does not tell its address")
	}
	return a.discovery(), nil
}

// discovery is the "Discovery Information" of a login's answer, too.
func (a *API) discovery() map[string]any {
	return map[string]any{"m.homeserver": map[string]string{"base_url": a.cfg.BaseURL}}
}

// capabilities: GET /capabilities.
func (a *API) capabilities(*call) (any, error) {
	available := map[matrix.RoomVersion]string{}
	for _, v := range matrix.OfferedVersions() {
		available[v] = "stable"
	}
	enabled := func(b bool) map[string]bool { return map[string]bool{"enabled": b} }
	return map[string]any{"capabilities": map[string]any{
		"m.room_versions":   map[string]any{"default": matrix.DefaultVersion, "available": available},
		"m.change_password": enabled(true),
		"m.set_displayname": enabled(true),
		"m.set_avatar_url":  enabled(true),
		"m.3pid_changes":    enabled(false),
		"m.get_login_token": enabled(true),
		"m.profile_fields":  enabled(true),
	}}, nil
}
