"""What is no HTTP, and so comes to no route: it is answered with a problem like all else."""

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from market_spine.api.problems import MEDIA_TYPE, problem


class ProblemProtocol(H11Protocol):
    """HTTP/1.1 by h11, which, unlike the others, reads no endless headers."""

    def send_400_response(self, msg: str) -> None:
        """Answer what cannot be read as a request, and close the connection."""
        body = problem(400, msg, "").model_dump_json().encode()
        headers = {
            "Content-Type": MEDIA_TYPE,
            "Content-Length": str(len(body)),
            "Connection": "close",
        }
        answer = h11.Response(status_code=400, headers=[*headers.items()], reason="Bad Request")
        for event in (answer, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
