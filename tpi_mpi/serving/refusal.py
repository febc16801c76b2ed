"""What a client is told when its request is not answered."""

from tpi_mpi.common.errors import TooLong, UserError


class Refusal(Exception):
    """Why a request is not answered, or no further: an HTTP status, and a sentence.

    kind, parameter, code: as in the errors of OpenAI's protocol; the code is the status where it has none.
    retry_after: seconds until another try may be worth it.
    """

    def __init__(
        self,
        status: int,
        sentence: str,
        kind: str = "invalid_request_error",
        parameter: str | None = None,
        retry_after: int | None = None,
        code: str | None = None,
    ):
        super().__init__(sentence)
        self.status, self.kind, self.parameter, self.retry_after = status, kind, parameter, retry_after
        self.code = code or status

    @classmethod
    def of(cls, error: UserError, parameter: str | None = None) -> "Refusal":
        """For a mistake of the client's. Some shorten a conversation that is told to be too long."""
        code = "context_length_exceeded" if isinstance(error, TooLong) else None
        return cls(400, str(error), parameter=parameter, code=code)

    @classmethod
    def unavailable(cls, sentence: str, retry_after: int | None = None) -> "Refusal":
        """For a server that cannot answer now."""
        return cls(503, sentence, "service_unavailable", retry_after=retry_after)

    def to_json(self) -> dict:
        """The error, as clients of OpenAI's protocol expect it."""
        error = {"message": str(self), "type": self.kind, "param": self.parameter, "code": self.code}
        return {"error": error}
