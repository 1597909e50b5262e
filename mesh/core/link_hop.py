"""The peer hop: what other agents say.

Until a link is open only its handshake may come by it. Then whatever comes proves that the peer is alive, and goes to
the half of the node that it is for.
"""

from collections.abc import Callable
from typing import Any

from mesh.core import notes
from mesh.core.answering import Answering
from mesh.core.calling import Calling
from mesh.core.codec import decode, weight
from mesh.core.context import Act, Carry, Context
from mesh.core.effects import Level
from mesh.core.floors import Floors
from mesh.core.link import Link, Phase, stay
from mesh.core.peers import Refused
from mesh.core.probing import Probing
from mesh.core.records import (
    Answer,
    Ask,
    Cancel,
    Chunk,
    ChunkAck,
    Credit,
    DialBack,
    DialledBack,
    Failure,
    Floor,
    FloorAsk,
    GiveBack,
    Goodbye,
    Hello,
    Keep,
    Ping,
    Pong,
    Query,
    Receipt,
    Record,
    Refuse,
    RefuseReason,
    Reply,
    Report,
    Request,
    Settled,
    Status,
    Stay,
    Welcome,
)
from mesh.core.recovery import Recovery
from mesh.core.serving import Serving
from mesh.core.viewing import Viewing
from mesh.errors import ProtocolError
from mesh.types import node_id_problem

__all__ = ["LinkHop"]

_ESTABLISHED = (Phase.OPEN, Phase.LEAVING)


