// SPDX-License-Identifier: Apache-2.0

package account

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"maunium.net/go/mautrix/crypto/signatures"
	"maunium.net/go/mautrix/id"

	"tarn/matrix"
)

// Algorithms and usages of keys (C-S API, "End-to-End Encryption").
const (
	algorithmSigning = "ed25519"
	algorithmOneTime = "signed_curve25519"
	algorithmPlain   = "curve25519" // one-time keys without a signature, of elder clients
	usageMaster      = "master"
	usageSelf        = "self_signing"
	usageUser        = "user_signing"

	publicKeySize = 32 // bytes of an Ed25519 or Curve25519 public key
)

// signedObject is what the checks need of any signed key.
type signedObject struct {
	User       matrix.UserID                       `json:"user_id"`
	Device     matrix.DeviceID                     `json:"device_id"`
	Algorithms []string                            `json:"algorithms"`
	Usage      []string                            `json:"usage"`
	Keys       map[string]string                   `json:"keys"`
	Signatures map[matrix.UserID]map[string]string `json:"signatures"`
}

// normal reads a signed object and gives it without what the signatures do not cover ("unsigned"), its names sorted.
func normal(raw json.RawMessage) (json.RawMessage, signedObject, error) {
	var o signedObject
	if len(raw) > MaxKey {
		return nil, o, fmt.Errorf("%w: a key of %d bytes, at most %d", ErrTooLarge, len(raw), MaxKey)
	}
	var fields map[string]json.RawMessage
	if json.Unmarshal(raw, &fields) != nil || fields == nil {
		return nil, o, fmt.Errorf("%w (%w)", ErrBadJSON, ErrBadKeys)
	}
	if err := json.Unmarshal(raw, &o); err != nil {
		return nil, o, fmt.Errorf("%w of the right fields (%w)", ErrBadJSON, ErrBadKeys)
	}
	delete(fields, "unsigned")
	out, err := json.Marshal(fields)
	if err != nil {
		return nil, o, fmt.Errorf("%w: %w", ErrBadKeys, err)
	}
	return out, o, nil
}

// goodPublic says whether s is a public key in unpadded base64: its length is checked here, for the libraries differ in
// what they do with others.
func goodPublic(s string) bool {
	b, err := base64.RawStdEncoding.DecodeString(s)
	return err == nil && len(b) == publicKeySize
}

// checkSigned says whether obj carries a good signature of user's key.
func checkSigned(obj json.RawMessage, user matrix.UserID, keyName, public string) error {
	if !goodPublic(public) {
		return fmt.Errorf("%w: the signing key is not %d bytes of base64", ErrBadKeys, publicKeySize)
	}
	ok, err := signatures.VerifySignatureJSON(obj, id.UserID(user), keyName, id.Ed25519(public))
	if err != nil || !ok {
		return ErrBadSignature
	}
	return nil
}

// checkDeviceKeys checks a device's identity keys (C-S API, "Device keys") and gives them in the form to store.
func checkDeviceKeys(user matrix.UserID, device matrix.DeviceID, raw json.RawMessage) (json.RawMessage, error) {
	out, o, err := normal(raw)
	if err != nil {
		return nil, err
	}
	if o.User != user || o.Device != device {
		return nil, fmt.Errorf("%w: device_keys are of another user or device", ErrBadKeys)
	}
	if len(o.Algorithms) == 0 {
		return nil, fmt.Errorf("%w: device_keys name no algorithms", ErrBadKeys)
	}
	for _, alg := range []string{algorithmSigning, algorithmPlain} {
		if !goodPublic(o.Keys[alg+":"+string(device)]) {
			return nil, fmt.Errorf("%w: device_keys need a key %s:DEVICE of %d bytes", ErrBadKeys, alg, publicKeySize)
		}
	}
	if err := checkSigned(out, user, string(device), o.Keys[algorithmSigning+":"+string(device)]); err != nil {
		return nil, fmt.Errorf("%w: of device_keys", err)
	}
	return out, nil
}

// deviceSigningKey is the Ed25519 key of stored device keys.
func deviceSigningKey(stored []byte, device matrix.DeviceID) string {
	var o signedObject
	if stored == nil || json.Unmarshal(stored, &o) != nil {
		return ""
	}
	return o.Keys[algorithmSigning+":"+string(device)]
}

