#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""matrix-nio with libolm, as bots and Mirage use it: two people on one node, end-to-end encrypted, all over the old r0 paths.

usage: matrix-nio.py NODE-PROGRAM
"""

import asyncio
import collections
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
import zlib

import nio
from nio.crypto import decrypt_attachment

MESSAGES = 20
PATIENCE = 60  # seconds that anything may take
PASSWORD = "correct horse battery"


class Node:
    """A real node without Tor, in a directory of its own."""

    def __init__(self, program):
        self.program = program
        self.dir = tempfile.mkdtemp(prefix="tarn-nio-")
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        self.config = os.path.join(self.dir, "node.toml")
        self.url = f"http://127.0.0.1:{port}"
        subprocess.run(
            [program, "init", "--config", self.config, "--user", "-", "--tor", "off", "--open-registration", "--open-media",
             "--no-rate-limit", "--listen", f"127.0.0.1:{port}"],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self.start()

    def start(self):
        self.log = open(os.path.join(self.dir, "log"), "ab")
        self.process = subprocess.Popen([self.program, "run", "--config", self.config], stdout=self.log, stderr=self.log)
        end = time.monotonic() + PATIENCE
        while True:
            try:
                urllib.request.urlopen(self.url + "/_matrix/client/versions", timeout=5).read()
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > end:
                    sys.exit("the node does not run:\n" + open(self.log.name).read())
                time.sleep(0.05)

    def crash(self):
        """kill -9 and a start."""
        self.process.kill()
        self.process.wait()
        self.start()

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        self.process.wait()
        shutil.rmtree(self.dir)


trace = collections.Counter()


class Client(nio.AsyncClient):
    """A client that notes what it asks and what it is answered."""

    async def send(self, method, path, *args, **kwargs):
        r = await super().send(method, path, *args, **kwargs)
        code = ""
        if r.status >= 400:
            try:
                code = (await r.json())["errcode"]
            except Exception:  # whatever is no error object is a fault
                code = "no JSON"
        trace[f"{method} {template(path)} {r.status} {code}".strip()] += 1
        return r


def template(path):
    """A path without ids and names."""
    parts = [urllib.parse.unquote(p) for p in path.split("?")[0].split("/")]
    out = []
    for i, p in enumerate(parts):
        two = parts[i - 2] if i > 1 else ""
        one = parts[i - 1] if i > 0 else ""
        if re.match(r"[!@$#]", p) or two in ("send", "redact", "sendToDevice", "download", "thumbnail") or one in ("devices", "filter", "download", "thumbnail"):
            p = "{}"
        out.append(p)
    return "/".join(out)


def good(response):
    """The response, if it is none of nio's errors."""
    assert not isinstance(response, nio.ErrorResponse), f"{type(response).__name__}: {response}"
    return response


async def until(what, *clients, look):
    """Syncs the clients until look() is true."""
    end = time.monotonic() + PATIENCE
    while not look():
        assert time.monotonic() < end, f"did not come to pass: {what}; heard: {[[(type(e).__name__, getattr(e, 'body', '')) for e in c.heard] for c in clients]}"
        for c in clients:
            good(await c.sync(timeout=500))
            if c.should_upload_keys:
                good(await c.keys_upload())
            if c.should_query_keys:
                good(await c.keys_query())
            if c.should_claim_keys:
                good(await c.keys_claim(c.get_users_for_key_claiming()))
            await c.send_to_device_messages()


async def person(node, name):
    anon = Client(node.url, name)
    good(await anon.register(name, PASSWORD, device_name="first"))
    await anon.close()
    store = os.path.join(node.dir, "nio-" + name)
    os.mkdir(store)
    c = Client(node.url, name, store_path=store, config=nio.AsyncClientConfig(encryption_enabled=True, store_sync_tokens=True))
    good(await c.login(PASSWORD, device_name="nio"))
    c.heard = []
    c.add_event_callback(lambda room, e: c.heard.append(e), nio.Event)
    c.seen = []
    c.add_ephemeral_callback(lambda room, e: c.seen.append(e), nio.EphemeralEvent)
    good(await c.keys_upload())
    good(await c.sync(timeout=0, full_state=True))
    return c


def step(what):
    print("-", what, flush=True)


def bodies(c, sender):
    return [e.body for e in c.heard if isinstance(e, nio.RoomMessageText) and e.sender == sender]


async def say(c, room, text, **more):
    content = {"msgtype": "m.text", "body": text, **more}
    return good(await c.room_send(room, "m.room.message", content, ignore_unverified_devices=True)).event_id


def picture():
    """A small PNG."""
    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
    w, h = 400, 200
    head = w.to_bytes(4, "big") + h.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress((b"\0" + b"\x20\x40\x80" * w) * h)) + chunk(b"IEND", b"")


