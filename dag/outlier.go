// SPDX-License-Identifier: Apache-2.0

//go:build goexperiment.jsonv2 || go1.27

package dag

import (
	"fmt"

	"tarn/matrix"
)

// InsertOutlier checks an event of a snapshot by its auth events alone (rules 4.x): parents are not needed, and no state
// is known at it. The results: Accepted; Rejected and why (wraps ErrNotAllowed); status 0 and the auth events that are
// not held; or status 0 and an error of the view, with which nothing is known.
//
//lint:ignore ST1008 the error is why the status is what it is; the list is the other case
func InsertOutlier(v View, version matrix.RoomVersion, ev *matrix.Event) (Status, error, []matrix.EventID) {
	if !matrix.Supported(version) || ev.Version() != version {
		return 0, fmt.Errorf("%w %q", matrix.ErrVersion, version), nil
	}
	own, create, lost, missing, err := authorities(v, version, ev)
	switch {
	case err != nil:
		return 0, err, nil
	case len(missing) > 0:
		return 0, nil, missing
	case lost:
		return Rejected, fmt.Errorf("%w: an auth event is rejected", ErrNotAllowed), nil
	}
	if err := allowedByOwn(version, ev, create, own); err != nil {
		return Rejected, err, nil
	}
	return Accepted, nil, nil
}
