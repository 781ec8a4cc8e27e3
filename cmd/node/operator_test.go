// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"

	"tarn/account"
)

// What a user's client reports the owner of the node can read, on one line whatever the user wrote.
func TestReportsAreShownToTheOwner(t *testing.T) {
	n := offline(t)
	defer n.close()
	for _, r := range []account.Report{
		{By: "@alice:x", Room: "!den:x", Event: "$spam", Reason: "sells\n\x1b[31mthings"},
		{By: "@alice:x", User: "@mallory:y"},
	} {
		if err := n.accounts.AddReport(r); err != nil {
			t.Fatal(err)
		}
	}
	res, err := n.methods()["reports"](t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	printReports(&b, res.([]account.Report))
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	if len(lines) != 3 || lines[2] != "2 reports" ||
		!strings.HasSuffix(lines[0], `  @alice:x  user @mallory:y  ""`) ||
		!strings.HasSuffix(lines[1], `  @alice:x  event $spam in room !den:x  "sells\n\x1b[31mthings"`) {
		t.Errorf("it says %q", b.String())
	}
}
