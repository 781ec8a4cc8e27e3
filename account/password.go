// SPDX-License-Identifier: Apache-2.0

package account

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/crypto/argon2"
)

// Parameters of argon2id for new hashes (RFC 9106; OWASP's second choice: 19 MiB, two passes, one lane): about
// 27 ms of one core, and memory that a small machine can spare twice.
const (
	argonMemory  = 19 << 10 // KiB
	argonTime    = 2
	argonThreads = 1
	argonSalt    = 16 // bytes
	argonKey     = 32 // bytes
)

// Bounds of what a stored hash may ask for, so that a damaged row cannot take the machine.
const (
	maxArgonMemory  = 256 << 10 // KiB
	maxArgonTime    = 16
	maxArgonThreads = 8
	maxArgonBytes   = 64 // of salt, of key
	maxPHC          = 512
)

// hasher computes hashes, two at once and no more: 38 MiB. Others wait.
type hasher chan struct{}

func newHasher() hasher { return make(hasher, 2) }

// ErrLongPassword: longer than MaxPassword bytes.
var ErrLongPassword = errors.New("account: password is too long")

func checkPassword(password string) error {
	if len(password) < MinPassword {
		return ErrWeakPassword
	}
	if len(password) > MaxPassword {
		return ErrLongPassword
	}
	return nil
}

// phc is an argon2id hash with what is needed to compute it again.
type phc struct {
	memory, time uint32
	threads      uint8
	salt, key    []byte
}

func (p phc) String() string {
	b64 := base64.RawStdEncoding.EncodeToString
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, p.memory, p.time, p.threads, b64(p.salt), b64(p.key))
}

var errPHC = errors.New("account: malformed password hash")

// parsePHC reads the one form that String writes (the PHC string format, parameters in the order m, t, p).
func parsePHC(s string) (phc, error) {
	f := strings.Split(s, "$")
	if len(s) > maxPHC || len(f) != 6 || f[0] != "" || f[1] != "argon2id" || f[2] != "v="+strconv.Itoa(argon2.Version) {
		return phc{}, errPHC
	}
	params := strings.Split(f[3], ",")
	if len(params) != 3 {
		return phc{}, errPHC
	}
	number := func(s, name string, min, max uint64) (uint64, bool) {
		v, ok := strings.CutPrefix(s, name+"=")
		n, err := strconv.ParseUint(v, 10, 32)
		return n, ok && err == nil && n >= min && n <= max && strconv.FormatUint(n, 10) == v
	}
	threads, ok3 := number(params[2], "p", 1, maxArgonThreads)
	memory, ok1 := number(params[0], "m", 8*max(threads, 1), maxArgonMemory)
	time, ok2 := number(params[1], "t", 1, maxArgonTime)
	salt, err1 := base64.RawStdEncoding.Strict().DecodeString(f[4])
	key, err2 := base64.RawStdEncoding.Strict().DecodeString(f[5])
	if !ok1 || !ok2 || !ok3 || err1 != nil || err2 != nil || len(salt) < 8 || len(salt) > maxArgonBytes || len(key) < 16 || len(key) > maxArgonBytes {
		return phc{}, errPHC
	}
	p := phc{memory: uint32(memory), time: uint32(time), threads: uint8(threads), salt: salt, key: key}
	if p.String() != s { // newlines, which base64 passes over
		return phc{}, errPHC
	}
	return p, nil
}

func (h hasher) compute(p phc, password string) []byte {
	h <- struct{}{}
	defer func() { <-h }()
	return argon2.IDKey([]byte(password), p.salt, p.time, p.memory, p.threads, uint32(len(p.key)))
}

// fresh is a hash to be computed with today's parameters and a new salt.
func fresh() phc {
	p := phc{memory: argonMemory, time: argonTime, threads: argonThreads, salt: make([]byte, argonSalt), key: make([]byte, argonKey)}
	rand.Read(p.salt) // never fails (crypto/rand)
	return p
}

func (h hasher) hash(password string) string {
	p := fresh()
	p.key = h.compute(p, password)
	return p.String()
}

// verify: old says that the hash was made with other parameters than today's. No stored hash (or a
// damaged one) costs the same time, and is never good.
func (h hasher) verify(stored, password string) (good, old bool) {
	p, err := parsePHC(stored)
	if err != nil {
		p = fresh()
	}
	if len(password) > MaxPassword { // no such password can have been set; do not hash a megabyte
		password = ""
	}
	key := h.compute(p, password)
	good = subtle.ConstantTimeCompare(key, p.key) == 1 && err == nil && password != ""
	return good, p.memory != argonMemory || p.time != argonTime || p.threads != argonThreads || len(p.key) != argonKey
}
