"""What there is at which address."""

import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tpi_mpi.common.errors import say
from tpi_mpi.common.units import show_seconds
from tpi_mpi.serving.accounts import Accounts
from tpi_mpi.serving.desk import Desk
from tpi_mpi.serving.http.access import Access
from tpi_mpi.serving.http.bodies import Bodies, Body
from tpi_mpi.serving.http.exchange import Exchange, refused
from tpi_mpi.serving.http.metrics import Metrics
from tpi_mpi.serving.http.service import Service
from tpi_mpi.serving.page.policy import content_security_policy
from tpi_mpi.serving.protocol.chat import ChatBody
from tpi_mpi.serving.protocol.completions import CompletionBody
from tpi_mpi.serving.protocol.order import Order
from tpi_mpi.serving.protocol.tokenization import TokenizeBody
from tpi_mpi.serving.refusal import Refusal
from tpi_mpi.serving.supervisor import Status, Supervisor

_PAGE = Path(__file__).parent.parent / "page" / "index.html"


class Addresses:
    """The handlers of all addresses, and what they need."""

    def __init__(self, service: Service, desk: Desk, supervisor: Supervisor, accounts: Accounts, logs_prompts: bool):
        self._service, self._desk, self._supervisor, self._accounts = service, desk, supervisor, accounts
        self._metrics = Metrics(desk, supervisor, accounts)
        self._bodies, self._logs_prompts = Bodies(), logs_prompts
        self._began, self._created = time.monotonic(), int(time.time())
        self._html = _PAGE.read_text(encoding="utf-8")
        self._policy = content_security_policy(self._html)

    def routes(self) -> list[Route]:
        return [
            Route("/", self.page),
            Route("/health", self.health),
            Route("/machines", self.machines),
            Route("/metrics", self.metrics),
            Route("/tokenize", self.tokenize, methods=["POST"]),
            Route("/v1/models", self.models),
            Route("/v1/models/{model:path}", self.model),
            Route("/v1/completions", self.completions, methods=["POST"]),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
        ]

    async def page(self, request: Request) -> Response:
        headers = {"Content-Security-Policy": self._policy, "X-Content-Type-Options": "nosniff"}
        headers |= {"Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}
        return Response(self._html, media_type="text/html", headers=headers)

    async def health(self, request: Request) -> Response:
        status, detail = self._supervisor.status, self._supervisor.detail
        ready = status is Status.READY
        return JSONResponse({"status": status.value, "detail": detail or None}, 200 if ready else 503)

    async def machines(self, request: Request) -> Response:
        accounts, ready = self._accounts, self._accounts.ready or {}
        settings = ready.get("settings", {})
        own = {
            "model": self._service.model,
            "status": self._supervisor.status.value,
            "detail": self._supervisor.detail or None,
            "restarts": self._supervisor.restarts,
            "uptime_s": time.monotonic() - self._began,
            "load_s": ready.get("load_s"),
            "running": len(self._desk.running),
            "waiting": len(self._desk.waiting),
            "sequences": settings.get("sequences"),
            "longest": ready.get("longest"),
            "settings": settings,
        }
        heard = {"sweep": accounts.sweep(), "rates": accounts.rates(), "totals": accounts.totals()}
        return JSONResponse({**own, **heard, "ranks": accounts.ranks()}, headers={"Cache-Control": "no-store"})

    async def metrics(self, request: Request) -> Response:
        return Response(self._metrics.text(), media_type=CONTENT_TYPE_LATEST)

    async def tokenize(self, request: Request) -> Response:
        body = await self._bodies.received(request, TokenizeBody)
        ids = await self._service.tokens(body)
        return JSONResponse({"count": len(ids), "max_model_len": self._service.longest, "tokens": ids})

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        self._service.check_model(request.path_params["model"])
        return JSONResponse(self._model())

    def _model(self) -> dict:
        own = {"id": self._service.model, "object": "model", "created": self._created, "owned_by": "tpi_mpi"}
        return own | {"max_model_len": self._service.longest}

    async def completions(self, request: Request) -> Response:
        return await self._exchange(request, CompletionBody, self._service.completions)

    async def chat(self, request: Request) -> Response:
        return await self._exchange(request, ChatBody, self._service.chat)

    async def _exchange(
        self, request: Request, kind: type[Body], settle: Callable[[Body], Awaitable[Order]]
    ) -> Exchange:
        path = request.url.path
        try:
            body = await self._bodies.received(request, kind)
            if self._logs_prompts:
                say(f"{path}: {body.asked()!r}")
            return Exchange(self._desk, await settle(body), lambda exchange: self._ended(path, exchange))
        except Refusal as refusal:
            self._metrics.refused(refusal.status)
            say(f"{path} {refusal.status}: {refusal if self._logs_prompts else refusal.kind}")
            raise

    def _ended(self, path: str, exchange: Exchange) -> None:
        now, usage = time.monotonic(), exchange.order.usage()
        self._metrics.ended(exchange, now)
        first = f", the first after {show_seconds(exchange.first - exchange.began)}" if exchange.first else ""
        new = f"{usage['completion_tokens']} new ones in {show_seconds(now - exchange.began)}{first}"
        say(f"{path} {exchange.status}: {usage['prompt_tokens']} prompt tokens, {new}")


def _respond(refusal_of: Callable[[Exception], Refusal]) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def respond(request: Request, error: Exception) -> Response:
        return refused(refusal_of(error))

    return respond


def _of_http(error: HTTPException) -> Refusal:
    what = {404: "there is nothing at this address", 405: "this address is asked with another method"}
    return Refusal(error.status_code, what.get(error.status_code, error.detail))


def _of_bug(error: Exception) -> Refusal:
    return Refusal(500, f"the server has a mistake ({type(error).__name__}); its log has more", "server_error")


def application(addresses: Addresses, keys: list[str], local: bool, cors: tuple[str, ...]) -> Starlette:
    """The whole application.

    keys: of clients. local: whether only this machine can reach the server. cors: origins of pages that may use it.
    """
    middleware = [Middleware(Access, keys=keys, local=local)]
    if cors:
        allowed = {"allow_origins": list(cors), "allow_methods": ["GET", "POST"], "allow_headers": ["*"]}
        middleware.insert(0, Middleware(CORSMiddleware, **allowed))
    mistakes = {Refusal: _respond(lambda error: error), HTTPException: _respond(_of_http), Exception: _respond(_of_bug)}
    return Starlette(routes=addresses.routes(), middleware=middleware, exception_handlers=mistakes)
