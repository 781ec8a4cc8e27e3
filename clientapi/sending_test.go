// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"testing"
	"testing/synctest"
	"time"

	"tarn/account"
)

func TestSettleWaitsForTheDevicesRequestsUnderWayOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s sending
		me, other := account.Requester{User: "@a:x", Device: "A"}, account.Requester{User: "@a:x", Device: "B"}
		s.settle(t.Context(), me) // nothing under way
		done := s.begin(me)
		doneOther := s.begin(other)
		settled := make(chan struct{})
		go func() { s.settle(t.Context(), me); close(settled) }()
		synctest.Wait()
		select {
		case <-settled:
			t.Fatal("did not wait for the request under way")
		default:
		}
		late := s.begin(me) // begun after: not waited for
		done()
		<-settled
		late()
		doneOther()
		if len(s.under) != 0 {
			t.Errorf("%d devices are still remembered", len(s.under))
		}
	})
}

func TestSettleDoesNotWaitForeverForASlowConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s sending
		me := account.Requester{User: "@a:x", Device: "A"}
		defer s.begin(me)()
		start := time.Now()
		s.settle(t.Context(), me)
		if waited := time.Since(start); waited != sendGrace {
			t.Errorf("waited %v, want %v", waited, sendGrace)
		}
	})
}
