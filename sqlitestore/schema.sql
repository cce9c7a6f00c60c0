-- Instants are nanoseconds since 1970, by the clock of the machine. The greatest integer is never.

-- One row.
create table outhook_meta (
    token    integer not null, -- the latest; the next is greater, whatever was pruned
    turn     integer not null, -- the subscriber that was served last
    delivery integer not null  -- the latest; its number is never used again
) strict;
insert into outhook_meta (token, turn, delivery) values (0, 0, 0);

-- Rows are never removed.
create table outhook_subscriber (
    id       integer primary key,
    name     text    not null unique,
    standing text,                      -- outhook.Standing as JSON; null: the zero one
    opens    integer not null default 0 -- from when its deliveries may be claimed; never: once the standing is changed
) strict;

-- What several deliveries of one Enqueue have in common.
create table outhook_payload (
    id           integer primary key, -- that of the first of them
    event        text not null, -- its deliveries are all of this event
    content_type text not null,
    header       text,
    body         blob
) strict;

-- What was sent. Written by Enqueue; of its columns, Replay alone changes entered and replay.
create table outhook_delivery (
    id           integer primary key, -- in the order of Enqueue
    event        text    not null,
    subscriber   integer not null,
    type         text    not null,
    time         text    not null,
    order_key    text    not null, -- empty: unordered
    hold_on_dead integer not null,
    delay        integer not null,
    ttl          integer not null,
    digest       blob    not null,
    payload      integer,
    entered      integer not null, -- when it was enqueued, or replayed
    replay       integer not null,
    snapshot     blob,
    unique (event, subscriber)
) strict;

-- One row for each delivery that is pending.
create table outhook_pending (
    id         integer primary key,
    subscriber integer not null,
    ready      integer,          -- from when it can be claimed; null: it is behind another one of its order
    due        integer not null, -- its next attempt, or the end of its lease
    expires    integer not null,
    token      integer not null,
    live       integer not null, -- the latest token is that of a lease without an outcome
    attempts   integer not null, -- with an outcome
    unfinished integer not null  -- claims in a row without one
) strict;
create index outhook_pending_ready on outhook_pending (subscriber, ready);

-- The order of the deliveries of a key that are not settled: pending, or dead and holding.
create table outhook_place (
    subscriber integer not null,
    order_key  text    not null,
    delivery   integer not null,
    primary key (subscriber, order_key, delivery)
) strict, without rowid;

-- An ordering key while one of its deliveries is leased, also if that was cancelled meanwhile.
create table outhook_hold (
    subscriber integer not null,
    order_key  text    not null,
    delivery   integer not null,
    until      integer not null,
    primary key (subscriber, order_key)
) strict, without rowid;

-- The history, to which rows are added at its end. One for each outcome but that of a release, and for each Cancel.
create table outhook_outcome (
    id       integer primary key,
    delivery integer not null,
    token    integer not null,
    at       integer not null,
    attempts text,             -- as JSON
    state    text    not null, -- of the one that settled the delivery, until that is replayed; else empty
    reason   text    not null,
    until    integer not null  -- of a Cancel: the end of the lease, when a request may be on the wire
) strict;
create index outhook_outcome_state on outhook_outcome (state, delivery, at);
