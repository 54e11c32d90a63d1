"""`Connection`: requests to one server, repeated where that is safe, its problems as our exceptions."""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import httpx2

from autotune.errors import AutotuneError, BadInput, MachineFault, UserError
from autotune.problems import TYPES

PAUSES_S = (0.2, 0.5, 1.0, 2.0, 4.0)
"""Before each further try."""
CONNECT_S = 10.0
SILENCE_S = 60.0
"""A stream of events that says nothing for so long is dead: the server pings four times as often."""
PASSING = (502, 503, 504)
"""What a server, or a proxy before it, answers while it or its database is restarted."""
NEVER_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
HOPELESS = (httpx2.UnsupportedProtocol, httpx2.LocalProtocolError, httpx2.SSEError)
PRINTABLE = re.compile(r"[!-~]{1,512}")


class Connection:
    """All raise UserError for what the server refuses, MachineFault where it cannot be reached."""

    def __init__(
        self,
        url: str,
        token: str | None,
        *,
        timeout_s: float,
        pauses_s: Sequence[float] = PAUSES_S,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        address = _address(url)
        self._shown = f"{address.scheme}://{address.netloc.decode()}"
        self._pauses_s = pauses_s
        headers = {} if token is None else {"Authorization": f"Bearer {printable(token, 'the token')}"}
        self._http = httpx2.Client(
            base_url=address,
            headers=headers,
            timeout=httpx2.Timeout(timeout_s, connect=min(CONNECT_S, timeout_s)),
            transport=transport,
        )

    def close(self) -> None:
        self._http.close()

    def get(self, path: str, params: Mapping[str, str | int] | None = None) -> Any:
        """The JSON that stands there."""
        return self._json(self._send("GET", path, may_repeat=True, params=params))

    def content(self, path: str) -> bytes:
        return self._send("GET", path, may_repeat=True).content

    def post(
        self,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        may_repeat: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """`may_repeat`: whether it does no harm where the server has had it already."""
        return self._json(self._send("POST", path, may_repeat=may_repeat, json=body, headers=headers))

    @contextmanager
    def stream(self, path: str, last_event_id: int) -> Iterator[httpx2.EventSource]:
        """Open a stream of events; raises httpx2.TransportError, now and later, where that is lost."""
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(last_event_id)}
        timeout = httpx2.Timeout(SILENCE_S, connect=CONNECT_S)
        with self._http.stream("GET", path, headers=headers, timeout=timeout) as response:
            if response.status_code in PASSING:
                raise httpx2.RemoteProtocolError(f"it answers {response.status_code}")
            if not response.is_success:
                response.read()
                raise self._refusal(response)
            yield httpx2.EventSource(response)

    def pause(self, failures: int, error: httpx2.RequestError) -> None:
        """Wait before trying again after so many failures; raises MachineFault where it is no use."""
        if isinstance(error, HOPELESS) or failures > len(self._pauses_s):
            raise self._unreachable(error) from error
        time.sleep(self._pauses_s[failures - 1])

    def _send(self, method: str, path: str, *, may_repeat: bool, **request: Any) -> httpx2.Response:
        for failures in range(1, len(self._pauses_s) + 2):
            try:
                response = self._http.request(method, path, **request)
            except httpx2.RequestError as error:
                if not may_repeat and not isinstance(error, NEVER_SENT):
                    raise self._unreachable(error) from error
                self.pause(failures, error)
                continue
            if response.is_success:
                return response
            if not may_repeat or response.status_code not in PASSING or failures > len(self._pauses_s):
                break
            time.sleep(self._pauses_s[failures - 1])
        raise self._refusal(response)

    def _json(self, response: httpx2.Response) -> Any:
        try:
            return response.json()
        except ValueError as error:
            raise MachineFault(self._not_ours(response)) from error

    def _refusal(self, response: httpx2.Response) -> AutotuneError:
        """The exception that a problem names."""
        try:
            problem = response.json()
        except ValueError:
            problem = None
        if not isinstance(problem, dict) or "detail" not in problem:
            return MachineFault(self._not_ours(response))
        others = [f"{one['field']}: {one['message']}" for one in problem.get("errors", ())[1:]]
        kind: type[AutotuneError] = UserError if response.is_client_error else MachineFault
        return TYPES.get(problem.get("type", ""), kind)("; ".join([str(problem["detail"]), *others]))

    def _not_ours(self, response: httpx2.Response) -> str:
        status = f"{response.status_code} {response.reason_phrase}".strip()
        return f"what answers at {self._shown} is no autotune ({status}); see that the address is right"

    def _unreachable(self, error: httpx2.RequestError) -> MachineFault:
        why = str(error) or type(error).__name__
        return MachineFault(
            f"the server at {self._shown} cannot be reached: {why}; see that `autotune serve` runs there"
        )


def printable(text: str, what: str) -> str:
    """`text` if it can stand in a header; BadInput quotes nothing, for it may be a secret."""
    if not PRINTABLE.fullmatch(text):
        raise BadInput(f"{what} must be 1 to 512 printable characters without spaces")
    return text


def _address(url: str) -> httpx2.URL:
    try:
        address = httpx2.URL(url)
    except httpx2.InvalidURL:
        address = httpx2.URL("")
    if address.scheme not in ("http", "https") or not address.host:
        raise BadInput(f"{url[:80]!r} is no address of a server; write it as http://host:8000")
    return address
