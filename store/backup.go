// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
)

// A backup is: backupMagic; rows, each key length and value length (uvarints), key, value; an end, which is
// a key length of 0; the SHA-256 of all before it. It is not encrypted.
const backupMagic = "tarn backup 1\n"

// ErrBackup: what should be restored is not a whole backup.
var ErrBackup = errors.New("store: not a backup, or a damaged one")

// restoreBatch is how many bytes of rows one transaction of Restore writes.
const restoreBatch = 4 << 20

// Backup writes all rows of one snapshot to w. The node may go on working meanwhile.
//
// A restored node has forgotten what it sent since the backup: its ratchets MUST begin new epochs (replicate).
func Backup(kv KV, w io.Writer) error {
	sum := sha256.New()
	out := bufio.NewWriter(io.MultiWriter(w, sum))
	if _, err := out.WriteString(backupMagic); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	err := kv.View(func(r Reader) error {
		var head []byte
		return r.Scan(nil, nil, func(k, v []byte) (bool, error) {
			head = binary.AppendUvarint(binary.AppendUvarint(head[:0], uint64(len(k))), uint64(len(v)))
			for _, part := range [][]byte{head, k, v} {
				if _, err := out.Write(part); err != nil {
					return false, err
				}
			}
			return true, nil
		})
	})
	if err == nil {
		err = errors.Join(out.WriteByte(0), out.Flush())
	}
	if err == nil {
		_, err = w.Write(sum.Sum(nil))
	}
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	return nil
}

// restoreGap is how many positions of the stream (Pos) a restored node leaves out: more than it can have given since the backup. Clients have some of those,
// and what comes now shall lie behind each.
const restoreGap = 1 << 40

// Restore reads a backup into an empty store; positions go on behind all that were given since. On error (ErrBackup, or of the store) the store is to be thrown away: it may hold a part.
func Restore(kv KV, r io.Reader) error {
	if err := kv.View(func(r Reader) error {
		return r.Scan(nil, nil, func(_, _ []byte) (bool, error) {
			return false, errors.New("restore: the store is not empty")
		})
	}); err != nil {
		return err
	}
	in := &hashedReader{in: bufio.NewReader(r), sum: sha256.New()}
	magic := make([]byte, len(backupMagic))
	if _, err := io.ReadFull(in, magic); err != nil || string(magic) != backupMagic {
		return ErrBackup
	}
	for {
		var keys, values [][]byte
		end := false
		for size := 0; size < restoreBatch && !end; {
			k, v, err := in.row()
			if err != nil {
				return err
			}
			if bytes.Equal(k, leaseKey()) && len(v) == 8 {
				v = AppendUint64(nil, binary.BigEndian.Uint64(v)+restoreGap)
			}
			if end = k == nil; !end {
				keys, values = append(keys, k), append(values, v)
				size += len(k) + len(v) + rowCost
			}
		}
		if err := kv.Update(func(txn Txn) error {
			for i := range keys {
				if err := txn.Set(keys[i], values[i]); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return fmt.Errorf("restore: %w", err)
		}
		if !end {
			continue
		}
		want := in.sum.Sum(nil)
		got := make([]byte, sha256.Size)
		if _, err := io.ReadFull(in.in, got); err != nil || !bytes.Equal(got, want) {
			return ErrBackup
		}
		return nil
	}
}

// hashedReader hashes what is read.
type hashedReader struct {
	in  *bufio.Reader
	sum hash.Hash
}

func (h *hashedReader) Read(p []byte) (int, error) {
	n, err := h.in.Read(p)
	h.sum.Write(p[:n])
	return n, err
}

func (h *hashedReader) ReadByte() (byte, error) {
	b, err := h.in.ReadByte()
	if err == nil {
		h.sum.Write([]byte{b})
	}
	return b, err
}

// row reads one row; a nil key is the end. Lengths are checked before memory is taken.
func (h *hashedReader) row() (k, v []byte, err error) {
	kn, err := binary.ReadUvarint(h)
	if err != nil || kn > MaxKey {
		return nil, nil, ErrBackup
	}
	if kn == 0 {
		return nil, nil, nil
	}
	vn, err := binary.ReadUvarint(h)
	if err != nil || vn > MaxValue {
		return nil, nil, ErrBackup
	}
	k, v = make([]byte, kn), make([]byte, vn)
	if _, err := io.ReadFull(h, k); err != nil {
		return nil, nil, ErrBackup
	}
	if _, err := io.ReadFull(h, v); err != nil {
		return nil, nil, ErrBackup
	}
	return k, v, nil
}