async def play(node):
    alice, bob = await person(node, "alice"), await person(node, "bob")
    both = (alice, bob)

    step("an encrypted room, an invite and a join")
    room = good(await alice.room_create(name="Tea", invite=[bob.user_id], is_direct=True, initial_state=[nio.EnableEncryptionBuilder().as_dict()])).room_id
    await until("bob's invite", *both, look=lambda: room in bob.invited_rooms)
    good(await bob.join(room))
    await until("both are in", *both, look=lambda: all(room in c.rooms and len(c.rooms[room].users) == 2 and c.rooms[room].encrypted for c in both))
    await until("both know the other's device", *both, look=lambda: all(c.device_store.active_user_devices(o.user_id) and
                any(True for _ in c.device_store.active_user_devices(o.user_id)) for c, o in (both, both[::-1])))

    step(f"{MESSAGES} encrypted messages each way")
    for i in range(MESSAGES):
        await say(alice, room, f"a{i}")
        await say(bob, room, f"b{i}")
        if i % 5 == 4:  # nio does not fetch what a limited timeline leaves out
            await until("the messages so far", *both, look=lambda: len(bodies(bob, alice.user_id)) > i and len(bodies(alice, bob.user_id)) > i)
    want = [f"a{i}" for i in range(MESSAGES)], [f"b{i}" for i in range(MESSAGES)]
    await until("all messages", *both, look=lambda: len(bodies(bob, alice.user_id)) >= MESSAGES and len(bodies(alice, bob.user_id)) >= MESSAGES)
    assert bodies(bob, alice.user_id) == want[0] and bodies(alice, bob.user_id) == want[1], "each once and in order"
    # nio reads no counts into its classes at 0.20, so ask as it would.
    step("typing, a receipt, a read marker, a reaction, an edit, a redaction")
    good(await bob.room_typing(room, True, 5000))
    last = await say(alice, room, "last")
    await until("last", *both, look=lambda: "last" in bodies(bob, alice.user_id))
    good(await bob.room_read_markers(room, fully_read_event=last, read_event=last))
    good(await bob.update_receipt_marker(room, last))
    await until("typing and the receipt", alice, look=lambda: any(isinstance(e, nio.TypingNoticeEvent) for e in alice.seen) and
                any(isinstance(e, nio.ReceiptEvent) for e in alice.seen))
    good(await bob.room_send(room, "m.reaction", {"m.relates_to": {"rel_type": "m.annotation", "event_id": last, "key": "+1"}}))
    await say(alice, room, "* better", **{"m.new_content": {"msgtype": "m.text", "body": "better"}, "m.relates_to": {"rel_type": "m.replace", "event_id": last}})
    gone = await say(alice, room, "gone")
    good(await alice.room_redact(room, gone, "oops"))
    await until("the redaction", *both, look=lambda: any(isinstance(e, nio.RedactionEvent) and e.redacts == gone for e in bob.heard))

    step("an encrypted file, a picture and its thumbnail")
    secret = os.urandom(300_000)
    up, keys = await alice.upload(io.BytesIO(secret), content_type="application/octet-stream", filename="secret.bin", encrypt=True, filesize=len(secret))
    good(up)
    down = good(await bob.download(mxc=up.content_uri))
    assert decrypt_attachment(down.body, keys["key"]["k"], keys["hashes"]["sha256"], keys["iv"]) == secret, "the file came back as it was"
    plain = picture()
    up, _ = await alice.upload(io.BytesIO(plain), content_type="image/png", filename="Grüße.png", filesize=len(plain))
    server, media = good(up).content_uri[len("mxc://"):].split("/")
    down = good(await bob.download(mxc=up.content_uri))
    assert down.body == plain and down.content_type == "image/png" and down.filename == "Grüße.png", (down.content_type, down.filename)
    small = good(await bob.thumbnail(server, media, width=96, height=96, method=nio.ResizingMethod.crop))
    assert small.content_type in ("image/png", "image/jpeg") and 0 < len(small.body), small.content_type
    good(await alice.content_repository_config())
    good(await alice.set_avatar(up.content_uri))

    step("profiles, presence, devices, pushers")
    good(await alice.set_displayname("Alice L."))
    assert good(await bob.get_profile(alice.user_id)).displayname == "Alice L."
    assert good(await bob.get_avatar(alice.user_id)).avatar_url == up.content_uri
    good(await alice.set_presence("unavailable", "at lunch"))
    p = good(await bob.get_presence(alice.user_id))
    assert p.presence == "unavailable" and p.status_msg == "at lunch", p
    assert len(good(await alice.devices()).devices) == 2
    good(await alice.update_device(alice.device_id, {"display_name": "renamed"}))
    await alice.set_pushrule("global", nio.PushRuleKind.room, room, actions=[nio.PushNotify()])
    good(await alice.delete_pushrule("global", nio.PushRuleKind.room, room))

    step("history, context, members, state, as they are asked for")
    page = good(await bob.room_messages(room, start="", limit=500)) if bob.next_batch is None else good(await bob.room_messages(room, start=bob.next_batch, limit=500))
    assert len([e for e in page.chunk if isinstance(e, (nio.MegolmEvent, nio.RoomMessageText))]) >= 2 * MESSAGES
    good(await bob.room_context(room, last))
    good(await bob.room_get_event(room, last))
    good(await bob.joined_members(room))
    good(await bob.joined_rooms())
    good(await bob.room_get_state(room))
    good(await bob.room_get_state_event(room, "m.room.name"))
    good(await alice.room_put_state(room, "m.room.topic", {"topic": "cakes"}))
    good(await alice.room_kick(room, bob.user_id, "test"))
    assert room in good(await bob.sync(timeout=5000)).rooms.leave, "bob is told that he is out"
    good(await bob.room_forget(room))

    step("kill -9: sessions, rooms and files are there")
    node.crash()
    assert good(await bob.download(mxc=up.content_uri)).body == plain
    await say(alice, room, "after the crash")
    good(await alice.sync(timeout=0))
    good(await alice.room_leave(room))

    step("goodbye")
    for c in both:
        good(await c.logout())
        await c.close()


def main():
    node = Node(sys.argv[1])
    try:
        asyncio.run(play(node))
        print("\nwhat matrix-nio asked for:")
        for line, n in sorted(trace.items()):
            print(f"  {n:5}  {line}")
        faults = [line for line in trace if re.search(r" (404 M_UNRECOGNIZED|405|50[0-9])|no JSON", line)]
        assert not faults, f"missing or broken: {json.dumps(faults, indent=1)}"
        log = open(os.path.join(node.dir, "log")).read()
        assert "level=ERROR" not in log and "panic" not in log, log
    finally:
        node.stop()
    print("matrix-nio: all well")


main()
