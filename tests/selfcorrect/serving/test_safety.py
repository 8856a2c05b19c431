"""Who may ask, how much, for how long; what happens when a client or the server leaves; one clear message each."""

from __future__ import annotations

import gc
import json
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from selfcorrect.cli import main
from selfcorrect.errors import InputError
from tests.selfcorrect.serving.toy import (
    CORRECT_FIRST,
    WRONG_FIRST,
    Running,
    ScriptedSource,
    asking,
    joined,
    serving,
    until,
)

from selfcorrect.serving.keys import read_keys  # isort: skip - after toy, which skips where the extra is absent

KEY, OTHER = "key-of-the-tests-1", "key-of-the-tests-2"


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


# --- keys


def test_a_key_is_asked_for_where_work_is_started_or_told_of(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with serving(keys=[KEY, OTHER]) as running:
        for headers in ({}, bearer("key-of-the-tests-3"), bearer(KEY[:-1]), {"authorization": f"Basic {KEY}"}):
            answer = running.client.post("/v1/chat/completions", json=asking(CORRECT_FIRST), headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
            assert answer.headers["www-authenticate"] == "Bearer"
        for path in ("/v1/models", "/metrics", "/v1/openapi.json", "/nothing"):
            assert running.client.get(path).status_code == 401
        assert running.client.get("/health").status_code == 200
        for key in (KEY, OTHER):
            answer = running.client.post("/v1/chat/completions", json=asking(CORRECT_FIRST), headers=bearer(key))
            assert answer.status_code == 200
        told = running.client.get("/metrics", headers=bearer(KEY)).text
    assert KEY not in caplog.text + told
    assert OTHER not in caplog.text + told


def test_keys_are_read_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# for the tests\n{KEY}\n\n  {OTHER}  \n")
    keys = read_keys(str(file), "NO_SUCH_VARIABLE")
    assert [keys.client(f"Bearer {key}") for key in (KEY, OTHER, "x", "")] == ["key 1", "key 2", None, None]
    monkeypatch.setenv("OUR_KEYS", f"{KEY}, {OTHER}")
    assert read_keys(None, "OUR_KEYS").client(f"bearer {OTHER}") == "key 2"
    assert not read_keys(None, "NO_SUCH_VARIABLE")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot read the key file"),
        (b"", "holds no key"),
        (b"# a remark\n", "holds no key"),
        (b"\xff\xfe\xff", "it is no text"),
        (b"short\n", "key 1 of the key file"),
        (f"{KEY}\nwith a blank inside\n".encode(), "key 2 of the key file"),
    ],
)
def test_a_key_file_that_is_of_no_use_is_one_message_without_the_key(
    tmp_path: Path, content: bytes | None, said: str
) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=said) as found:
        read_keys(str(file), "X")
    assert "blank inside" not in str(found.value)
    assert KEY not in str(found.value)


# --- who may ask


def test_a_page_of_another_site_cannot_ask(running: Running) -> None:
    body = json.dumps(asking(CORRECT_FIRST))
    post = lambda **headers: running.client.post(
        "/v1/chat/completions", content=body, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )
    assert post(host="rebound.example", content_type="application/json").status_code == 403
    assert post(content_type="text/plain").status_code == 415  # what a form can send without being asked
    assert post(content_type="application/json; charset=utf-8").status_code == 200
    assert post(host="localhost:1", content_type="application/json").status_code == 200


def test_cors_is_off_unless_an_origin_is_named() -> None:
    page = {"origin": "https://page.example"}
    asked = page | {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}
    with serving() as running:
        assert "access-control-allow-origin" not in running.client.get("/v1/models", headers=page).headers
        assert running.client.options("/v1/chat/completions", headers=asked).status_code == 405
    with serving(cors=("https://page.example",), keys=[KEY]) as running:
        answer = running.client.options("/v1/chat/completions", headers=asked)
        assert answer.headers["access-control-allow-origin"] == "https://page.example"
        other = running.client.get("/v1/models", headers={"origin": "https://other.example"} | bearer(KEY))
        assert "access-control-allow-origin" not in other.headers


def test_every_answer_has_an_id_of_its_own_and_the_headers_of_a_careful_server(running: Running) -> None:
    answers = [running.client.get("/health"), running.client.get("/nothing"), running.chat(CORRECT_FIRST)]
    assert len({answer.headers["x-request-id"] for answer in answers}) == 3
    for answer in answers:
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "server" not in answer.headers
    assert answers[1].json()["error"]["message"].startswith("no such address")


# --- how much


BODIES = [
    (b"", 400),
    (b"{", 400),
    (b"null", 400),
    (b"[1, 2]", 400),
    (b'"text"', 400),
    (b"\xff\xfe{}", 400),
    (b'{"model": "toy", "messages": ' + b"[" * 100_000, 400),
    (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, 400),
    (b'{"model": "toy", "messages": [], "n": 1' + b"0" * 5000 + b"}", 400),
    (b'{"model": "toy", "messages": [{"role": "user", "content": "x"}], "temperature": NaN}', 400),
    (b'{"model": "toy", "messages": [{"role": "user", "content": "x"}], "seed": 1e400}', 400),
    (b'{"model": "toy", "messages": [{"role": "user", "content": "\\ud800 What is 2 + 2?"}]}', 400),
    (b'{"model": "toy", "messages": [{"role": "user", "content": "x"}], "\\ud800\\u202e": 1}', 400),
    (b" " * 2_000_000, 413),
]


