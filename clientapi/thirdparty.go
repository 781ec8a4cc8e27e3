// SPDX-License-Identifier: Apache-2.0

package clientapi

import "tarn/matrix"

// Third-party identifiers and networks: there are none, for each needs a server that would learn of the user: one that sends
// the e-mail or text message, an identity server, a bridge. What clients ask is answered as the spec says for that.

// thirdPartyProtocols: GET /thirdparty/protocols. There are no bridges.
func (a *API) thirdPartyProtocols(*call) (any, error) { return empty{}, nil }

// thirdPartyNone: GET /thirdparty/protocol/{protocol}, /thirdparty/location, /thirdparty/user and what is under them: "404
// M_NOT_FOUND: no such protocol, no results".
func (a *API) thirdPartyNone(*call) (any, error) {
	return nil, notFound("this node has no bridges to other networks")
}

// thirdPartyIDs: GET /account/3pid. No e-mail address or telephone number belongs to anybody here.
func (a *API) thirdPartyIDs(*call) (any, error) {
	return map[string][]empty{"threepids": {}}, nil
}

// thirdPartyDenied: adding one, binding one, or asking for the mail that would prove it. "403 M_THREEPID_DENIED: the homeserver does not
// allow the third-party identifier."
func (a *API) thirdPartyDenied(*call) (any, error) {
	return nil, &Error{Status: 403, Code: matrix.ErrcodeThreepidDenied, Text: "this node takes no e-mail addresses or telephone numbers"}
}

// thirdPartyUnbound: POST /account/3pid/delete and /unbind. There was nothing, and no identity server to tell.
func (a *API) thirdPartyUnbound(*call) (any, error) {
	return map[string]string{"id_server_unbind_result": "no-support"}, nil
}
