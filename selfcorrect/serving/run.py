"""`serve`: bind, load, listen, and end in order. Called by `selfcorrect serve`.

The port is bound before the model is loaded, so that a port that is taken is known at once; nobody is let in before the
model is there. At SIGTERM or Ctrl-C no new connection is taken; answers under way have ``limits.grace_s`` to become
whole, and what is not whole by then ends with an error event instead of a cut connection. A second Ctrl-C ends at once.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from selfcorrect.errors import InputError
from selfcorrect.printing import note
from selfcorrect.serving.app import Server, make_app
from selfcorrect.serving.keys import read_keys
from selfcorrect.serving.settings import ServeRecipe
from selfcorrect.serving.sources import Source

AFTER_GRACE_S = 5.0
"""How long the error events at the end may take to be read."""


def serve(recipe: ServeRecipe, open_source: Callable[[], Source]) -> None:
    """Serve until a signal. Before anything is loaded, InputError for a port or a key file that cannot be had."""
    keys = read_keys(recipe.key_file, recipe.key_env)
    with (
        bound(recipe.host, recipe.port, recipe.limits.unread_s) as listening,
        asyncio.Runner(loop_factory=loop_factory()) as runner,
    ):
        source = open_source()
        try:
            server = Server(source, recipe.name or runner.run(source.meet()), recipe, keys)
            listener = Listener(server)
            _say_where(server, listening)
            listening.listen(2048)
            runner.run(listener.serve(sockets=[listening]))
        finally:
            runner.run(source.close())


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes event loops: uvloop's, which comes with the extra; None, for asyncio's, where it is not."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return None
    made: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return made


class Listener(uvicorn.Server):
    """uvicorn's server, which ends answers under way in their own shape when it must stop."""

    def __init__(self, server: Server) -> None:
        config = uvicorn.Config(
            make_app(server),
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            timeout_graceful_shutdown=int(server.recipe.limits.grace_s + AFTER_GRACE_S),
        )
        super().__init__(config)
        self._server = server

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for answers under way; after the grace they end with an error."""
        if self._server.places.taken:
            note(f"stopping: {self._server.places.taken.total()} answers under way")
        end = asyncio.get_running_loop().call_later(self._server.recipe.limits.grace_s, self._server.under_way.end)
        try:
            await super().shutdown(sockets)
        finally:
            end.cancel()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop at the first signal, at once at the second one."""
        self.force_exit = self.should_exit
        self.should_exit = True


def bound(host: str, port: int, unread_s: float) -> socket.socket:
    """Return a socket that is bound; raises InputError, with what to do, where it cannot be."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise InputError(f"host: {host!r} is no address of this machine ({error.strerror})") from error
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # a client that reads nothing holds a connection no longer than this
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(unread_s * 1000))
    try:
        listening.bind(address)
    except OSError as error:
        listening.close()
        what = {
            errno.EADDRINUSE: f"port {port} of {host} is taken; choose another with --port, or 0 for one that is free",
            errno.EACCES: f"port {port} needs more rights than this user has; choose one above 1023 with --port",
            errno.EADDRNOTAVAIL: f"{host} is no address of this machine; 127.0.0.1 is this machine alone, 0.0.0.0 all",
        }
        raise InputError(
            what.get(error.errno or 0, f"cannot listen on {host} port {port}: {error.strerror}")
        ) from error
    return listening


def _say_where(server: Server, listening: socket.socket) -> None:
    recipe, port = server.recipe, listening.getsockname()[1]
    host = f"[{recipe.host}]" if ":" in recipe.host else recipe.host
    shown = "127.0.0.1" if recipe.host in ("0.0.0.0", "::") else host
    note(
        f"{server.name} and {server.name}-first at http://{shown}:{port}/v1"
        + (" and a page at /" if recipe.page else "")
    )
    note("API key: " + ("asked for" if server.keys else "none is asked for"))
    if not recipe.is_local and not server.keys:
        note(
            f"{recipe.host} can be reached from other machines and no API key is set: whoever reaches port {port} can "
            f"use the model; set key_file=… or {recipe.key_env}",
            style="yellow",
        )