@pytest.mark.parametrize(("body", "status"), BODIES, ids=range(len(BODIES)))
def test_a_body_that_is_no_request_is_an_error_in_openais_shape(running: Running, body: bytes, status: int) -> None:
    answer = running.client.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code", "request_id"}


def test_a_body_without_a_length_is_counted_as_it_comes(running: Running) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(40):
            yield b" " * 50_000

    answer = running.client.post("/v1/chat/completions", content=pieces(), headers={"content-type": "application/json"})
    assert answer.status_code == 413


def test_a_body_that_does_not_come_is_waited_for_so_long_and_no_longer() -> None:
    with serving(limits={"body_s": 0.2}) as running, raw(running) as line:
        line.sendall(head(running, 100) + b'{"model"')
        assert b"408" in line.recv(4096).split(b"\r\n")[0]


def test_a_client_has_so_many_places_and_takes_none_of_anothers() -> None:
    with serving(ScriptedSource(pause_s=0.2), keys=[KEY, OTHER], limits={"per_client": 2, "in_all": 3}) as running:
        ask = lambda key, **fields: running.client.post(
            "/v1/chat/completions", json=asking(CORRECT_FIRST, **fields), headers=bearer(key)
        )
        threads = [threading.Thread(target=ask, args=(KEY,), kwargs={"n": 2})]
        threads[0].start()
        assert until(lambda: running.server.places.taken["key 1"] == 2)
        refused = ask(KEY)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert ask(OTHER, n=2).status_code == 429  # in all
        assert ask(OTHER, stream=True).status_code == 200
        threads[0].join()
        assert ask(KEY).status_code == 200
        assert running.server.places.taken == {}


def test_messages_are_counted(running: Running) -> None:
    one = {"role": "user", "content": "What is 2 + 2?"}
    many = running.chat("", messages=[one] * 257).json()["error"]
    assert "at most 256" in many["message"]
    assert "200000 characters" in running.chat("x" * 200_001).json()["error"]["message"]


# --- how long, and who leaves


def raw(running: Running) -> socket.socket:
    line = socket.create_connection(("127.0.0.1", int(running.url.rpartition(":")[2])), timeout=10)
    return line


def head(running: Running, length: int) -> bytes:
    host = running.url.removeprefix("http://")
    lines = ["POST /v1/chat/completions HTTP/1.1", f"Host: {host}", "Content-Type: application/json"]
    return ("\r\n".join([*lines, f"Content-Length: {length}"]) + "\r\n\r\n").encode()


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("fields", [{}, {"n": 3}])
def test_work_ends_when_the_client_leaves(streamed: bool, fields: dict[str, Any]) -> None:
    source = ScriptedSource(pause_s=0.2)
    with serving(source) as running:
        body = json.dumps(asking(CORRECT_FIRST, stream=streamed, **fields)).encode()
        with raw(running) as line:
            line.sendall(head(running, len(body)) + body)
            assert until(lambda: source.open == fields.get("n", 1))
            if streamed:
                assert line.recv(100)
        assert until(lambda: source.open == 0 and not running.server.places.taken, 1.0)
        assert source.whole == 0
        assert until(lambda: "clients_left_total 1.0" in running.client.get("/metrics").text)


def test_nothing_is_left_of_clients_that_vanish_at_random_points() -> None:
    chance = random.Random(0)
    source = ScriptedSource(pause_s=0.01)
    with serving(source) as running:
        running.chat(CORRECT_FIRST)
        assert until(lambda: not running.server.places.taken)
        tasks = running.tasks()
        lines = []
        for _ in range(120):
            body = json.dumps(asking(WRONG_FIRST, stream=chance.random() < 0.7)).encode()
            whole = head(running, len(body)) + body
            line = raw(running)
            line.sendall(whole[: chance.randrange(1, 2 * len(whole))])  # half of them before the request is whole
            lines.append(line)
            if chance.random() < 0.5:
                lines.pop(chance.randrange(len(lines))).close()
        for line in lines:
            line.close()
        assert until(lambda: not running.server.places.taken and source.open == 0)
        assert until(lambda: running.tasks() == tasks)
        assert until(lambda: len(running.listener.server_state.connections) == 1)
        assert running.chat(CORRECT_FIRST).status_code == 200


