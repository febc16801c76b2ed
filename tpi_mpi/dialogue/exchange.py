"""Questions and their answers."""

from collections.abc import Callable
from contextlib import closing

from tpi_mpi.common.errors import TpiError, UserError
from tpi_mpi.dialogue.answer import Answer
from tpi_mpi.dialogue.conversation import Conversation
from tpi_mpi.dialogue.remote.client import Client
from tpi_mpi.dialogue.remote.events import Piece
from tpi_mpi.dialogue.settings import Settings


class Exchange:
    """A conversation with a server.

    explain: called if the server fails; raises TpiError if it knows better why.
    """

    def __init__(
        self, client: Client, conversation: Conversation, settings: Settings, explain: Callable[[], None] = lambda: None
    ):
        self.client, self.conversation, self.settings = client, conversation, settings
        self.model = client.model()
        self._explain = explain

    def answer(self, show: Callable[[Piece], None]) -> Answer:
        """Has the last question answered, and shows each piece of that as it comes.

        Whatever ends it, what there is of an answer stays in the conversation. Raises TpiError if the server fails.
        """
        answer = Answer()
        try:
            with closing(self.client.answer(self.model, self.conversation.messages(), self.settings.values)) as pieces:
                for piece in pieces:
                    answer.take(piece)
                    show(piece)
        except UserError:
            raise
        except TpiError:
            self._explain()
            raise
        finally:
            self.conversation.answer(answer.text)
        return answer
