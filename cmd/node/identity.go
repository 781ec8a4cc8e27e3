// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"tarn/crypto/onionid"
	"tarn/matrix"
	"tarn/onion"
)

// identity is who a node is: the onion key, whose public half is the server name, and the key that signs events.
// The two seeds lie in the data directory, 32 bytes each, mode 0600. Who has them is the node.
type identity struct {
	onion       ed25519.PrivateKey
	name        onionid.Name
	signer      matrix.Signer
	certificate onionid.Certificate
}

const (
	onionSeed   = "onion.seed"
	signingSeed = "signing.seed"
)

// errNoNode: the data directory holds no node.
var errNoNode = errors.New("there is no node here: make one with `node init`")

// errNoDatabase: the node was made, and its database is not there.
var errNoDatabase = errors.New("the node's database is gone: bring it back if it lies elsewhere (a disk that is not mounted?); " +
	"to begin anew under the same name, without users, rooms and contacts, move node.toml away and run `node init`")

// newIdentity makes the seeds if there are none.
func newIdentity(dir string) (identity, error) { return readIdentity(dir, true) }

// loadIdentity reads them; errNoNode if there are none.
func loadIdentity(dir string) (identity, error) { return readIdentity(dir, false) }

func readIdentity(dir string, create bool) (id identity, err error) {
	key := func(file string) ed25519.PrivateKey {
		name := filepath.Join(dir, file)
		if _, serr := os.Stat(name); !create && errors.Is(serr, os.ErrNotExist) {
			err = errors.Join(err, fmt.Errorf("%s: %w", dir, errNoNode))
			return nil
		}
		seed, serr := onion.LoadOrCreateSeed(name)
		if serr != nil {
			err = errors.Join(err, serr)
			return nil
		}
		return onion.KeyFromSeed(seed)
	}
	id.onion = key(onionSeed)
	if err != nil {
		return id, err
	}
	sign := key(signingSeed)
	if err != nil {
		return id, err
	}
	id.name = onionid.FromKey(id.onion.Public().(ed25519.PublicKey))
	id.certificate = onionid.Certify(id.onion, sign.Public().(ed25519.PublicKey))
	id.signer = matrix.Signer{Server: id.name, KeyID: id.certificate.KeyID, Key: sign}
	return id, nil
}
