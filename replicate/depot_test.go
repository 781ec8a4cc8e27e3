// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"tarn/mailbox"
)

func TestAFullMailboxIsSaidUntilADepositGoesWell(t *testing.T) {
	d := &depot{}
	full := fmt.Errorf("put: %w", mailbox.ErrFull)
	for i, c := range []struct {
		err     error
		deposit bool
		want    string
	}{
		{nil, true, ""},
		{full, true, "is full"},
		{nil, false, "is full"}, // a GET went well
		{context.DeadlineExceeded, true, "does not answer in time"},
		{nil, false, "is full"},
		{nil, true, ""},
	} {
		d.outcome(c.err, c.deposit, time.Now())
		if got := d.words(); !strings.Contains(got, c.want) || c.want == "" && got != "" {
			t.Errorf("step %d: %q, want %q", i, got, c.want)
		}
	}
}
