// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
	"net/url"
	"unicode/utf8"

	"tarn/account"
)

// pushers: GET /pushers: what clients set. Nothing is ever sent to them (account.Pusher says why).
func (a *API) pushers(c *call) (any, error) {
	all, err := a.accounts.Pushers(c.who.User)
	out := make([]jsontext.Value, 0, len(all))
	for _, p := range all {
		out = append(out, jsontext.Value(p.Content))
	}
	return map[string][]jsontext.Value{"pushers": out}, err
}

// setPusher: POST /pushers/set.
func (a *API) setPusher(c *call) (any, error) {
	var q struct {
		AppID   string         `json:"app_id"`
		AppName *string        `json:"app_display_name"`
		Device  *string        `json:"device_display_name"`
		Kind    jsontext.Value `json:"kind"`
		Key     string         `json:"pushkey"`
		Lang    *string        `json:"lang"`
		Tag     string         `json:"profile_tag,omitzero"`
		Append  bool           `json:"append"`
		Data    jsontext.Value `json:"data"`
	}
	if err := c.decode(&q); err != nil {
		return nil, err
	}
	switch {
	case q.AppID == "":
		return nil, missing("app_id")
	case q.Key == "":
		return nil, missing("pushkey")
	case q.Kind == nil:
		return nil, missing("kind")
	case utf8.RuneCountInString(q.AppID) > account.MaxAppID:
		return nil, invalid("app_id is longer than %d characters", account.MaxAppID)
	case len(q.Key) > account.MaxPushKey:
		return nil, invalid("pushkey is longer than %d bytes", account.MaxPushKey)
	}
	if q.Kind.Kind() == 'n' { // "If null, the pusher is deleted"
		return empty{}, a.accounts.DeletePusher(c.who.User, q.AppID, q.Key)
	}
	for name, v := range map[string]bool{"app_display_name": q.AppName == nil, "device_display_name": q.Device == nil, "lang": q.Lang == nil, "data": q.Data == nil} {
		if v {
			return nil, missing(name)
		}
	}
	if string(q.Kind) != `"http"` {
		return nil, invalid("only pushers of kind http are kept here")
	}
	var data struct {
		URL string `json:"url"`
	}
	if err := decode(q.Data, &data); err != nil {
		return nil, err
	}
	if data.URL == "" {
		return nil, missing("data.url")
	}
	if u, err := url.Parse(data.URL); err != nil || u.Scheme != "https" || u.Host == "" || u.Path != "/_matrix/push/v1/notify" {
		return nil, invalid("data.url must be https and end in /_matrix/push/v1/notify")
	}
	kept := map[string]any{"app_id": q.AppID, "app_display_name": *q.AppName, "device_display_name": *q.Device, "kind": "http", "lang": *q.Lang,
		"pushkey": q.Key, "data": q.Data}
	if q.Tag != "" {
		kept["profile_tag"] = q.Tag
	}
	raw, err := json.Marshal(kept)
	if err != nil {
		return nil, err
	}
	return empty{}, a.accounts.SetPusher(c.who.User, c.who.Device, account.Pusher{AppID: q.AppID, Key: q.Key, Content: raw}, !q.Append)
}
