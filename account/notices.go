// SPDX-License-Identifier: Apache-2.0

package account

import "tarn/matrix"

// NoticesName is the local part of the user that speaks for the node's operator (C-S API, "Server Notices"). Nobody can register
// it, and it has no password: whoever has its name in a room is the operator.
const NoticesName = "_notices"

// noticesProfile is how the user is shown.
var noticesProfile = Profile{DisplayName: "Server notices"}

// Notices is that user's id.
func (a *Accounts) Notices() matrix.UserID {
	return matrix.UserID("@" + NoticesName + ":" + string(a.opt.Server))
}