def test_memory_tasks_and_files_return_to_where_they_were() -> None:
    """Clients that vanish and clients that read late, in three waves: what the first leaves, the others do not add to.

    What one request leaves would be some hundred objects in each wave.
    """
    source = ScriptedSource(pause_s=0.005)
    body = json.dumps(asking(WRONG_FIRST, stream=True)).encode()

    def wave(running: Running) -> tuple[int, int, int]:
        lines = [raw(running) for _ in range(40)]
        for line in lines:
            line.sendall(head(running, len(body)) + body)
        assert until(lambda: running.server.places.taken.total() > 0)
        for line in lines[::2]:
            line.close()
        for line in lines[1::2]:
            while b"[DONE]" not in line.recv(1 << 16):
                time.sleep(0.001)
            line.close()
        assert until(lambda: not running.server.places.taken and source.open == 0, 20)
        assert until(lambda: not running.listener.server_state.connections, 20)
        assert until(lambda: running.tasks() == tasks, 20)
        source.seen.clear()
        gc.collect()
        return running.tasks(), len(os.listdir("/proc/self/fd")), len(gc.get_objects())

    with serving(source) as running:
        running.client.get("/health")
        running.client.close()
        assert until(lambda: not running.listener.server_state.connections)
        tasks = running.tasks()
        first, _, last = [wave(running) for _ in range(3)]
    assert last[0] == first[0]
    assert last[1] <= first[1], "open files"
    assert last[2] - first[2] < 40 * 2, "more than two waves of one object a client"


def test_a_client_that_does_not_read_is_left() -> None:
    source = ScriptedSource(repeat=10_000, padding="x" * 10_000)
    with serving(source, limits={"unread_s": 0.5}) as running:
        body = json.dumps(asking(CORRECT_FIRST, stream=True)).encode()
        with socket.socket() as line:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            line.connect(("127.0.0.1", int(running.url.rpartition(":")[2])))
            line.sendall(head(running, len(body)) + body)
            assert until(lambda: source.open == 1)
            assert until(lambda: source.open == 0, 10.0)
            assert until(lambda: not running.listener.server_state.connections, 10.0)
        assert source.whole == 0
        assert running.server.places.taken == {}


@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_that_takes_too_long_ends(streamed: bool) -> None:
    source = ScriptedSource(pause_s=0.15)
    with serving(source, limits={"request_s": 0.5}) as running:
        if streamed:
            events = running.stream(CORRECT_FIRST)
            assert joined(events, "reasoning")
            error, last = events[-2]["error"], events[-1]
            assert last == "[DONE]"
        else:
            answer = running.chat(CORRECT_FIRST)
            assert answer.status_code == 504
            error = answer.json()["error"]
        assert error["code"] == "timeout"
        assert "limits.request_s" in error["message"]
        assert until(lambda: source.open == 0)


SERVER = """
import sys
from tests.selfcorrect.serving.toy import ScriptedSource
from selfcorrect.serving import run
from selfcorrect.serving.settings import Limits, ServeRecipe
recipe = ServeRecipe(port=int(sys.argv[1]), name="toy", limits=Limits(grace_s=float(sys.argv[2])))
run.serve(recipe, lambda: ScriptedSource(pause_s=0.1))
"""


@pytest.mark.parametrize(("grace_s", "whole"), [(10.0, True), (0.3, False)])
@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_is_told_to_stop_ends_its_streams_in_order(told: int, grace_s: float, whole: bool) -> None:
    import httpx2

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(port), str(grace_s)], stderr=subprocess.PIPE, text=True
    )
    client = httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)

    def is_up() -> bool:
        try:
            return client.get("/health").status_code == 200
        except httpx2.TransportError:
            return False

    try:
        assert until(is_up, 30)
        with client.stream("POST", "/v1/chat/completions", json=asking(WRONG_FIRST, stream=True)) as answer:
            lines = answer.iter_lines()
            events = [next(lines)]
            process.send_signal(told)
            time.sleep(0.2)
            with pytest.raises(httpx2.TransportError):  # nobody new is let in
                httpx2.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=asking(CORRECT_FIRST))
            events += [line for line in lines if line]
        assert events[-1] == "data: [DONE]"
        if whole:
            assert '"finish_reason": "stop"' in events[-2]
        else:
            assert json.loads(events[-2][6:])["error"]["code"] == "stopping"
        assert process.wait(15) == 0
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.wait()


# --- one clear message each


def said_by(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["serve", *words])
    assert ended.value.code == 1
    return " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_what_stops_a_server_before_it_listens(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, running: Running
) -> None:
    port = running.url.rpartition(":")[2]
    said = said_by(capsys, "--port", port)
    assert f"port {port} of 127.0.0.1 is taken; choose another with --port" in said
    assert "loading" not in said  # it is known before the model is loaded
    assert "is no address of this machine" in said_by(capsys, "--host", "203.0.113.7")
    assert "is no address of this machine" in said_by(capsys, "--host", "no such host")
    assert "cannot read the key file" in said_by(capsys, "--key-file", str(tmp_path / "none"))
    assert "no/such/model" in said_by(capsys, "./no/such/model", "--port", "0")
    assert 'did you mean "horizon"' in said_by(capsys, "loop.horison=3")
    for setting in ("loop.method=gold", "loop.stop=gold", "loop.stop=judge", "loop.method=judged"):
        said = said_by(capsys, setting, "--port", "0")
        assert "use `selfcorrect eval`" in said
        assert "loading" not in said
    assert "serve takes one model" in said_by(capsys, "a", "b")
    assert "limits.body_bytes" in said_by(capsys, "limits.body_bytes=0")
    assert "cors: expected origins" in said_by(capsys, "--cors", "*")
