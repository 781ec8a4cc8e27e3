# SPDX-License-Identifier: Apache-2.0
# Makes vectors.json with other software than Tarn's (hashlib, hmac, cryptography): python3 vectors.py > vectors.json
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
print(json.dumps(vectors, indent=1))
