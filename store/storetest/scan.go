// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"tarn/store"
)

// keys scans and renders "key=value ..."; an empty from is nil.
func keys(t *testing.T, r store.Reader, prefix, from string, back bool) string {
	t.Helper()
	var out []string
	scan := r.Scan
	if back {
		scan = r.ScanBack
	}
	var f []byte
	if from != "" {
		f = []byte(from)
	}
	if err := scan([]byte(prefix), f, func(k, v []byte) (bool, error) {
		out = append(out, string(k)+"="+string(v))
		return true, nil
	}); err != nil {
		t.Fatal(err)
	}
	return strings.Join(out, " ")
}

var scanRows = []string{"a", "b", "b\x00", "ba", "b\xff", "b\xff\xff", "c", "\xff", "\xff\xff"}

func putScanRows(t *testing.T, kv store.KV) {
	for _, k := range scanRows {
		set(t, kv, k, "")
	}
	// Deleted rows at every border must not be seen or stop a scan.
	gone := []string{"\x00", "aa", "bb", "b\xfe", "cc", "\xff\x00", "\xff\xff\xff"}
	for _, k := range gone {
		set(t, kv, k, "gone")
	}
	if err := kv.Update(func(x store.Txn) error {
		for _, k := range gone {
			if err := x.Delete([]byte(k)); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

type scanCase struct{ prefix, from, want string }

func checkScans(t *testing.T, kv store.KV, back bool, cases []scanCase) {
	putScanRows(t, kv)
	check := func(who string, r store.Reader) {
		for _, c := range cases {
			if got := strings.ReplaceAll(keys(t, r, c.prefix, c.from, back), "=", ""); got != c.want {
				t.Errorf("%s: scan of %q from %q gives %q, want %q", who, c.prefix, c.from, got, c.want)
			}
		}
	}
	view(t, kv, func(r store.Reader) { check("view", r) })
	// The same when the transaction has touched some of the rows, so that two sources must be merged.
	if err := kv.Update(func(x store.Txn) error {
		for _, k := range []string{"b", "ba", "b\xff\xff", "\xff"} {
			if err := x.Set([]byte(k), nil); err != nil {
				return err
			}
		}
		check("update", x)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func scanAscends(t *testing.T, kv store.KV) {
	checkScans(t, kv, false, []scanCase{
		{"", "", "a b b\x00 ba b\xff b\xff\xff c \xff \xff\xff"},
		{"b", "", "b b\x00 ba b\xff b\xff\xff"},
		{"b", "a", "b b\x00 ba b\xff b\xff\xff"},
		{"b", "b", "b b\x00 ba b\xff b\xff\xff"},
		{"b", "b\x01", "ba b\xff b\xff\xff"},
		{"b", "ba", "ba b\xff b\xff\xff"},
		{"b", "b\xff\xff\xff", ""},
		{"b", "c", ""},
		{"", "c", "c \xff \xff\xff"},
		{"\xff", "", "\xff \xff\xff"},
		{"b\xff", "", "b\xff b\xff\xff"},
		{"x", "", ""},
	})
}

func scanDescends(t *testing.T, kv store.KV) {
	checkScans(t, kv, true, []scanCase{
		{"", "", "\xff\xff \xff c b\xff\xff b\xff ba b\x00 b a"},
		{"b", "", "b\xff\xff b\xff ba b\x00 b"},
		{"b", "c", "b\xff\xff b\xff ba b\x00 b"},
		{"b", "\xff", "b\xff\xff b\xff ba b\x00 b"},
		{"b", "b\xff", "b\xff ba b\x00 b"},
		{"b", "bz", "ba b\x00 b"},
		{"b", "b", "b"},
		{"b", "a", ""},
		{"", "b\x00", "b\x00 b a"},
		{"", "\x00", ""},
		{"\xff", "", "\xff\xff \xff"},
		{"a", "", "a"},
		{"x", "", ""},
	})
}

func scanStops(t *testing.T, kv store.KV) {
	putScanRows(t, kv)
	boom := errors.New("boom")
	view(t, kv, func(r store.Reader) {
		for name, scan := range map[string]func(prefix, from []byte, fn func(k, v []byte) (bool, error)) error{"Scan": r.Scan, "ScanBack": r.ScanBack} {
			n := 0
			if err := scan(nil, nil, func(_, _ []byte) (bool, error) { n++; return n < 3, nil }); err != nil || n != 3 {
				t.Errorf("%s: stopped after %d rows, %v", name, n, err)
			}
			n = 0
			if err := scan(nil, nil, func(_, _ []byte) (bool, error) { n++; return true, boom }); err != boom || n != 1 {
				t.Errorf("%s: went on after an error: %d rows, %v", name, n, err)
			}
		}
	})
}

func scanWhileWriting(t *testing.T, kv store.KV) {
	set(t, kv, "a", "1", "b", "1", "c", "1")
	if err := kv.Update(func(x store.Txn) error {
		if err := x.Set([]byte("bb"), []byte("2")); err != nil {
			return err
		}
		var seen string
		if err := x.Scan(nil, nil, func(k, v []byte) (bool, error) {
			seen += fmt.Sprintf("%s=%s ", k, v)
			// Nested scans and reads are allowed too, and do see the writes.
			if n := len(strings.Fields(keys(t, x, string(k), "", false))); n == 0 {
				t.Errorf("a nested scan does not see %q", k)
			}
			return true, errors.Join(x.Set(append([]byte("z"), k...), v), x.Set([]byte("bb"), []byte("3")), x.Delete([]byte("c")), x.Set([]byte("c"), []byte("9")))
		}); err != nil {
			return err
		}
		if want := "a=1 b=1 bb=2 c=1 "; seen != want {
			t.Errorf("the scan saw %q, want %q", seen, want)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	view(t, kv, func(r store.Reader) {
		if got, want := keys(t, r, "", "", false), "a=1 b=1 bb=3 c=9 za=1 zb=1 zbb=2 zc=1"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}
