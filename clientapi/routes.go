// SPDX-License-Identifier: Apache-2.0

package clientapi

import "net/http"

// where a path stands.
type where byte

const (
	root   where = iota // as it is
	old                 // /_matrix/client/v3 and its elder name r0, which nio, weechat, Ement, quaternion and Hydrogen still use
	v1                  // /_matrix/client/v1
	frozen              // /_matrix/media/v3 and its elder names: media without a token, kept as it was (C-S API v1.11)
	young               // old, and /_matrix/client/unstable, where Element still asks for cross-signing
)

func (w where) prefixes() []string {
	switch w {
	case old:
		return []string{"/_matrix/client/v3", "/_matrix/client/r0"}
	case young:
		return append(old.prefixes(), "/_matrix/client/unstable")
	case frozen:
		return []string{"/_matrix/media/v3", "/_matrix/media/r0", "/_matrix/media/v1"}
	case v1:
		return []string{"/_matrix/client/v1"}
	default:
		return []string{""}
	}
}

// auth says who may ask.
type auth byte

const (
	anyone  auth = iota // no token looked at
	perhaps             // a token may be there; if it is, it must be good
	user                // a good access token
)

// Greatest request bodies, in bytes.
const (
	smallBody = 64 << 10  // forms
	eventBody = 128 << 10 // an event's content: 65,536 at most once canonical; escapes and white space may double it
	largeBody = 1 << 20   // createRoom with initial_state, account data, keys
	hugeBody  = 8 << 20   // a key backup of a whole account's sessions
	streamed  = -1        // files: package media bounds them
)

type route struct {
	method string
	in     where
	path   string
	auth   auth
	body   int64 // greatest body; 0: none is read; streamed: the handler reads it bit by bit
	handle func(*API, *call) (any, error)
}