class LinkHop:
    """The connections of other agents."""

    def __init__(
        self,
        context: Context,
        calling: Calling,
        recovery: Recovery,
        serving: Serving,
        probing: Probing,
        viewing: Viewing,
        act: Act,
        change: Carry,
    ) -> None:
        self.context = context
        self.state = context.state
        self.options = context.options
        self.calling = calling
        self.recovery = recovery
        self.serving = serving
        self.probing = probing
        self.viewing = viewing
        self.act = act
        self.change = change
        self.floors = Floors(context)
        self.answering = Answering(context, serving)
        self.verbs: dict[type, Callable[[Link, Any, float], None]] = {
            Request: self._request,
            Reply: self._reply,
            Failure: self._failure,
            Settled: self._settled,
            Chunk: self._chunk,
            ChunkAck: self._chunk_ack,
            GiveBack: self._give_back,
            Receipt: self._receipt,
            Cancel: self._cancel,
            Credit: self._credit,
            Ask: self._ask,
            Answer: self._answer,
            Floor: self._floor,
            FloorAsk: self._floor_ask,
            Keep: self._keep,
            Ping: self._ping,
            Pong: self._pong,
            Goodbye: self._goodbye,
            Stay: self._stay,
            DialBack: self._dial_back,
            DialledBack: self._dialled_back,
            Refuse: self._refuse,
            Query: self.viewing.asked,
            Report: self.viewing.told,
        }

    def data(self, conn: int, data: bytes | memoryview, now: float) -> None:
        """One message arrived on a link."""
        link = self.state.peers.links.get(conn)
        if link is None:
            self.probing.data(conn, data)
            return
        link.bytes_in += len(data)
        try:
            batch = decode(data)
            if batch.counter != link.counter_in:
                raise ProtocolError(f"batch {batch.counter} came where {link.counter_in} was due")
            link.counter_in += 1
            link.records_in += len(batch.records)
            if link.phase in _ESTABLISHED:
                self.state.peers.heard(link, now)
            verbs = self.verbs
            for record in batch.records:
                verb = verbs.get(type(record)) if link.phase in _ESTABLISHED else None
                if verb is not None:
                    verb(link, record, now)
                else:
                    self._greeting(link, record, now)
        except (ProtocolError, ValueError) as error:
            self.context.note(notes.LINK_MALFORMED, Level.WARNING, peer=link.peer, conn=conn, why=str(error)[:500])
            self.change(self.state.peers.lost(conn, f"broke the protocol: {error}"[:500], now), now)

    def _greeting(self, link: Link, record: Record, now: float) -> None:
        """Take what comes before a link is open, or should not come."""
        if link.phase in _ESTABLISHED:
            raise ProtocolError(f"a peer may not send {type(record).__name__} on an open link")
        if link.phase is Phase.UNPROVEN and isinstance(record, Hello):
            problem = node_id_problem(record.node)
            if problem is not None:
                raise ProtocolError(problem)
            admitted = self.state.pool.has_room(record.node, self.options.pool)
            changes = self.state.peers.hello(link, record, admitted, now)
            self.change(changes, now)
            if any(isinstance(c, Refused) and c.refuse.reason == RefuseReason.BUSY for c in changes):
                self.act(self.state.pool.make_room(), now)
        elif link.phase is Phase.GREETING and isinstance(record, Welcome):
            self.change(self.state.peers.welcome(link, record, now), now)
        elif link.phase is Phase.GREETING and isinstance(record, Refuse):
            self._refuse(link, record, now)
        elif link.phase is not Phase.CLOSED:
            raise ProtocolError(f"{type(record).__name__} came while the link was {link.phase.name}")

    def _dial_back(self, link: Link, record: DialBack, now: float) -> None:
        self.probing.asked(link)

    def _dialled_back(self, link: Link, record: DialledBack, now: float) -> None:
        self.probing.dialled_back(link, record)

    def _refuse(self, link: Link, refuse: Refuse, now: float) -> None:
        self.change(self.state.peers.refused(link, refuse, now), now)

    def _request(self, link: Link, request: Request, now: float) -> None:
        if not request.size:
            self.serving.offer(link.peer, request, link, now)
        elif not link.chunker.announced(request):
            self._too_large(link, request)

    def _too_large(self, link: Link, request: Request) -> None:
        """Give back a request whose announced body is over the limit; its chunks will be refused."""
        text = f"a body of {request.size} bytes is over body_bytes_max = {self.options.link.body_bytes_max}"
        self._not_coming(link, request)
        id = (request.node, request.session, request.seq)
        self.state.peers.say(link, GiveBack(*id, request.dispatch, int(Status.REJECTED), text, "body_bytes_max"))

    def _reply(self, link: Link, reply: Reply, now: float) -> None:
        if not reply.size:
            self.calling.reply(reply, now)
        elif not link.chunker.announced(reply):
            self.calling.reply(self.context.too_large(reply), now)

    def _failure(self, link: Link, failure: Failure, now: float) -> None:
        self.calling.reply(failure, now)

    def _settled(self, link: Link, settled: Settled, now: float) -> None:
        self.calling.settled(settled, now)

    def _chunk(self, link: Link, chunk: Chunk, now: float) -> None:
        whole, ack = link.chunker.chunk(chunk)
        self.state.peers.say(link, ack)
        if isinstance(whole, Request):
            self.serving.offer(link.peer, whole, link, now)
        elif whole is not None:
            self.calling.reply(whole, now)

    def _chunk_ack(self, link: Link, ack: ChunkAck, now: float) -> None:
        for chunk in link.chunker.acked(ack):
            self.state.peers.say(link, chunk)

    def _give_back(self, link: Link, record: GiveBack, now: float) -> None:
        self.act(self.recovery.give_back(link.peer, record, now), now)

    def _receipt(self, link: Link, receipt: Receipt, now: float) -> None:
        self.calling.receipt(link.peer, receipt, now)

    def _cancel(self, link: Link, cancel: Cancel, now: float) -> None:
        withdrawn = link.chunker.withdraw(cancel.node, cancel.session, cancel.seq) if link.chunker.incoming else None
        if withdrawn is not None:
            self._not_coming(link, withdrawn)
        self.serving.cancel(link.peer, cancel, now)

    def _not_coming(self, link: Link, request: Request) -> None:
        """The body of an announced request is not taken: the room of its first chunk in the window is free."""
        link.take(link.chunker.chunk_bytes + weight(request, 0))
        self.state.peers.grant(link)

    def _credit(self, link: Link, credit: Credit, now: float) -> None:
        link.credit_records = max(link.credit_records, credit.records)
        link.credit_bytes = max(link.credit_bytes, credit.bytes)
        self.calling.sending.flush_queue(link.peer, now)

    def _ask(self, link: Link, ask: Ask, now: float) -> None:
        self.answering.ask(link.peer, ask, now)

    def _answer(self, link: Link, answer: Answer, now: float) -> None:
        self.act(self.recovery.answer(link.peer, answer, now), now)

    def _floor(self, link: Link, floor: Floor, now: float) -> None:
        self.floors.heard(link.peer, floor)

    def _floor_ask(self, link: Link, ask: FloorAsk, now: float) -> None:
        self.floors.ask(link.peer, ask)

    def _keep(self, link: Link, keep: Keep, now: float) -> None:
        link.keep_there = keep.persistent
        self.state.pool.slot(link.peer).persistent = link.persistent

    def _ping(self, link: Link, ping: Ping, now: float) -> None:
        self.state.peers.say(link, Pong(ping.stamp))

    def _pong(self, link: Link, pong: Pong, now: float) -> None:
        self.change(self.state.peers.pong(link, pong, now), now)

    def _goodbye(self, link: Link, goodbye: Goodbye, now: float) -> None:
        """The other end starts nothing new; while something of ours is open it stays, unless that is its last word."""
        if self.state.pool.slot(link.peer).leases and link.usable and not goodbye.final:
            self.state.peers.say(link, Stay())
            return
        self.state.peers.goodbye_heard(link, now, final=goodbye.final)
        self.state.pool.closing(link.peer)

    def _stay(self, link: Link, record: Stay, now: float) -> None:
        """The link is open again: what came to wait for the next one goes by this."""
        if stay(link, now):
            self.state.pool.stayed(link.peer, now)
            self.act(self.recovery.inquire(now), now)
            self.calling.sending.flush_queue(link.peer, now)