// sameKeys says whether two stored device keys have the same public keys.
func sameKeys(a, b []byte) bool {
	var x, y signedObject
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && maps.Equal(x.Keys, y.Keys)
}

// namedKey is a one-time or fallback key that was checked.
type namedKey struct {
	algorithm, id string
	key           json.RawMessage
}

// checkedKeys are the one-time and fallback keys of an upload.
type checkedKeys struct{ oneTime, fallback []namedKey }

// checkUpload checks one-time and fallback keys against the device's identity.
func checkUpload(user matrix.UserID, device matrix.DeviceID, identity json.RawMessage, up KeyUpload) (c checkedKeys, err error) {
	signing := deviceSigningKey(identity, device)
	for _, list := range []struct {
		from map[string]json.RawMessage
		to   *[]namedKey
	}{{up.OneTime, &c.oneTime}, {up.Fallback, &c.fallback}} {
		for _, name := range sorted(list.from) {
			k, err := checkOneTime(user, device, signing, name, list.from[name])
			if err != nil {
				return c, err
			}
			if n := len(c.fallback); list.to == &c.fallback && n > 0 && c.fallback[n-1].algorithm == k.algorithm {
				return c, fmt.Errorf("%w: two fallback keys of one algorithm", ErrBadKeys) // sorted by name: they are neighbours
			}
			*list.to = append(*list.to, k)
		}
	}
	return c, nil
}

func checkOneTime(user matrix.UserID, device matrix.DeviceID, signing, name string, raw json.RawMessage) (namedKey, error) {
	alg, keyID, found := strings.Cut(name, ":")
	if !found || keyID == "" || len(name) > MaxKeyID {
		return namedKey{}, fmt.Errorf("%w: the name of a one-time key is not algorithm:id", ErrBadKeys)
	}
	switch alg {
	case algorithmPlain:
		var public string
		if json.Unmarshal(raw, &public) != nil || !goodPublic(public) {
			return namedKey{}, fmt.Errorf("%w: a one-time key is not %d bytes of base64", ErrBadKeys, publicKeySize)
		}
		key, err := json.Marshal(public)
		return namedKey{alg, keyID, key}, err
	case algorithmOneTime:
	default:
		return namedKey{}, fmt.Errorf("%w: one-time keys of this algorithm are not known", ErrBadKeys)
	}
	if signing == "" {
		return namedKey{}, fmt.Errorf("%w: one-time keys need the device's identity keys first", ErrBadKeys)
	}
	var k struct {
		Key string `json:"key"`
	}
	out, _, err := normal(raw)
	if err == nil && (json.Unmarshal(out, &k) != nil || !goodPublic(k.Key)) {
		err = fmt.Errorf("%w: a one-time key is not %d bytes of base64", ErrBadKeys, publicKeySize)
	}
	if err == nil {
		err = checkSigned(out, user, string(device), signing)
	}
	if err != nil {
		return namedKey{}, fmt.Errorf("%w: of a one-time key", err)
	}
	return namedKey{alg, keyID, out}, nil
}

// crossKey is the public key of a stored cross-signing key.
func crossKey(raw []byte) (public string, ok bool) {
	var o signedObject
	if raw == nil || json.Unmarshal(raw, &o) != nil || len(o.Keys) != 1 {
		return "", false
	}
	for name, public := range o.Keys {
		return public, name == algorithmSigning+":"+public
	}
	return "", false
}

// checkCross checks a cross-signing key's shape (C-S API, "Key and signature security") and gives its public key.
func checkCross(user matrix.UserID, usage string, raw json.RawMessage) (out json.RawMessage, public string, err error) {
	out, o, err := normal(raw)
	if err != nil {
		return nil, "", err
	}
	if o.User != user || !slices.Contains(o.Usage, usage) {
		return nil, "", fmt.Errorf("%w: a cross-signing key is of another user or usage", ErrBadKeys)
	}
	public, ok := crossKey(out)
	if !ok || !goodPublic(public) {
		return nil, "", fmt.Errorf("%w: a cross-signing key has one Ed25519 key that is named by itself", ErrBadKeys)
	}
	return out, public, nil
}

// sameSigned says whether two objects are the same but for their signatures.
func sameSigned(a, b []byte) bool {
	var x, y map[string]any
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return false
	}
	delete(x, "signatures")
	delete(y, "signatures")
	return reflect.DeepEqual(x, y)
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
