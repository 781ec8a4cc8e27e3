# SPDX-License-Identifier: Apache-2.0
# Makes vectors.json with other software than Tarn's (and the zstd command): python3 vectors.py > vectors.json
import base64, json, struct, subprocess

def num(n):
    out = b""
    while n >= 128:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])

def s(x):
    x = x if isinstance(x, bytes) else x.encode()
    return num(len(x)) + x

def many(xs):
    return num(len(xs)) + b"".join(s(x) for x in xs)

room, ev = "!kEr0jYqGwBCcuoQ7ubnUcUDHk7Ul6lQa6iIEVh0bAYM", ["$first", "$second"]
raws = [b'{"type":"m.room.create"}', b'{"type":"m.room.member"}']
store = "tarn-mailbox:1:pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd"
servers = ["pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd", "sp3k262uwy4r2k3ycr5awluarykdpag6a7y33jxop4cs2lu5uz5sseqd"]
records = {
    1: s(room) + s("12") + many(raws),
    2: s(room) + s("12") + s("$second") + many(ev) + many(raws) + many(ev[:1]) + many([bytes(range(129))]),
    3: bytes(range(129)),
    4: s(room) + many(ev),
    5: s(room) + many(ev),
    6: s(room) + num(1) + s("@bob:example") + s("$first") + s("m.read") + s("main") + num(1764000000000),
    7: num(300) + many([store]) + s("Bob's node") + s("balanced"),
    8: s(store) + num(1) + b"\x01" + num(20000) + bytes(range(32)) + num(1) + num(300000) + bytes(range(32, 64)),
    9: s(store) + s(raws[0]) + many(raws),
    11: s("@bob:example") + num(1764000000000) + num(1) + s("PHONE") + s('{"a":1}') + num(1) + s("signed_curve25519:AAAB") + s('{"b":2}')
        + s('{"c":3}') + s(""),
    12: s("@bob:example") + s("PHONE") + num(1764000000001) + num(1) + s("signed_curve25519:AAAC") + s('{"d":4}'),
    13: s("@bob:example") + s("PHONE") + num(1764000000001) + s("signed_curve25519:AAAB"),
    14: num(1764000000003) + num(1764000000002) + s("@alice:example") + s("@bob:example") + s("*") + s("m.room.encrypted") + s('{"e":5}'),
    15: num(1764000000004) + num(2) + b"".join(sorted(base64.b32decode(x.upper())[:32] for x in servers)),
    16: bytes(range(16)) + b"\x01" + s(room) + s("@bob:example"),
    17: bytes(range(16)) + b"\x02" + s("12") + num(300) + many(ev) + many(ev[:1]) + s("@alice:example") + many(raws[:1]),
    18: bytes(range(16)) + num(0) + num(3) + num(200) + num(8 << 20),
    19: bytes(range(16)) + num(1) + s(bytes(range(32))) + num(30000) + s("image/png") + s("cat.png"),
    20: bytes(range(16)) + num(0) + num(300) + s(b"some bytes"),
    21: base64.b32decode(servers[0].upper())[:32] + bytes(range(77)),
    22: base64.b32decode(servers[1].upper())[:32] + bytes(range(77)),
    23: num(1764000000005) + num(1764000600000) + num(1) + s("@bob:example") + b"\x01" + num(1764000000000) + s("at lunch")
        + num(1) + s(room) + s("@bob:example") + num(1764000030000),
}

ident16, certificate = bytes(range(16)), bytes(range(129))
older = dict(
    ask=ident16 + b"\x08" + s(room) + many(ev) + many(ev[:1]) + num(200),
    answer=ident16 + b"\x06" + many(raws) + many(ev[1:]) + num(2) + s("$first") + many(ev) + many([]) + s("$second") + many(ev[1:]) + many(ev[:1])
        + many(raws[:1]) + many([certificate]),
)

def piece(t, data, ident=None, index=0, count=1):
    if count == 1:
        return bytes([t]) + num(len(data) << 1) + data
    return bytes([t]) + num(len(data) << 1 | 1) + ident + num(index) + num(count) + data

def bundle(epoch, nxt, seen, floor, z, ilen, raw, kem=None, before=None):
    b = bytes([1, (kem is not None) | (before is not None) << 1]) + struct.pack(">IQ", epoch, nxt) + seen
    b += struct.pack(">IQHIH", epoch, floor, len(z), ilen, len(raw))
    if before is not None:
        e, n, s, fe, f, count = before
        b += struct.pack(">IQ", e, n) + s + struct.pack(">IQQ", fe, f, count)
    if kem is not None:
        b += struct.pack(">H", len(kem)) + kem
    return (b + z + raw).ljust(8192, b"\0")

def zstd(b):
    return subprocess.run(["zstd", "-19", "--no-check", f"--stream-size={len(b)}", "-c"], input=b, capture_output=True, check=True).stdout

seen = bytes([0x06]) + bytes(30) + bytes([0x80])
ident = bytes(range(0x10, 0x20))
want, part = piece(4, records[4]), piece(2, b"a part of it", ident, 130, 300)
compressed = b"".join(piece(t, r) for t, r in records.items()) * 20
bundles = [
    dict(name="nothing but an ack", pieces=0, bundle=bundle(7, 1000, seen, 900, b"", 0, b"")),
    dict(name="a want and a fragment, as they are", pieces=2, bundle=bundle(7, 1000, seen, 900, b"", 0, want + part)),
    dict(name="all records twenty times, compressed; a want behind", pieces=len(records) * 20 + 1, bundle=bundle(0, 0, bytes(32), 0, zstd(compressed), len(compressed), want)),
    dict(name="a want behind a block about the epochs before and a KEM block", pieces=1,
         bundle=bundle(7, 2, seen, 1, b"", 0, want, bytes(1216), (6, 12, bytes([2]) + bytes(31), 5, 70, 71))),
]
for b in bundles:
    assert len(b["bundle"]) == 8192
    b["bundle"] = b["bundle"].rstrip(b"\0").hex()  # the zeros at the end are left out
print(json.dumps(dict(records={t: r.hex() for t, r in records.items()}, older={k: v.hex() for k, v in older.items()}, bundles=bundles), indent=1))
