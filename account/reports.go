// SPDX-License-Identifier: Apache-2.0

package account

import (
	"encoding/json"
	"fmt"
	"time"
	"unicode/utf8"

	"tarn/matrix"
	"tarn/store"
)

const (
	maxReports = 1000 // kept; the oldest go first
	maxReason  = 4096 // bytes; what is longer is cut
)

// Report is what a user found that the node's owner should see: an event, a room or a user.
type Report struct {
	By     matrix.UserID  `json:"by"`
	Time   int64          `json:"time"` // Unix seconds
	Room   matrix.RoomID  `json:"room,omitempty"`
	Event  matrix.EventID `json:"event,omitempty"`
	User   matrix.UserID  `json:"user,omitempty"`
	Reason string         `json:"reason,omitempty"`
	Score  int64          `json:"score,omitempty"` // -100 (most offensive) to 0; of old clients
}

// AddReport keeps a report.
func (a *Accounts) AddReport(r Report) error {
	if len(r.Reason) > maxReason {
		r.Reason = r.Reason[:maxReason]
		for !utf8.ValidString(r.Reason) {
			r.Reason = r.Reason[:len(r.Reason)-1]
		}
	}
	r.Time = time.Now().Unix()
	body, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return a.kv.Update(func(txn store.Txn) error {
		next, n := uint64(1), 0
		var oldest []byte
		if err := txn.ScanBack(store.Key(tableReport), nil, func(k, _ []byte) (bool, error) {
			if n == 0 {
				next = store.ReadKey(k).Uint64() + 1
			}
			n++
			oldest = append(oldest[:0], k...)
			return n < maxReports, nil
		}); err != nil {
			return err
		}
		if n >= maxReports {
			if err := txn.Delete(oldest); err != nil {
				return err
			}
		}
		return txn.Set(store.Key(tableReport, next), body)
	})
}

// Reports lists the reports that are kept, the newest first.
func (a *Accounts) Reports() (list []Report, err error) {
	err = a.kv.View(func(r store.Reader) error {
		return r.ScanBack(store.Key(tableReport), nil, func(_, v []byte) (bool, error) {
			var x Report
			if err := json.Unmarshal(v, &x); err != nil {
				return false, fmt.Errorf("account: a report is damaged: %w", err)
			}
			list = append(list, x)
			return true, nil
		})
	})
	return list, err
}
