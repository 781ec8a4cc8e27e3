# SPDX-License-Identifier: Apache-2.0
# Makes vectors.json with other software than Tarn's (hashlib, hmac, cryptography): python3 vectors.py > vectors.json
# The KEM's own values (kem.json: MLKEM768X25519 keys, ciphertexts and exported secrets) are Go's, for this software has no such KEM.
import hashlib, hmac, json, struct
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

def prf(key, label, more=b""):
    return hmac.new(key, label.encode() + more, hashlib.sha256).digest()

def stream(root, epoch, label, indices, text):
    k, out = prf(root, label, struct.pack(">I", epoch)), []
    for i in range(max(indices) + 1):
        if i in indices:
            s = prf(k, "tarn/1 ratchet slot")
            ident, key = prf(s, "tarn/1 ratchet id")[:16], prf(s, "tarn/1 ratchet key")
            ad = b"tarn/1 ratchet box" + struct.pack(">IQ", epoch, i) + ident
            box = ChaCha20Poly1305(key).encrypt(bytes(12), text.encode(), ad)
            out.append(dict(index=i, chain=k.hex(), slot=s.hex(), id=ident.hex(), key=key.hex(), place=prf(s, "tarn/1 ratchet place").hex(), associated=ad.hex(), box=box.hex()))
        k = prf(k, "tarn/1 ratchet next")
    return out

vectors, text = [], "tarn ratchet"
for name, epoch in (("one", 0), ("two", 7), ("three", 2**32 - 1)):
    root = hashlib.sha256(name.encode()).digest()
    carry = prf(root, "tarn/1 ratchet carry")
    for initiator, label in ((True, "tarn/1 ratchet initiator"), (False, "tarn/1 ratchet responder")):
        slots = stream(root, epoch, label, (0, 1, 2, 100), text)
        state = b"\x01S" + struct.pack(">IQ", epoch, 0) + carry + struct.pack(">Q", 2) + bytes.fromhex(slots[2]["chain"])
        # The receiver's state after opening index 1: 0 is missed.
        recv = b"\x01R" + struct.pack(">IQQ", epoch, 0, 2) + bytes.fromhex(slots[2]["chain"]) + struct.pack(">HH", 1, 2) + bytes.fromhex(slots[0]["slot"])
        vectors.append(dict(root=root.hex(), epoch=epoch, initiator=initiator, carry=carry.hex(), plaintext=text, slots=slots,
                            sender_after_2=state.hex(), receiver_after_1=recv.hex()))

def hkdf(secret, salt, info):
    return hmac.new(hmac.new(salt, secret, hashlib.sha256).digest(), info.encode() + b"\x01", hashlib.sha256).digest()

def mix(secret, label, info, epoch, initiator_offers, public, ct):
    salt = hashlib.sha256(label.encode() + b"\0" + struct.pack(">IB", epoch, initiator_offers) + public + ct).digest()
    return hkdf(secret, salt, info)

turns = []
for kem in json.load(open("kem.json")):
    carry = hashlib.sha256(b"carry of " + kem["name"].encode()).digest()
    ss, public, ct, epoch = (bytes.fromhex(kem["shared"]), bytes.fromhex(kem["public"]), bytes.fromhex(kem["ciphertext"]), kem["epoch"])
    for initiator_offers in (True, False):
        root = mix(carry + ss, "tarn/1 ratchet turn", "tarn/1 ratchet root", epoch, initiator_offers, public, ct)
        rescue = mix(carry + ss, "tarn/1 ratchet recovery", "tarn/1 ratchet recovery root", epoch, initiator_offers, public, ct)
        turns.append(dict(seed=kem["seed"], epoch=epoch, initiator_offers=initiator_offers, carry=carry.hex(), public=kem["public"],
                          ciphertext=kem["ciphertext"], shared=kem["shared"], root=root.hex(), recovery_root=rescue.hex()))
print(json.dumps(dict(streams=vectors, turns=turns), indent=1))
