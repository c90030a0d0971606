"""Every interleaving of a few actors on one document: the real transitions on a model world.

The transitions and the plan are the product's own. The drivers around them (apply, delete, collect)
are restated here a step at a time, one access to the registry or the index in each step. What the
world may do between any two steps:

- another actor goes on; reading a row and storing what was decided from it are two steps, and a
  compare-and-set that lost the race looks again;
- a tick: a lease lasts LEASE ticks, the grace GRACE. All times count from the present, so that a
  state does not depend on when it is reached, and no horizon is needed;
- a write lands, later than it was sent, but before the lease that it was sent under and the grace
  have passed: this is what the protocol assumes. Deletes may land at any later time;
- the index shows one more write of its log: readers see a prefix of it, at least up to a token that
  was waited for;
- an actor crashes (as often as the scenario allows) and its message comes back.

The lease of the message never ends here: what is proved does not rest on it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from common import transitions
from common.model import Applied, Desired, IdRange, Row, Status, expand
from common.pack import Pack
from tests.builders import KEY, desired, pack, tombstone
from webhook.search import QUERIES_AT_MOST
from workers.plan import Plan, plan_apply

LEASE, GRACE = 2, 1
NOW = 0.0
FOREVER = 99
LOST = -2
PLANS_AT_MOST = 2
TIMERS = transitions.Timers(
    stale_after_seconds=1000,
    attempt_lease_seconds=LEASE,
    collect_grace_seconds=GRACE,
    tombstone_retention_seconds=10_000,
)

Id = tuple[int, int]
Kept = tuple[Id | None, ...]
Write = tuple[Id, str]
"""An id and its chunk; the empty chunk deletes the id."""
RowNumber = int
"""Rows are kept once each and named by number: states must be small and quick to compare."""


class Actor(NamedTuple):
    """Where an actor stands and what it remembers; fields are reset once they mean nothing."""

    at: str
    plans: int = 0
    base: int = -1
    kept: Kept = ()
    own: Id = (0, 0)
    """Generation and count."""
    done: int = 0
    """Writes, deletes or changes so far."""
    lease: int = 0
    ids: tuple[Id, ...] = ()
    after: RowNumber = -1
    """What a compare-and-set is to store; LOST once another one has won the race."""
    look: str = ""
    then: str = ""
    shown: frozenset[Write] = frozenset()


class State(NamedTuple):
    row: RowNumber
    actors: tuple[Actor, ...]
    shown: frozenset[Write]
    log: tuple[Write, ...]
    """Taken by the index, not shown yet."""
    air: tuple[tuple[int, Write], ...]
    """Writes of crashed actors, and in how many ticks at most they land."""
    given: int
    """The highest generation that any attempt was given."""
    crashes: int


class ViolationError(AssertionError):
    """What is wrong, and the steps that lead there."""


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """`versions` holds each version's chunks, None for a delete; the first `accepted` of them are
    desired at the start, and an accept actor brings the others. `actors` are `(kind, version)`."""

    versions: tuple[str | None, ...]
    actors: tuple[tuple[str, int], ...]
    applied: int = 0
    accepted: int = 1
    crashes: int = 0
    redelivers: bool = True
    """The message of a crashed actor comes back; otherwise the sweeper wakes the document later."""
    plans: int = PLANS_AT_MOST
    lag: int = 1
    """Writes that the index has taken and does not show yet; none: what is taken is shown."""
    all_collect: bool = True
    """Attempts and deletes collect at their end; otherwise the sweeper alone does."""
    atomic: bool = False
    """Look and store in one step: fewer states, and no decision that is older than its write."""


@dataclass(frozen=True, kw_only=True)
class Guards:
    """The guards of the drivers, each to be taken away by a test."""

    waits_until_visible: bool = True
    keeps_its_lease: bool = True
    lease_counts_from_the_decision: bool = True
    """Not from when the answer to *begin* or to the extension came."""
    looks_again_after_extending: bool = True
    reads_again_when_moved: bool = True
    filters_by_manifest: bool = True


@dataclass
class Model:
    """`states` after `explore`: how many there are."""

    scenario: Scenario
    guards: Guards = field(default_factory=Guards)
    states: int = 0

    def __post_init__(self) -> None:
        self._rows: list[Row] = []
        self._numbers: dict[object, RowNumber] = {}
        self._later: dict[RowNumber, RowNumber] = {}
        self._packs = {
            version: pack(chunks, version=version)
            for version, chunks in enumerate(self.scenario.versions, start=1)
            if chunks is not None
        }
        self._ids: dict[RowNumber, tuple[Id, ...]] = {}
        self._sound: set[tuple[object, ...]] = set()
        self._settled: set[tuple[object, ...]] = set()
        self._decided: dict[tuple[object, ...], RowNumber | None] = {}

    # --- exploring

    def explore(self) -> int:
        """How many states there are. Raises ViolationError with the shortest way to the first."""
        start = self._start()
        came_from: dict[State, tuple[State, str] | None] = {start: None}
        waiting = deque([start])
        state, label = start, ""
        try:
            while waiting:
                state, label = waiting.popleft(), ""
                self._check(state)
                for label, following in self._steps(state):
                    if following not in came_from:
                        came_from[following] = (state, label)
                        waiting.append(following)
        except ViolationError as violation:
            told = "\n".join([*_way(state, came_from), f"{label}?"])
            raise ViolationError(f"{violation}, after:\n{told}") from None
        self.states = len(came_from)
        return self.states

    def _start(self) -> State:
        row, shown, given = self._accepted(None, 1), frozenset[Write](), 0
        for version in range(2, self.scenario.accepted + 1):
            row = self._accepted(row, version)
        if self.scenario.applied:
            made = self._packs[self.scenario.applied]
            base = transitions.base_of(row)
            begun, own = transitions.begin(row, len(made.chunks), NOW, TIMERS)
            assert own is not None
            applied = _applied(made, (own,))
            committed = transitions.commit(
                begun, base=base, applied=applied, own=own, now=NOW, timers=TIMERS
            )
            assert isinstance(committed, Row)
            row, given = committed, own.generation
            shown = frozenset(zip(expand([own]), (c.text for c in made.chunks), strict=True))
        actors = tuple(Actor(_FIRST[kind]) for kind, _ in self.scenario.actors)
        return State(self._number(row), actors, shown, (), (), given, self.scenario.crashes)

    def _accepted(self, row: Row | None, version: int) -> Row:
        decision = transitions.accept(row, KEY, self._change(version), NOW, TIMERS)
        assert decision.row is not None
        assert decision.version == version
        return decision.row

    def _change(self, version: int) -> Desired:
        chunks = self.scenario.versions[version - 1]
        changes = {"version": version, "accepted_at": NOW}
        return tombstone(**changes) if chunks is None else desired(chunks + str(version), **changes)

    def _steps(self, state: State) -> Iterator[tuple[str, State]]:
        for place, (kind, version) in enumerate(self.scenario.actors):
            name = f"{kind} {version}" if version else kind
            for following in self._act(state, place, kind, version):
                yield f"{name}: {state.actors[place].at}", following
            for following in self._crash(state, place, kind):
                yield f"{name} crashes at {state.actors[place].at}", following
        yield from self._world_steps(state)

    def _world_steps(self, state: State) -> Iterator[tuple[str, State]]:
        if state.log:
            shown = _written(state.shown, state.log[:1])
            yield f"the index shows {state.log[0]}", state._replace(shown=shown, log=state.log[1:])
        for number, (_, write) in enumerate(state.air):
            if self._takes(state):
                left = state.air[:number] + state.air[number + 1 :]
                yield f"{write} lands", self._taken(state._replace(air=left), write)
        if self._may_tick(state):
            yield "tick", self._tick(state)

    def _takes(self, state: State) -> bool:
        return len(state.log) < max(self.scenario.lag, 1)

    def _taken(self, state: State, write: Write) -> State:
        if self.scenario.lag == 0:
            return state._replace(shown=_written(state.shown, [write]))
        return state._replace(log=(*state.log, write))

    # --- time

    def _may_tick(self, state: State) -> bool:
        flying = any(a.at == "fly" and a.lease + GRACE <= 1 for a in state.actors)
        return not flying and all(ticks > 0 for ticks, _ in state.air)

    def _tick(self, state: State) -> State:
        return state._replace(
            row=self._aged(state.row),
            actors=tuple(self._older(actor) for actor in state.actors),
            air=tuple((t if t == FOREVER else t - 1, write) for t, write in state.air),
        )

    def _older(self, actor: Actor) -> Actor:
        if actor.after >= 0:
            actor = actor._replace(after=self._aged(actor.after))
        # While a write is under way, what is left of the grace counts below zero.
        least = -GRACE if actor.at == "fly" else 0
        return actor._replace(lease=max(actor.lease - 1, least)) if actor.lease > least else actor

    def _aged(self, number: RowNumber) -> RowNumber:
        if number not in self._later:
            row = self._rows[number]
            garbage = tuple(replace(e, not_before=max(e.not_before - 1, NOW)) for e in row.garbage)
            self._later[number] = self._number(replace(row, garbage=garbage, sweep_at=NOW))
        return self._later[number]

    def _number(self, row: Row) -> RowNumber:
        """The row without what the protocol does not decide by: revision, times for people."""
        if (row.garbage or row.behind) and row.sweep_at is None:
            raise ViolationError("the sweeper will never look at a row that has something open")
        garbage = tuple(sorted(row.garbage, key=lambda entry: entry.ids))
        applied = row.applied
        key = (
            row.desired.version,
            (applied.version, applied.manifest),
            row.next_generation,
            tuple((entry.ids, entry.state, entry.not_before) for entry in garbage),
            row.status,
        )
        if key not in self._numbers:
            self._numbers[key] = len(self._rows)
            plain = replace(applied, applied_at=NOW)
            self._rows.append(replace(row, garbage=garbage, applied=plain, revision=0))
        return self._numbers[key]

    # --- actors: each yields the states that its next step may lead to

    def _act(self, state: State, place: int, kind: str, version: int) -> Iterator[State]:
        actor = state.actors[place]
        step: Callable[..., State | None] | None = getattr(self, f"_at_{actor.at}", None)
        if step is not None:
            following = step(state, place, actor, version)
            if following is not None:
                yield self._restarted(following, place, kind)

    def _restarted(self, state: State, place: int, kind: str) -> State:
        """Sweepers never end."""
        if kind == "sweep" and state.actors[place].at == "end":
            return _moved(state, place, Actor("rest"))
        return state

    def _crash(self, state: State, place: int, kind: str) -> Iterator[State]:
        actor = state.actors[place]
        if state.crashes == 0 or actor.at in _NOTHING_TO_LOSE:
            return
        again = _FIRST[kind] if self.scenario.redelivers or kind == "sweep" else "end"
        gone = _moved(state, place, Actor(again))._replace(crashes=state.crashes - 1)
        if actor.at == "fly":
            yield gone._replace(air=(*gone.air, (actor.lease + GRACE - 1, self._next(actor, kind))))
            return
        yield gone
        if actor.at == "delete":
            yield gone._replace(air=(*gone.air, (FOREVER, (actor.ids[actor.done], ""))))

    def _next(self, actor: Actor, kind: str) -> Write:
        version = int(actor.then)
        new = [place for place, kept in enumerate(actor.kept) if kept is None]
        return (actor.own[0], actor.done), self._packs[version].chunks[new[actor.done]].text

    def _decide(self, name: str, number: RowNumber, *args: object) -> RowNumber | None:
        """The number of the row that a transition makes; None: it wants no write."""
        memo = (name, number, *args)
        if memo not in self._decided:
            row = getattr(self, f"_decide_{name}")(self._rows[number], *args)
            self._decided[memo] = None if row is None else self._number(row)
        return self._decided[memo]

    # --- accept

    def _at_accept(self, state: State, place: int, actor: Actor, version: int) -> State | None:
        coming = self.scenario.accepted + actor.done + 1
        if coming > len(self.scenario.versions):
            return None
        after = self._decide("accept", state.row, coming)
        assert after is not None
        return self._swap(state, place, actor, after, then="accept")

    def _decide_accept(self, row: Row, version: int) -> Row:
        return self._accepted(row, version)

    # --- apply

    def _at_wait(self, state: State, place: int, actor: Actor, version: int) -> State | None:
        """The message is there once its version was accepted."""
        if self._rows[state.row].desired.version < version:
            return None
        if version in self._packs:
            return self._at_plan(state, place, Actor("plan", self.scenario.plans), version)
        return self._at_hide(state, place, Actor("hide"), version)

    def _at_plan(self, state: State, place: int, actor: Actor, version: int) -> State:
        row = self._rows[state.row]
        if row.applied.version >= version:
            return _moved(state, place, Actor("collect"))
        if actor.plans == 0:
            return _moved(state, place, Actor("end"))
        base = self._packs[row.applied.version] if row.applied.manifest else None
        plan = plan_apply(self._packs[version], row.applied, base)
        planned = Actor("begin", actor.plans - 1, base=row.applied.version, kept=plan.kept)
        return _moved(state, place, planned)

    def _at_begin(self, state: State, place: int, actor: Actor, version: int) -> State:
        row = self._rows[state.row]
        if row.applied.version != actor.base:
            return _moved(state, place, Actor("plan", actor.plans))
        count = len(Plan(actor.kept).new)
        if count == 0:
            return _moved(state, place, actor._replace(at="commit"))
        after = self._decide("begin", state.row, count)
        assert after is not None
        begun = actor._replace(own=(row.next_generation, count), lease=LEASE)
        prompt = self.guards.lease_counts_from_the_decision
        return self._swap(state, place, begun, after, then="write" if prompt else "start")

    def _decide_begin(self, row: Row, count: int) -> Row:
        return transitions.begin(row, count, NOW, TIMERS)[0]

    def _at_start(self, state: State, place: int, actor: Actor, version: int) -> State:
        """The answer to *begin* has come, and the lease is counted from now on."""
        return _moved(state, place, actor._replace(at="write", lease=LEASE))

    def _at_write(self, state: State, place: int, actor: Actor, version: int) -> State | None:
        if actor.done == actor.own[1]:
            return self._at_commit(state, place, actor._replace(at="commit", lease=0), version)
        if actor.lease > LEASE / 2 or not self.guards.keeps_its_lease:
            return self._at_send(state, place, actor, version)
        after = self._decide("extend", state.row, actor.own)
        if after is None:
            return _moved(state, place, Actor("plan", actor.plans))
        then = "write" if self.guards.looks_again_after_extending else "send"
        return self._swap(state, place, actor._replace(lease=LEASE), after, then=then)

    def _decide_extend(self, row: Row, own: Id) -> Row | None:
        return transitions.extend_attempt(row, _range(own), NOW, TIMERS)

    def _at_send(self, state: State, place: int, actor: Actor, version: int) -> State:
        return _moved(state, place, actor._replace(at="fly", then=str(version)))

    def _at_fly(self, state: State, place: int, actor: Actor, version: int) -> State | None:
        """The write lands, and its answer comes."""
        if not self._takes(state):
            return None
        done = actor.done + 1
        last = done == actor.own[1]
        at, lease = ("commit", 0) if last else ("write", max(actor.lease, 0))
        landed = actor._replace(at=at, then="", done=done, lease=lease)
        write = self._next(actor, "apply")
        return _moved(self._taken(state, write), place, landed)

    def _at_commit(self, state: State, place: int, actor: Actor, version: int) -> State | None:
        """Not before the index shows what was written."""
        mine = any(generation == actor.own[0] and text for (generation, _), text in state.log)
        if mine and self.guards.waits_until_visible:
            return None
        after = self._decide("commit", state.row, version, actor.base, actor.kept, actor.own)
        if after is None:
            return _moved(state, place, Actor("plan", actor.plans))
        return self._swap(state, place, actor, after, then="collect")

    def _decide_commit(self, row: Row, version: int, base: int, kept: Kept, own: Id) -> Row | None:
        ids = _range(own) if own[1] else None
        doc_hash = self._packs[base].doc_hash if base in self._packs else ""
        verdict = transitions.commit(
            row,
            base=transitions.Base(base, doc_hash),
            applied=_applied(self._packs[version], Plan(kept).manifest(ids)),
            own=ids,
            now=NOW,
            timers=TIMERS,
        )
        return verdict if isinstance(verdict, Row) else None

    # --- delete

    def _at_hide(self, state: State, place: int, actor: Actor, version: int) -> State:
        after = self._decide("hide", state.row)
        if after is None:
            return _moved(state, place, Actor("collect"))
        return self._swap(state, place, actor, after, then="collect")

    def _decide_hide(self, row: Row) -> Row | None:
        return transitions.commit_tombstone(row, NOW, TIMERS)

    # --- collect

    def _at_rest(self, state: State, place: int, actor: Actor, version: int) -> State | None:
        """The sweeper looks at the row when there is something for it to do."""
        if self._decide("doom", state.row) is not None or self._collectable(state.row):
            return self._at_collect(state, place, actor, version)
        return None

    def _collectable(self, number: RowNumber) -> tuple[Id, ...]:
        if number not in self._ids:
            row = self._rows[number]
            self._ids[number] = tuple(expand(transitions.collectable(row, NOW)))
        return self._ids[number]

    def _at_collect(self, state: State, place: int, actor: Actor, version: int) -> State:
        after = self._decide("doom", state.row)
        if after is not None:
            return self._swap(state, place, Actor("collect"), after, then="take")
        return self._at_take(state, place, actor, version)

    def _decide_doom(self, row: Row) -> Row | None:
        return transitions.doom_expired(row, NOW, TIMERS)

    def _at_take(self, state: State, place: int, actor: Actor, version: int) -> State:
        ids = self._collectable(state.row)
        return _moved(state, place, Actor("delete", ids=ids) if ids else Actor("end"))

    def _at_delete(self, state: State, place: int, actor: Actor, version: int) -> State | None:
        if not self._takes(state):
            return None
        taken = self._taken(state, (actor.ids[actor.done], ""))
        done = actor.done + 1
        if done < len(actor.ids):
            return _moved(taken, place, actor._replace(done=done))
        return _moved(taken, place, Actor("forget", ids=actor.ids))

    def _at_forget(self, state: State, place: int, actor: Actor, version: int) -> State:
        after = self._decide("forget", state.row, actor.ids)
        if after is None:
            return _moved(state, place, Actor("end"))
        return self._swap(state, place, actor, after, then="end")

    def _decide_forget(self, row: Row, ids: tuple[Id, ...]) -> Row | None:
        ranges = [e.ids for e in row.garbage if set(expand([e.ids])) <= set(ids)]
        return transitions.forget(row, ranges, NOW, TIMERS)

    # --- compare-and-set

    def _swap(
        self, state: State, place: int, actor: Actor, after: RowNumber, *, then: str
    ) -> State:
        """Decided from the row as it is; to be stored in the next step, if nobody was faster."""
        swap = actor._replace(at="swap", after=after, look=actor.at, then=then)
        if self.scenario.atomic:
            return self._at_swap(state, place, swap, 0)
        return _moved(state, place, swap)

    def _at_swap(self, state: State, place: int, actor: Actor, version: int) -> State:
        if actor.after == LOST:
            again = actor._replace(at=actor.look, after=-1, look="", then="", lease=0)
            return _moved(state, place, again)
        before, after = self._rows[state.row], self._rows[actor.after]
        if after.applied.version < before.applied.version:
            raise ViolationError("the applied version went back")
        given = state.given
        if actor.look == "begin":
            if actor.own[0] <= given:
                raise ViolationError(f"generation {actor.own[0]} was given to two attempts")
            given = actor.own[0]
        rivals = tuple(a._replace(after=LOST) if a.after >= 0 else a for a in state.actors)
        stored = state._replace(row=actor.after, given=given, actors=rivals)
        match actor.then:
            case "take":
                return self._at_take(stored, place, actor, version)
            case "accept":
                return _moved(stored, place, Actor("accept", done=actor.done + 1))
            case "collect" if not self.scenario.all_collect:
                return _moved(stored, place, Actor("end"))
            case "collect" | "end":
                return _moved(stored, place, Actor(actor.then))
        went_on = actor._replace(at=actor.then, after=-1, look="", then="")
        return _moved(stored, place, went_on)

    # --- a reader

    def _at_query(self, state: State, place: int, actor: Actor, version: int) -> State:
        applied = self._rows[state.row].applied.version
        asked = Actor("look", base=applied, done=actor.done, shown=state.shown)
        return _moved(state, place, asked)

    def _at_look(self, state: State, place: int, actor: Actor, version: int) -> State:
        applied = self._rows[state.row].applied
        named = set(expand(applied.manifest))
        hits = {write for write in actor.shown if write[0] in named}
        if not self.guards.filters_by_manifest:
            hits = set(actor.shown)
        if not hits <= self._records(applied):
            raise ViolationError("a reader saw records of no one version")
        moved = applied.version != actor.base and self.guards.reads_again_when_moved
        if moved and actor.done < QUERIES_AT_MOST - 1:
            return _moved(state, place, Actor("query", done=actor.done + 1))
        if not moved and hits != self._records(applied):
            raise ViolationError("a reader saw a part of a version")
        return _moved(state, place, Actor("end"))

    # --- what must hold

    def _check(self, state: State) -> None:
        memo = (state.row, state.shown, state.log)
        if memo not in self._sound:
            self._check_index(self._rows[state.row], state)
            self._sound.add(memo)
        if all(actor.at in _NOTHING_TO_LOSE for actor in state.actors):
            self._check_end(state)

    def _check_index(self, row: Row, state: State) -> None:
        if not self._records(row.applied) <= state.shown:
            raise ViolationError("the index does not show what the manifest names")
        named = transitions.named_ids(row)
        if any(record_id not in named for record_id, _ in _written(state.shown, state.log)):
            raise ViolationError("the index holds a record that its row does not name")

    def _records(self, applied: Applied) -> set[Write]:
        if not applied.manifest:
            return set()
        chunks = self._packs[applied.version].chunks
        return set(zip(expand(applied.manifest), (c.text for c in chunks), strict=True))

    def _check_end(self, state: State) -> None:
        """Let everything run, expire and be collected: the index is what was desired last."""
        landed = tuple(write for _, write in state.air)
        if any(text for _, text in landed):
            return  # Not the end: a write is still to land, and then this is looked at again.
        shown = _written(state.shown, (*state.log, *landed))
        memo = (state.row, shown)
        if memo in self._settled:
            return
        self._settled.add(memo)
        end = self._run_alone(state._replace(shown=shown, log=(), air=(), crashes=0))
        row = self._rows[end.row]
        done = Status.DELETED if row.desired.tombstone else Status.COMPLETED
        if row.behind or row.status is not done:
            raise ViolationError("applied does not become desired")
        if row.garbage:
            raise ViolationError("garbage stays")
        if end.shown != self._records(row.applied):
            raise ViolationError("the index does not become the manifest")

    def _run_alone(self, state: State) -> State:
        for _ in range(LEASE + GRACE + 2):
            row = self._rows[state.row]
            if row.behind:
                state = self._run(state, "wait", row.desired.version)
            state = self._tick(self._run(state, "collect", 0))
        return state

    def _run(self, state: State, at: str, version: int) -> State:
        """One actor to its end, with nobody else there and an index that shows everything."""
        state = state._replace(actors=(Actor(at),))
        while state.actors[0].at != "end":
            following = next(self._act(state, 0, "", version), None)
            if following is None:
                raise ViolationError(f"nothing goes on after {state.actors[0].at}")
            shown = _written(following.shown, following.log)
            state = following._replace(shown=shown, log=())
        return state


_FIRST = {"apply": "wait", "delete": "wait", "sweep": "rest", "accept": "accept", "read": "query"}
_NOTHING_TO_LOSE = frozenset({"wait", "rest", "accept", "query", "end"})


def _moved(state: State, place: int, actor: Actor) -> State:
    actors = state.actors
    return state._replace(actors=(*actors[:place], actor, *actors[place + 1 :]))


def _written(shown: frozenset[Write], log: Iterable[Write]) -> frozenset[Write]:
    records = dict(shown)
    for record_id, text in log:
        records.pop(record_id, None)
        if text:
            records[record_id] = text
    return frozenset(records.items())


def _applied(made: Pack, manifest: tuple[IdRange, ...]) -> Applied:
    return Applied(
        version=made.version,
        doc_hash=made.doc_hash,
        metadata_hash=made.metadata_hash,
        embedding_profile=made.embedding_profile,
        manifest=manifest,
        chunk_count=len(made.chunks),
    )


def _range(own: Id) -> IdRange:
    return IdRange(own[0], 0, own[1] - 1)


def _way(state: State, came_from: Mapping[State, tuple[State, str] | None]) -> list[str]:
    way: list[str] = []
    step = came_from[state]
    while step is not None:
        state, label = step
        way.append(label)
        step = came_from[state]
    return way[::-1]