// table is every endpoint that there is. What is not here answers 404 M_UNRECOGNIZED.
var table = []route{
	// Server: versions.go
	{"GET", root, "/.well-known/matrix/client", anyone, 0, (*API).wellKnown},
	{"GET", root, "/_matrix/client/versions", anyone, 0, (*API).versions},
	{"GET", old, "/capabilities", user, 0, (*API).capabilities},

	// Sessions: login.go, register.go, account.go
	{"GET", old, "/login", anyone, 0, (*API).loginFlows},
	{"POST", old, "/login", anyone, smallBody, (*API).login},
	{"POST", v1, "/login/get_token", user, smallBody, (*API).loginToken},
	{"POST", old, "/refresh", anyone, smallBody, (*API).refresh},
	{"POST", v1, "/refresh", anyone, smallBody, (*API).refresh},
	{"POST", old, "/logout", user, smallBody, (*API).logout},
	{"POST", old, "/logout/all", user, smallBody, (*API).logoutAll},
	{"POST", old, "/register", anyone, smallBody, (*API).registerUser},
	{"GET", old, "/register/available", anyone, 0, (*API).registerAvailable},
	{"GET", v1, "/register/m.login.registration_token/validity", anyone, 0, (*API).registrationTokenValid},
	{"GET", old, "/account/whoami", user, 0, (*API).whoami},
	{"POST", old, "/account/password", user, smallBody, (*API).changePassword},
	{"POST", old, "/account/deactivate", user, smallBody, (*API).deactivate},
	{"GET", old, "/devices", user, 0, (*API).devices},
	{"POST", old, "/delete_devices", user, smallBody, (*API).removeDevices},
	{"DELETE", old, "/devices/{device}", user, smallBody, (*API).removeDevice},
	{"GET", old, "/devices/{device}", user, 0, (*API).device},
	{"PUT", old, "/devices/{device}", user, smallBody, (*API).renameDevice},

	// End-to-end encryption: keys.go, backup.go
	{"POST", old, "/keys/upload", user, largeBody, (*API).keysUpload},
	{"POST", old, "/keys/query", user, largeBody, (*API).keysQuery},
	{"POST", old, "/keys/claim", user, largeBody, (*API).keysClaim},
	{"GET", old, "/keys/changes", user, 0, (*API).keysChanges},
	{"POST", young, "/keys/device_signing/upload", user, smallBody, (*API).deviceSigningUpload},
	{"POST", young, "/keys/signatures/upload", user, largeBody, (*API).signaturesUpload},
	{"PUT", old, "/sendToDevice/{type}/{txn}", user, hugeBody, (*API).sendToDevice},
	{"PUT", root, dehydratedPath, user, largeBody, (*API).putDehydrated},
	{"GET", root, dehydratedPath, user, 0, (*API).getDehydrated},
	{"DELETE", root, dehydratedPath, user, 0, (*API).deleteDehydrated},
	{"GET", root, dehydratedPath + "/{device}/events", user, 0, (*API).dehydratedEvents},
	{"POST", root, dehydratedPath + "/{device}/events", user, smallBody, (*API).dehydratedEvents},
	{"POST", old, "/room_keys/version", user, smallBody, (*API).createBackup},
	{"GET", old, "/room_keys/version", user, 0, (*API).backupVersion},
	{"GET", old, "/room_keys/version/{version}", user, 0, (*API).backupVersion},
	{"PUT", old, "/room_keys/version/{version}", user, smallBody, (*API).setBackupVersion},
	{"DELETE", old, "/room_keys/version/{version}", user, 0, (*API).deleteBackupVersion},
	{"PUT", old, "/room_keys/keys", user, hugeBody, (*API).putBackup},
	{"PUT", old, "/room_keys/keys/{room}", user, hugeBody, (*API).putBackup},
	{"PUT", old, "/room_keys/keys/{room}/{session}", user, eventBody, (*API).putBackup},
	{"GET", old, "/room_keys/keys", user, 0, (*API).getBackup},
	{"GET", old, "/room_keys/keys/{room}", user, 0, (*API).getBackup},
	{"GET", old, "/room_keys/keys/{room}/{session}", user, 0, (*API).getBackup},
	{"DELETE", old, "/room_keys/keys", user, 0, (*API).deleteBackup},
	{"DELETE", old, "/room_keys/keys/{room}", user, 0, (*API).deleteBackup},
	{"DELETE", old, "/room_keys/keys/{room}/{session}", user, 0, (*API).deleteBackup},

	// Sync and filters: sync.go, slidingsync.go, filter.go
	{"GET", old, "/sync", user, 0, (*API).sync},
	{"POST", root, "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync", user, largeBody, (*API).slidingSync},
	{"POST", old, "/user/{user}/filter", user, smallBody, (*API).addFilter},
	{"GET", old, "/user/{user}/filter/{filter}", user, 0, (*API).getFilter},

	// Rooms: rooms.go, membership.go, directory.go, publicrooms.go, spaces.go, upgrade.go, reports.go
	{"POST", old, "/createRoom", user, largeBody, (*API).createRoom},
	{"GET", old, "/joined_rooms", user, 0, (*API).joinedRooms},
	{"POST", old, "/join/{target}", user, smallBody, (*API).joinTarget},
	{"POST", old, "/rooms/{room}/join", user, smallBody, (*API).joinRoom},
	{"POST", old, "/knock/{target}", user, smallBody, (*API).knock},
	{"POST", old, "/rooms/{room}/leave", user, smallBody, (*API).leave},
	{"POST", old, "/rooms/{room}/invite", user, smallBody, (*API).invite},
	{"POST", old, "/rooms/{room}/kick", user, smallBody, (*API).kick},
	{"POST", old, "/rooms/{room}/ban", user, smallBody, (*API).ban},
	{"POST", old, "/rooms/{room}/unban", user, smallBody, (*API).unban},
	{"POST", old, "/rooms/{room}/forget", user, smallBody, (*API).forget},
	{"POST", old, "/rooms/{room}/upgrade", user, smallBody, (*API).upgrade},
	{"GET", v1, "/rooms/{room}/hierarchy", user, 0, (*API).hierarchy},
	{"GET", v1, "/room_summary/{target}", perhaps, 0, (*API).roomSummary},
	{"GET", root, "/_matrix/client/unstable/im.nheko.summary/summary/{target}", perhaps, 0, (*API).roomSummary},
	{"GET", root, "/_matrix/client/unstable/im.nheko.summary/rooms/{target}/summary", perhaps, 0, (*API).roomSummary},
	{"POST", old, "/rooms/{room}/report", user, smallBody, (*API).reportRoom},
	{"POST", old, "/rooms/{room}/report/{event}", user, smallBody, (*API).reportEvent},
	{"POST", old, "/users/{user}/report", user, smallBody, (*API).reportUser},
	{"GET", old, "/directory/room/{alias}", perhaps, 0, (*API).resolveAlias},
	{"PUT", old, "/directory/room/{alias}", user, smallBody, (*API).addAlias},
	{"DELETE", old, "/directory/room/{alias}", user, 0, (*API).removeAlias},
	{"GET", old, "/rooms/{room}/aliases", user, 0, (*API).aliases},
	{"GET", old, "/directory/list/room/{room}", user, 0, (*API).roomVisibility},
	{"PUT", old, "/directory/list/room/{room}", user, smallBody, (*API).setRoomVisibility},
	{"GET", old, "/publicRooms", user, 0, (*API).publicRooms},
	{"POST", old, "/publicRooms", user, smallBody, (*API).publicRooms},

	// Events: messages.go, relations.go, search.go, state.go
	{"PUT", old, "/rooms/{room}/send/{type}/{txn}", user, eventBody, (*API).send},
	{"PUT", old, "/rooms/{room}/redact/{event}/{txn}", user, smallBody, (*API).redact},
	{"GET", old, "/rooms/{room}/messages", user, 0, (*API).messages},
	{"GET", old, "/rooms/{room}/context/{event}", user, 0, (*API).context},
	{"GET", old, "/rooms/{room}/event/{event}", user, 0, (*API).event},
	{"GET", v1, "/rooms/{room}/relations/{event}", user, 0, (*API).relations},
	{"GET", v1, "/rooms/{room}/relations/{event}/{rel}", user, 0, (*API).relations},
	{"GET", v1, "/rooms/{room}/relations/{event}/{rel}/{type}", user, 0, (*API).relations},
	{"GET", v1, "/rooms/{room}/threads", user, 0, (*API).threads},
	{"PUT", root, threadPath, user, smallBody, (*API).subscribeThread},
	{"GET", root, threadPath, user, 0, (*API).threadSubscription},
	{"GET", root, threadsPath, user, 0, (*API).threadSubscriptions},
	{"DELETE", root, threadPath, user, 0, (*API).unsubscribeThread},
	{"POST", old, "/search", user, smallBody, (*API).search},
	{"GET", v1, "/rooms/{room}/timestamp_to_event", user, 0, (*API).timestampToEvent},
	{"GET", old, "/rooms/{room}/state", user, 0, (*API).state},
	{"GET", old, "/rooms/{room}/state/{type}", user, 0, (*API).stateEvent},
	{"GET", old, "/rooms/{room}/state/{type}/{$}", user, 0, (*API).stateEvent},
	{"GET", old, "/rooms/{room}/state/{type}/{key}", user, 0, (*API).stateEvent},
	{"PUT", old, "/rooms/{room}/state/{type}", user, eventBody, (*API).setState},
	{"PUT", old, "/rooms/{room}/state/{type}/{$}", user, eventBody, (*API).setState},
	{"PUT", old, "/rooms/{room}/state/{type}/{key}", user, eventBody, (*API).setState},
	{"GET", old, "/rooms/{room}/members", user, 0, (*API).members},
	{"GET", old, "/rooms/{room}/joined_members", user, 0, (*API).joinedMembers},

	// Ephemeral: typing.go, receipts.go
	{"PUT", old, "/rooms/{room}/typing/{user}", user, smallBody, (*API).typing},
	{"POST", old, "/rooms/{room}/receipt/{type}/{event}", user, smallBody, (*API).receipt},
	{"POST", old, "/rooms/{room}/read_markers", user, smallBody, (*API).readMarkers},

	// Media: media.go. /preview_url is left out: to make one the node would have to visit what people write about.
	{"GET", v1, "/media/config", user, 0, (*API).mediaConfig},
	{"GET", v1, "/media/download/{server}/{media}", user, 0, (*API).download},
	{"GET", v1, "/media/download/{server}/{media}/{name}", user, 0, (*API).download},
	{"GET", v1, "/media/thumbnail/{server}/{media}", user, 0, (*API).thumbnail},
	{"GET", frozen, "/config", user, 0, (*API).mediaConfig},
	{"POST", frozen, "/create", user, smallBody, (*API).createMedia},
	{"POST", frozen, "/upload", user, streamed, (*API).upload},
	{"PUT", frozen, "/upload/{server}/{media}", user, streamed, (*API).uploadInto},
	{"GET", frozen, "/download/{server}/{media}", perhaps, 0, (*API).download},
	{"GET", frozen, "/download/{server}/{media}/{$}", perhaps, 0, (*API).download}, // nio asks so for no name
	{"GET", frozen, "/download/{server}/{media}/{name}", perhaps, 0, (*API).download},
	{"GET", frozen, "/thumbnail/{server}/{media}", perhaps, 0, (*API).thumbnail},

	// People and their data: profile.go, people.go, accountdata.go, pushedit.go
	{"GET", old, "/profile/{user}", perhaps, 0, (*API).profile},
	{"GET", old, "/profile/{user}/displayname", perhaps, 0, (*API).displayName},
	{"PUT", old, "/profile/{user}/displayname", user, smallBody, (*API).setDisplayName},
	{"GET", old, "/profile/{user}/avatar_url", perhaps, 0, (*API).avatarURL},
	{"PUT", old, "/profile/{user}/avatar_url", user, smallBody, (*API).setAvatarURL},
	{"GET", old, "/profile/{user}/{field}", perhaps, 0, (*API).profileField},
	{"PUT", old, "/profile/{user}/{field}", user, eventBody, (*API).setProfileField},
	{"DELETE", old, "/profile/{user}/{field}", user, 0, (*API).deleteProfileField},
	{"GET", old, "/presence/{user}/status", user, 0, (*API).presenceOf},
	{"PUT", old, "/presence/{user}/status", user, smallBody, (*API).putPresence},
	{"GET", old, "/user/{user}/account_data/{type}", user, 0, (*API).accountData},
	{"PUT", old, "/user/{user}/account_data/{type}", user, largeBody, (*API).setAccountData},
	{"GET", old, "/user/{user}/rooms/{room}/account_data/{type}", user, 0, (*API).accountData},
	{"PUT", old, "/user/{user}/rooms/{room}/account_data/{type}", user, largeBody, (*API).setAccountData},
	{"GET", old, "/user/{user}/rooms/{room}/tags", user, 0, (*API).tags},
	{"PUT", old, "/user/{user}/rooms/{room}/tags/{tag}", user, smallBody, (*API).setTag},
	{"DELETE", old, "/user/{user}/rooms/{room}/tags/{tag}", user, 0, (*API).deleteTag},
	{"GET", v1, "/mutual_rooms", user, 0, (*API).mutualRooms},
	{"GET", root, "/_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms", user, 0, (*API).mutualRooms},
	{"POST", old, "/user_directory/search", user, smallBody, (*API).searchPeople},
	{"GET", old, "/pushers", user, 0, (*API).pushers},
	{"POST", old, "/pushers/set", user, smallBody, (*API).setPusher},
	{"GET", old, "/notifications", user, 0, (*API).notifications},
	{"GET", old, "/voip/turnServer", user, 0, (*API).turnServer},
	{"GET", old, "/pushrules", user, 0, (*API).pushRules},
	{"GET", old, "/pushrules/{$}", user, 0, (*API).pushRules},
	{"GET", old, "/pushrules/global", user, 0, (*API).pushRulesGlobal},
	{"GET", old, "/pushrules/global/{$}", user, 0, (*API).pushRulesGlobal},
	{"GET", old, "/pushrules/global/{kind}/{rule}", user, 0, (*API).pushRule},
	{"PUT", old, "/pushrules/global/{kind}/{rule}", user, smallBody, (*API).setPushRule},
	{"DELETE", old, "/pushrules/global/{kind}/{rule}", user, 0, (*API).deletePushRule},
	{"PUT", old, "/pushrules/global/{kind}/{rule}/enabled", user, smallBody, (*API).setPushRuleEnabled},
	{"PUT", old, "/pushrules/global/{kind}/{rule}/actions", user, smallBody, (*API).setPushRuleActions},
	{"GET", old, "/pushrules/global/{kind}/{rule}/enabled", user, 0, (*API).pushRuleEnabled},
	{"GET", old, "/pushrules/global/{kind}/{rule}/actions", user, 0, (*API).pushRuleActions},

	// Third-party identifiers and networks, of which there are none: thirdparty.go
	{"GET", old, "/thirdparty/protocols", user, 0, (*API).thirdPartyProtocols},
	{"GET", old, "/thirdparty/protocol/{protocol}", user, 0, (*API).thirdPartyNone},
	{"GET", old, "/thirdparty/location", user, 0, (*API).thirdPartyNone},
	{"GET", old, "/thirdparty/location/{protocol}", user, 0, (*API).thirdPartyNone},
	{"GET", old, "/thirdparty/user", user, 0, (*API).thirdPartyNone},
	{"GET", old, "/thirdparty/user/{protocol}", user, 0, (*API).thirdPartyNone},
	{"GET", old, "/account/3pid", user, 0, (*API).thirdPartyIDs},
	{"POST", old, "/account/3pid", user, smallBody, (*API).thirdPartyDenied},
	{"POST", old, "/account/3pid/add", user, smallBody, (*API).thirdPartyDenied},
	{"POST", old, "/account/3pid/bind", user, smallBody, (*API).thirdPartyDenied},
	{"POST", old, "/account/3pid/delete", user, smallBody, (*API).thirdPartyUnbound},
	{"POST", old, "/account/3pid/unbind", user, smallBody, (*API).thirdPartyUnbound},
	{"POST", old, "/account/3pid/{medium}/requestToken", anyone, smallBody, (*API).thirdPartyDenied},
	{"POST", old, "/account/password/{medium}/requestToken", anyone, smallBody, (*API).thirdPartyDenied},
	{"POST", old, "/register/{medium}/requestToken", anyone, smallBody, (*API).thirdPartyDenied},
}

// routes makes the mux of the table.
func (a *API) routes() *http.ServeMux {
	mux := http.NewServeMux()
	for _, r := range table {
		for _, prefix := range r.in.prefixes() {
			mux.Handle(r.method+" "+prefix+r.path, endpoint{a, r})
		}
	}
	return mux
}
